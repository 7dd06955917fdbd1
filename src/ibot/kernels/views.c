/* Views of a batch of pictures: crop, resize, flips, colours, blur, solarize, as Pillow rounds them.
 *
 * Pictures come as bytes [H, W, 3], views leave as planes [3, h, w]. One thread; no library but
 * libc and libm; no interface of Python, so that it builds without its headers and runs without its
 * lock (ctypes). What it is given has been checked: views.py is the only caller.
 *
 * Loops are written for the compiler to vectorise. On x86 the whole view is compiled three times and
 * chosen by what the processor has. Fused multiply-adds stay off: they round otherwise than Pillow.
 */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(_MSC_VER)
#define EXPORTED __declspec(dllexport)
#define INLINE static __forceinline
#define restrict __restrict
#else
#define EXPORTED __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))
#endif
#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#define ON_X86 1
#include <immintrin.h>
#else
#define ON_X86 0
#endif

#define INTERFACE 1 /* raised whenever the arguments change; views.py asks for the same */
#define LANES 16
#define PRECISION 22 /* bits of a resize weight, as in Pillow */
#define NO_JITTER 255
#define CHUNK 256

enum { BRIGHTNESS, CONTRAST, SATURATION, HUE };

typedef struct {
    int32_t *first, *count, *weights; /* per output: first input, how many, and their weights */
    int32_t width;                    /* weights kept for each output */
} taps;

/* Weighted sums of bytes, `lanes` (a multiple of 16) of them side by side, `stride` bytes from tap
 * to tap, rounded and clipped. */
typedef void (*summation)(uint8_t *restrict out, const uint8_t *restrict in, ptrdiff_t lanes,
                          ptrdiff_t stride, int32_t count, const int32_t *restrict weights);

typedef struct {
    void *memory[7];
    size_t bytes[7];
    summation sum;
} workspace;

typedef struct {
    const uint8_t *image; /* first byte of the box */
    ptrdiff_t stride;     /* bytes from row to row */
    int32_t box_height, box_width, height, width;
    int flip, vertical_flip, transposed, gray, solarize;
    const float *jitter;
    const uint8_t *order;
    float sigma;
    uint8_t *out; /* [3, height, width] */
} view;

static void *kept(workspace *space, int slot, size_t bytes) {
    if (space->bytes[slot] < bytes) {
        free(space->memory[slot]);
        space->memory[slot] = calloc(bytes, 1);
        space->bytes[slot] = space->memory[slot] ? bytes : 0;
    }
    return space->memory[slot];
}

/* ---- Resize ---- */

static double bicubic(double x) {
    x = fabs(x);
    if (x < 1.0) return ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * -0.5;
    return 0.0;
}

static int32_t round_weight(double weight) {
    return (int32_t)(weight * (1 << PRECISION) + (weight < 0 ? -0.5 : 0.5));
}

static int make_taps(workspace *space, int slot, int32_t size, int32_t outputs, int reversed,
                     taps *made) {
    const double scale = (double)size / outputs, filter_scale = scale < 1.0 ? 1.0 : scale;
    const double support = 2.0 * filter_scale, step = 1.0 / filter_scale;
    made->width = (int32_t)ceil(support) * 2 + 1;
    const size_t weights = (size_t)outputs * made->width;
    int32_t *memory = kept(space, slot, (2 * (size_t)outputs + 2 + weights) * sizeof(int32_t) +
                                            made->width * sizeof(double));
    if (!memory) return -1;
    double *exact = (double *)memory;
    made->first = memory + 2 * made->width;
    made->count = made->first + outputs;
    made->weights = made->count + outputs;
    for (int32_t i = 0; i < outputs; i++) {
        const int32_t place = reversed ? outputs - 1 - i : i;
        const double center = (i + 0.5) * scale;
        int32_t low = (int32_t)(center - support + 0.5), high = (int32_t)(center + support + 0.5);
        if (low < 0) low = 0;
        if (high > size) high = size;
        double sum = 0.0;
        for (int32_t k = 0; k < high - low; k++) {
            exact[k] = bicubic((k + low - center + 0.5) * step);
            sum += exact[k];
        }
        made->first[place] = low;
        made->count[place] = high - low;
        for (int32_t k = 0; k < high - low; k++)
            made->weights[(size_t)place * made->width + k] =
                round_weight(sum != 0.0 ? exact[k] / sum : exact[k]);
    }
    return 0;
}

