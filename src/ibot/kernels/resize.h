/* Crop and antialiased bicubic resize in two passes, with Pillow's weights and rounding. */

#include "lanes.h"

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
