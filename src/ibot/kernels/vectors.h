/* Sixteen floats side by side, for the compiler to map onto whatever the processor has; tensors of
 * float32 or bfloat16 in memory; exp and the Gaussian to float rounding. */

#ifndef IBOT_VECTORS_H
#define IBOT_VECTORS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define EXPORTED __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))
#define LANES 16

typedef float vec __attribute__((vector_size(64)));
typedef int32_t veci __attribute__((vector_size(64)));
typedef uint32_t vecu __attribute__((vector_size(64)));
typedef uint16_t vech __attribute__((vector_size(32)));
typedef float loose __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t looseh __attribute__((vector_size(32), aligned(2), may_alias));

/* Element i of a tensor of float32, or of bfloat16 where `half`. */
INLINE vec load(const void *p, ptrdiff_t i, int half) {
    if (!half) return *(const loose *)((const float *)p + i);
    const vech raw = *(const looseh *)((const uint16_t *)p + i);
    return (vec)(__builtin_convertvector(raw, vecu) << 16);
}

INLINE void store(void *p, ptrdiff_t i, vec v, int half) {
    if (!half) {
        *(loose *)((float *)p + i) = v;
        return;
    }
    const vecu bits = (vecu)v;
    const vecu rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16; /* to nearest, ties to even */
    *(looseh *)((uint16_t *)p + i) = __builtin_convertvector(rounded, vech);
}

INLINE vec all(float x) { return x - (vec){0}; }

INLINE vec pick(veci where, vec yes, vec no) {
    return (vec)(((veci)yes & where) | ((veci)no & ~where));
}

INLINE vec larger(vec a, vec b) { return pick(a > b, a, b); }

/* Halves on halves: four steps in place of sixteen. */
#define FOLD(v, with)                                                                             \
    v = with(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7)); \
    v = with(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11)); \
    v = with(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13)); \
    v = with(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14))

INLINE vec plus(vec a, vec b) { return a + b; }

INLINE float sum_of(vec v) {
    FOLD(v, plus);
    return v[0];
}

INLINE float max_of(vec v) {
    FOLD(v, larger);
    return v[0];
}

/* e^x for x <= 88 or so, within 2 units in the last place; below -87.3 the smallest normal number.
 * What is not finite stays that. */
INLINE vec exponential(vec x) {
    const vec low = all(-87.33f), magic = all(12582912.0f); /* 1.5 * 2^23: adding it rounds */
    const vec kept = pick(x < low, low, x);
    const vec n = (kept * 1.44269504f + magic) - magic;
    const vec r = (kept - n * 0.693145752f) - n * 1.42860677e-6f;
    vec p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const veci power = (__builtin_convertvector(n, veci) + 127) << 23;
    return p * (vec)power;
}

/* Share of the standard normal distribution below x, and e^(-x^2/2): what GELU and its slope are
 * made of. The tail is e^(-x^2/2) times a polynomial in 1 / (1 + 0.4 |x|), fitted to a relative
 * 1e-7. */
INLINE vec normal_share(vec x, vec *bell) {
    const vec size = (vec)((veci)x & 0x7fffffff);
    const vec e = exponential(x * x * -0.5f);
    const vec t = 1.0f / (1.0f + 0.4f * size);
    vec p = all(-4.016418796e-02f);
    p = p * t + 2.030577471e-01f;
    p = p * t - 3.781928628e-01f;
    p = p * t + 2.555080540e-01f;
    p = p * t - 1.510759336e-02f;
    p = p * t + 1.594116727e-01f;
    p = p * t + 1.555708585e-01f;
    p = p * t + 1.599294935e-01f;
    p = p * t - 1.321601072e-05f;
    const vec tail = p * e;
    *bell = e;
    return pick(x > 0, 1.0f - tail, tail);
}

#endif
