/* Gaussian blur as Pillow does it: three box blurs each way, of a fractional radius. */

#include "common.h"

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
