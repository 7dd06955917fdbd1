/* What the parts of views.c share: a view to be made, its memory, and how code is compiled. */

#ifndef IBOT_COMMON_H
#define IBOT_COMMON_H

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

#endif