static void sum_plain(uint8_t *restrict out, const uint8_t *restrict in, ptrdiff_t lanes,
                      ptrdiff_t stride, int32_t count, const int32_t *restrict weights) {
    for (ptrdiff_t start = 0; start < lanes; start += LANES) {
        int32_t sums[LANES];
        for (int i = 0; i < LANES; i++) sums[i] = 1 << (PRECISION - 1);
        for (int32_t k = 0; k < count; k++) {
            const int32_t weight = weights[k];
            const uint8_t *restrict tap = in + start + k * stride;
            for (int i = 0; i < LANES; i++) sums[i] += tap[i] * weight;
        }
        for (int i = 0; i < LANES; i++) {
            const int32_t level = sums[i] >> PRECISION;
            out[start + i] = (uint8_t)(level < 0 ? 0 : level > 255 ? 255 : level);
        }
    }
}

#if ON_X86
/* The same with the sums kept in registers, 16 * n lanes at once. */
#define AVX2 __attribute__((target("avx2")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

INLINE AVX2 void sum_lanes_avx2(uint8_t *out, const uint8_t *in, ptrdiff_t stride, int32_t count,
                                const int32_t *weights, int n) {
    __m256i sums[6];
    for (int i = 0; i < 2 * n; i++) sums[i] = _mm256_set1_epi32(1 << (PRECISION - 1));
    for (int32_t k = 0; k < count; k++, in += stride) {
        const __m256i weight = _mm256_set1_epi32(weights[k]);
        for (int i = 0; i < 2 * n; i++) {
            const __m128i bytes = _mm_loadl_epi64((const __m128i *)(in + 8 * i));
            sums[i] = _mm256_add_epi32(
                sums[i], _mm256_mullo_epi32(_mm256_cvtepu8_epi32(bytes), weight));
        }
    }
    for (int i = 0; i < n; i++) {
        const __m256i words = _mm256_permute4x64_epi64(
            _mm256_packs_epi32(_mm256_srai_epi32(sums[2 * i], PRECISION),
                               _mm256_srai_epi32(sums[2 * i + 1], PRECISION)), 0xd8);
        const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words),
                                               _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128((__m128i *)(out + LANES * i), bytes);
    }
}

AVX2 static void sum_avx2(uint8_t *restrict out, const uint8_t *restrict in, ptrdiff_t lanes,
                          ptrdiff_t stride, int32_t count, const int32_t *restrict weights) {
    ptrdiff_t i = 0;
    for (; i + 3 * LANES <= lanes; i += 3 * LANES)
        sum_lanes_avx2(out + i, in + i, stride, count, weights, 3);
    for (; i < lanes; i += LANES) sum_lanes_avx2(out + i, in + i, stride, count, weights, 1);
}

INLINE AVX512 void sum_lanes_avx512(uint8_t *out, const uint8_t *in, ptrdiff_t stride,
                                    int32_t count, const int32_t *weights, int n) {
    __m512i sums[6];
    for (int i = 0; i < n; i++) sums[i] = _mm512_set1_epi32(1 << (PRECISION - 1));
    for (int32_t k = 0; k < count; k++, in += stride) {
        const __m512i weight = _mm512_set1_epi32(weights[k]);
        for (int i = 0; i < n; i++) {
            const __m128i bytes = _mm_loadu_si128((const __m128i *)(in + LANES * i));
            sums[i] = _mm512_add_epi32(
                sums[i], _mm512_mullo_epi32(_mm512_cvtepu8_epi32(bytes), weight));
        }
    }
    for (int i = 0; i < n; i++) {
        const __m512i levels = _mm512_srai_epi32(sums[i], PRECISION);
        const __m512i positive = _mm512_max_epi32(levels, _mm512_setzero_si512());
        _mm_storeu_si128((__m128i *)(out + LANES * i), _mm512_cvtusepi32_epi8(positive));
    }
}

