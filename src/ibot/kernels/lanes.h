/* Sixteen bytes at once: weighted sums, and blocks turned. */

#include "common.h"

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
