/* Colours of planes of n bytes, changed where they lie. */

#include "common.h"

INLINE uint8_t luma(uint8_t r, uint8_t g, uint8_t b) {
    return (uint8_t)((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16);
}

/* Pillow's blend: a single-precision sum, clipped and truncated. */
INLINE uint8_t blend(float base, float level, float factor) {
    const float mixed = base + factor * (level - base);
    return (uint8_t)(int32_t)(mixed < 0.0f ? 0.0f : mixed > 255.0f ? 255.0f : mixed);
}

INLINE void blend_with(uint8_t *restrict levels, ptrdiff_t n, float base, float factor) {
    for (ptrdiff_t i = 0; i < n; i++) levels[i] = blend(base, levels[i], factor);
}

INLINE float mean_luma(const uint8_t *restrict r, const uint8_t *restrict g,
                       const uint8_t *restrict b, ptrdiff_t n) {
    int64_t sum = 0;
    for (ptrdiff_t start = 0; start < n; start += 1 << 16) {
        const ptrdiff_t end = n - start < 1 << 16 ? n : start + (1 << 16);
        uint32_t part = 0;
        for (ptrdiff_t i = start; i < end; i++) part += luma(r[i], g[i], b[i]);
        sum += part;
    }
    return (float)(int32_t)((double)sum / (double)n + 0.5);
}

INLINE void saturate(uint8_t *restrict r, uint8_t *restrict g, uint8_t *restrict b, ptrdiff_t n,
                     float factor) {
    for (ptrdiff_t i = 0; i < n; i++) {
        const float gray = luma(r[i], g[i], b[i]);
        r[i] = blend(gray, r[i], factor);
        g[i] = blend(gray, g[i], factor);
        b[i] = blend(gray, b[i], factor);
    }
}

INLINE void make_gray(uint8_t *restrict r, const uint8_t *restrict g, const uint8_t *restrict b,
                      ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++) r[i] = luma(r[i], g[i], b[i]);
}

/* Whole part of 255 * share: with the rounding error of the product made up for, so that a share
 * just below a level stays below it, as in Pillow's double precision. */
INLINE int32_t to_level(float share) {
    const float product = share * 255.0f;
    const int32_t level = (int32_t)product;
    const float coarse = (float)(int32_t)(share * 4096.0f) * (1.0f / 4096.0f);
    const float left = (coarse * 255.0f - (float)level) + (share - coarse) * 255.0f;
    return level - (left < 0.0f);
}

/* One of two numbers, without a branch. */
INLINE int32_t pick(int condition, int32_t one, int32_t other) {
    return other ^ (-condition & (one ^ other));
}

/* One channel of HSV bytes; `six` is six times the hue, 255 to a sector, moved by the channel.
 * From its own sector on, a channel falls from v to v (1 - s) in one sector, and rises likewise. */
INLINE uint8_t from_hue(int32_t value, int32_t saturation, int32_t six) {
    const int32_t place = six - (six >= 1530 ? 1530 : 0);
    const int32_t nearer = place < 1020 - place ? place : 1020 - place;
    const int32_t share = nearer < 0 ? 0 : nearer > 255 ? 255 : nearer;
    const int32_t level = value * (65025 - saturation * share); /* below 2^24: exact as a float */
    return (uint8_t)(int32_t)((float)level * (1.0f / 65025.0f) + 0.5f);
}

/* Pillow's way to HSV bytes, the hue moved, and back. */
INLINE void shift_hue(uint8_t *restrict red, uint8_t *restrict green, uint8_t *restrict blue,
                      ptrdiff_t n, int32_t offset) {
    for (ptrdiff_t i = 0; i < n; i++) {
        const int32_t r = red[i], g = green[i], b = blue[i];
        const int32_t rg_high = r > g ? r : g, rg_low = r < g ? r : g;
        const int32_t value = rg_high > b ? rg_high : b, lowest = rg_low < b ? rg_low : b;
        const int32_t range = value - lowest;
        const int from_red = r == value, from_green = g == value;
        const int32_t up = value - pick(from_red, b, pick(from_green, r, g));
        const int32_t down = value - pick(from_red, g, pick(from_green, b, r));
        const float base = (float)pick(from_red, 0, pick(from_green, 2, 4));
        const float divisor = (float)(range + (range == 0));
        const float sixths = base + (float)up / divisor - (float)down / divisor;
        const float turn = sixths * (1.0f / 6.0f), around = turn + (float)(turn < 0.0f);
        const int32_t s = to_level((float)range / (float)(value + (value == 0)));
        const int32_t six = ((to_level(around) + offset) & 255) * 6;
        red[i] = from_hue(value, s, six + 5 * 255);
        green[i] = from_hue(value, s, six + 3 * 255);
        blue[i] = from_hue(value, s, six + 255);
    }
}

INLINE void jitter(const view *v, ptrdiff_t n) {
    uint8_t *r = v->out, *g = r + n, *b = g + n;
    for (int i = 0; i < 4; i++) {
        const int operation = v->order[i];
        const float factor = v->jitter[operation];
        if (operation == SATURATION)
            saturate(r, g, b, n, factor);
        else if (operation == HUE)
            shift_hue(r, g, b, n, (int32_t)((double)factor * 255));
        else
            blend_with(r, 3 * n, operation == CONTRAST ? mean_luma(r, g, b, n) : 0.0f, factor);
    }
}

INLINE void invert_light(uint8_t *restrict levels, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++)
        levels[i] = (uint8_t)(levels[i] < 128 ? levels[i] : 255 - levels[i]);
}