AVX512 static void sum_avx512(uint8_t *restrict out, const uint8_t *restrict in, ptrdiff_t lanes,
                              ptrdiff_t stride, int32_t count, const int32_t *restrict weights) {
    ptrdiff_t i = 0;
    for (; i + 6 * LANES <= lanes; i += 6 * LANES)
        sum_lanes_avx512(out + i, in + i, stride, count, weights, 6);
    for (; i + 3 * LANES <= lanes; i += 3 * LANES)
        sum_lanes_avx512(out + i, in + i, stride, count, weights, 3);
    for (; i < lanes; i += LANES) sum_lanes_avx512(out + i, in + i, stride, count, weights, 1);
}
#endif

#if defined(__GNUC__)
typedef uint8_t bytes16 __attribute__((vector_size(LANES)));
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (bytes16){__VA_ARGS__})
#endif
#define LOW(a, b) SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define HIGH(a, b) SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)

INLINE void interleave(bytes16 *restrict to, const bytes16 *restrict from) {
    for (int i = 0; i < LANES / 2; i++) {
        to[2 * i] = LOW(from[i], from[i + 8]);
        to[2 * i + 1] = HIGH(from[i], from[i + 8]);
    }
}

/* Transpose 16 x 16 bytes; rows lie `from` and `to` bytes apart. */
INLINE void transpose16(uint8_t *out, ptrdiff_t to, const uint8_t *in, ptrdiff_t from) {
    bytes16 a[LANES], b[LANES];
    for (int i = 0; i < LANES; i++) memcpy(&a[i], in + i * from, LANES);
    interleave(b, a);
    interleave(a, b);
    interleave(b, a);
    interleave(a, b);
    for (int i = 0; i < LANES; i++) memcpy(out + i * to, &a[i], LANES);
}
#else
INLINE void transpose16(uint8_t *out, ptrdiff_t to, const uint8_t *in, ptrdiff_t from) {
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < LANES; j++) out[j * to + i] = in[i * from + j];
}
#endif

/* Up to sixteen rows of `bytes` bytes as columns [bytes, 16]; never reads beyond a row. */
INLINE void load_columns(uint8_t *restrict columns, const uint8_t *in, ptrdiff_t stride,
                         ptrdiff_t bytes, int32_t rows) {
    ptrdiff_t done = 0;
    if (rows >= LANES)
        for (; done + LANES <= bytes; done += LANES)
            transpose16(columns + done * LANES, LANES, in + done, stride);
    for (; done < bytes; done += LANES) {
        uint8_t block[LANES * LANES];
        const size_t width = (size_t)(bytes - done < LANES ? bytes - done : LANES);
        memset(block, 0, sizeof block);
        for (int32_t i = 0; i < LANES && i < rows; i++)
            memcpy(block + i * LANES, in + i * stride + done, width);
        transpose16(columns + done * LANES, LANES, block, LANES);
    }
}

/* Rows of pixels [rows, 3 * pixels] to rows of lines [rows up to a multiple of 16, 3, padded]. */
INLINE int resize_across(uint8_t *lines, ptrdiff_t padded, const uint8_t *in, ptrdiff_t stride,
                         int32_t rows, int32_t pixels, const taps *taps, int32_t width,
                         workspace *space) {
    const ptrdiff_t bytes = 3 * (ptrdiff_t)pixels;
    uint8_t *columns = kept(space, 2, (size_t)((bytes + LANES) * LANES));
    uint8_t *resized = kept(space, 3, (size_t)(3 * padded * LANES));
    if (!columns || !resized) return -1;
    for (int32_t row = 0; row < rows; row += LANES, lines += LANES * 3 * padded) {
        load_columns(columns, in + row * stride, stride, bytes, rows - row);
        for (int32_t x = 0; x < width; x++)
            space->sum(resized + (ptrdiff_t)x * 3 * LANES,
                       columns + (ptrdiff_t)taps->first[x] * 3 * LANES, 3 * LANES, 3 * LANES,
                       taps->count[x], taps->weights + (ptrdiff_t)x * taps->width);
        for (int c = 0; c < 3; c++)
            for (ptrdiff_t x = 0; x < padded; x += LANES)
                transpose16(lines + c * padded + x, 3 * padded, resized + (3 * x + c) * LANES,
                            3 * LANES);
    }
    return 0;
}

/* Row y of the output from rows of `bytes` bytes; never reads beyond a row. */
INLINE int resize_down(uint8_t *out, const uint8_t *in, ptrdiff_t stride, ptrdiff_t bytes,
                       const taps *taps, int32_t y, workspace *space) {
    const int32_t count = taps->count[y], *weights = taps->weights + (ptrdiff_t)y * taps->width;
    const ptrdiff_t lanes = bytes / LANES * LANES;
    in += taps->first[y] * stride;
    space->sum(out, in, lanes, stride, count, weights);
    if (lanes < bytes) {
        uint8_t *rest = kept(space, 3, (size_t)(count + 1) * LANES);
        if (!rest) return -1;
        for (int32_t k = 0; k < count; k++)
            memcpy(rest + k * LANES, in + k * stride + lanes, (size_t)(bytes - lanes));
        space->sum(rest + count * LANES, rest, LANES, LANES, count, weights);
        memcpy(out + lanes, rest + count * LANES, (size_t)(bytes - lanes));
    }
    return 0;
}

INLINE void copy_planes(uint8_t *out, const view *v, int32_t y, const uint8_t *line,
                        ptrdiff_t padded) {
    for (int c = 0; c < 3; c++)
        memcpy(out + ((ptrdiff_t)c * v->height + y) * v->width, line + c * padded,
               (size_t)v->width);
}

/* Box to `out` [3, height, width], rounded to bytes between the two passes. As in Pillow 13, rows
 * are merged first where there is more to lose that way; versions before never did. */
INLINE int resize(const view *v, workspace *space, uint8_t *out) {
    const int32_t height = v->height, width = v->width;
    const int32_t fewer_rows = v->box_height - height, fewer_columns = v->box_width - width;
    const int down_first = fewer_rows > 2 * (fewer_columns > 0 ? fewer_columns : 0);
    const int32_t rows = down_first ? height : v->box_height;
    const ptrdiff_t padded = ((ptrdiff_t)width + LANES - 1) / LANES * LANES;
    const ptrdiff_t bytes = 3 * (ptrdiff_t)v->box_width;
    taps across, down;
    if (make_taps(space, 0, v->box_width, width, v->flip, &across) ||
        make_taps(space, 1, v->box_height, height, v->vertical_flip, &down))
        return -1;
    uint8_t *lines = kept(space, 4, ((size_t)rows + LANES) * 3 * (size_t)padded);
    uint8_t *merged = kept(space, 6, down_first ? (size_t)(height * bytes) : (size_t)(3 * padded));
    if (!lines || !merged) return -1;
    if (down_first) {
        for (int32_t y = 0; y < height; y++)
            if (resize_down(merged + y * bytes, v->image, v->stride, bytes, &down, y, space))
                return -1;
        if (resize_across(lines, padded, merged, bytes, rows, v->box_width, &across, width, space))
            return -1;
        for (int32_t y = 0; y < height; y++)
            copy_planes(out, v, y, lines + y * 3 * padded, padded);
        return 0;
    }
    if (resize_across(lines, padded, v->image, v->stride, rows, v->box_width, &across, width,
                      space))
        return -1;
    for (int32_t y = 0; y < height; y++) {
        if (resize_down(merged, lines, 3 * padded, 3 * padded, &down, y, space)) return -1;
        copy_planes(out, v, y, merged, padded);
    }
    return 0;
}

/* ---- Colours: planes of n bytes, changed where they lie ---- */

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

/* ---- Blur: three box blurs each way, of Pillow's fractional radius ---- */

typedef struct {
    int32_t radius;
    uint32_t inner, outer; /* weights of 2^24: of the levels within the radius, of the two beyond */
} box_blur;

static box_blur box_of(float sigma) {
    const float variance = sigma * sigma / 3;
    const float length = (float)sqrt(12.0 * variance + 1.0), whole = (float)floor((length - 1.0) / 2.0);
    float part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance);
    part /= 6 * (variance - (whole + 1) * (whole + 1));
    const float radius = whole + part;
    box_blur made = {(int32_t)radius, 0, 0};
    made.inner = (uint32_t)((float)(1 << 24) / (radius * 2 + 1));
    made.outer = ((1u << 24) - (uint32_t)(made.radius * 2 + 1) * made.inner) / 2;
    return made;
}

/* n levels of a line; level i is the box around in[0][i], in[1][i], .. in[2 radius + 2][i]. */
INLINE void blur_line(uint8_t *restrict out, const uint8_t *const *in, ptrdiff_t n, box_blur box) {
    const uint32_t inner = box.inner, outer = box.outer;
    const uint8_t *first = in[0], *last = in[2 * box.radius + 2];
    if (box.radius == 0) {
        const uint8_t *middle = in[1];
        for (ptrdiff_t i = 0; i < n; i++)
            out[i] = (uint8_t)((middle[i] * inner + (uint32_t)(first[i] + last[i]) * outer +
                                (1u << 23)) >> 24);
        return;
    }
    for (ptrdiff_t start = 0; start < n; start += CHUNK) {
        const ptrdiff_t size = n - start < CHUNK ? n - start : CHUNK;
        uint32_t sums[CHUNK];
        for (ptrdiff_t i = 0; i < size; i++) sums[i] = in[1][start + i];
        for (int32_t k = 2; k < 2 * box.radius + 2; k++) {
            const uint8_t *tap = in[k] + start;
            for (ptrdiff_t i = 0; i < size; i++) sums[i] += tap[i];
        }
        for (ptrdiff_t i = 0; i < size; i++)
            out[start + i] = (uint8_t)((sums[i] * inner +
                                        (uint32_t)(first[start + i] + last[start + i]) * outer +
                                        (1u << 23)) >> 24);
    }
}

INLINE int blur(uint8_t *plane, int32_t height, int32_t width, box_blur box, workspace *space) {
    const int32_t reach = box.radius + 1, count = 2 * box.radius + 3;
    const ptrdiff_t line_bytes = (ptrdiff_t)width + 2 * reach, n = (ptrdiff_t)height * width;
    uint8_t *memory = kept(space, 5, (size_t)count * sizeof(uint8_t *) +
                                         (size_t)(2 * line_bytes + 2 * n));
    if (!memory) return -1;
    const uint8_t **in = (const uint8_t **)memory;
    uint8_t *line = memory + count * sizeof(uint8_t *), *other = line + line_bytes;
    for (int32_t y = 0; y < height; y++) {
        uint8_t *row = plane + (ptrdiff_t)y * width, *from = line, *to = other;
        memcpy(from + reach, row, (size_t)width);
        for (int pass = 0; pass < 3; pass++) {
            memset(from, from[reach], (size_t)reach);
            memset(from + reach + width, from[reach + width - 1], (size_t)reach);
            for (int32_t k = 0; k < count; k++) in[k] = from + k;
            blur_line(pass == 2 ? row : to + reach, in, width, box);
            uint8_t *next = to;
            to = from;
            from = next;
        }
    }
    uint8_t *planes[4] = {plane, other + line_bytes, other + line_bytes + n, plane};
    for (int pass = 0; pass < 3; pass++)
        for (int32_t y = 0; y < height; y++) {
            for (int32_t k = 0; k < count; k++) {
                const int32_t at = y + k - reach;
                in[k] = planes[pass] +
                        (ptrdiff_t)(at < 0 ? 0 : at >= height ? height - 1 : at) * width;
            }
            blur_line(planes[pass + 1] + (ptrdiff_t)y * width, in, width, box);
        }
    return 0;
}

/* ---- A view, and all of them ---- */

static void transpose_planes(uint8_t *out, const uint8_t *in, int32_t height, int32_t width) {
    for (int c = 0; c < 3; c++, in += (ptrdiff_t)height * width, out += (ptrdiff_t)height * width)
        for (int32_t y = 0; y < height; y++)
            for (int32_t x = 0; x < width; x++)
                out[(ptrdiff_t)x * height + y] = in[(ptrdiff_t)y * width + x];
}

INLINE int make_view(const view *v, workspace *space) {
    const ptrdiff_t n = (ptrdiff_t)v->height * v->width;
    uint8_t *resized = v->out;
    if (v->transposed && !(resized = malloc((size_t)(3 * n)))) return -1;
    int failed = resize(v, space, resized);
    if (v->transposed) {
        if (!failed) transpose_planes(v->out, resized, v->height, v->width);
        free(resized);
    }
    if (failed) return -1;
    if (v->order[0] != NO_JITTER) jitter(v, n);
    if (v->gray) make_gray(v->out, v->out + n, v->out + 2 * n, n);
    const int planes = v->gray ? 1 : 3; /* three planes that are equal are made once */
    if (v->sigma > 0) {
        const box_blur box = box_of(v->sigma);
        for (int c = 0; c < planes; c++)
            if (blur(v->out + c * n, v->height, v->width, box, space)) return -1;
    }
    if (v->solarize) invert_light(v->out, planes * n);
    for (int c = planes; c < 3; c++) memcpy(v->out + c * n, v->out, (size_t)n);
    return 0;
}

typedef int (*view_maker)(const view *, workspace *);

static int make_view_plain(const view *v, workspace *space) { return make_view(v, space); }
#if ON_X86
AVX2 static int make_view_avx2(const view *v, workspace *space) { return make_view(v, space); }
AVX512 static int make_view_avx512(const view *v, workspace *space) { return make_view(v, space); }
#endif

/* By what the processor has, up to `level`: 2 is AVX-512, 1 AVX2. */
static view_maker choose(int32_t level, workspace *space) {
#if ON_X86
    __builtin_cpu_init();
    if (level >= 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        space->sum = sum_avx512;
        return make_view_avx512;
    }
    if (level >= 1 && __builtin_cpu_supports("avx2")) {
        space->sum = sum_avx2;
        return make_view_avx2;
    }
#endif
    (void)level;
    space->sum = sum_plain;
    return make_view_plain;
}

EXPORTED int32_t ibot_views_interface(void) { return INTERFACE; }

/* Views [V, B, 3, h, w] of B pictures: the first `num_global` to `global_views`, the others to
 * `local_views`. Arrays of parameters as in ibot.types.ViewParams. Returns 0, or -1 without memory. */
EXPORTED int32_t ibot_views(int32_t level, int64_t num_images, const uint8_t *const *images,
                            const int64_t *strides, int32_t num_views, int32_t num_global,
                            const int32_t *sizes, const int32_t *box, const uint8_t *flip,
                            const uint8_t *vertical_flip, const uint8_t *turn, const float *jitter,
                            const uint8_t *order, const uint8_t *gray, const float *sigma,
                            const uint8_t *solarize, uint8_t *global_views, uint8_t *local_views) {
    workspace space = {{0}, {0}, NULL};
    const view_maker maker = choose(level, &space);
    int failed = 0;
    for (int64_t row = 0; row < num_images && !failed; row++)
        for (int32_t number = 0; number < num_views && !failed; number++) {
            const int64_t i = row * num_views + number;
            const int is_global = number < num_global, turned = turn[i];
            const int32_t *place = box + 4 * i, *size = sizes + (is_global ? 0 : 2);
            const int64_t among = (is_global ? number : number - num_global) * num_images + row;
            view v = {0};
            v.stride = (ptrdiff_t)strides[row];
            v.image = images[row] + place[0] * v.stride + 3 * (ptrdiff_t)place[1];
            v.box_height = place[2], v.box_width = place[3];
            v.height = size[0], v.width = size[1];
            /* Two quarter turns are both flips; one is a flip, then rows and columns swapped. */
            v.flip = (flip[i] != 0) ^ (turned == 1 || turned == 2);
            v.vertical_flip = (vertical_flip[i] != 0) ^ (turned == 2 || turned == 3);
            v.transposed = turned & 1;
            v.jitter = jitter + 4 * i, v.order = order + 4 * i;
            v.gray = gray[i], v.sigma = sigma[i], v.solarize = solarize[i];
            v.out = (is_global ? global_views : local_views) + among * 3 * size[0] * size[1];
            failed = maker(&v, &space);
        }
    for (int slot = 0; slot < 7; slot++) free(space.memory[slot]);
    return failed ? -1 : 0;
}

/* Windows' linker wants the initialiser of a module; nobody imports this one. */
EXPORTED void *PyInit__views(void);
EXPORTED void *PyInit__views(void) { return NULL; }
