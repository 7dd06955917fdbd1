/* Row by row: layer norm, GELU, residuals, each forward and backward, with the biases and the sums
 * of their gradients on the way. `half`: branches are bfloat16, else float32; the stream of tokens,
 * statistics and all sums are float32. Widths are multiples of 16. */

#ifndef IBOT_ROWS_H
#define IBOT_ROWS_H

#include "vectors.h"

typedef struct {
    ptrdiff_t rows, width;
    float eps;
    const float *x, *factor;                /* [rows, width]; [rows], or null: 1 */
    const void *branch, *gradient;          /* [rows, width] */
    const float *bias, *weight, *norm_bias; /* [width] */
    float *sum, *stats;                     /* [rows, width]; [2, rows]: mean, 1 / deviation */
    void *out, *out2;                       /* [rows, width] */
    float *totals;                          /* of each thread [up to 3, width] */
    /* attention */
    ptrdiff_t images, tokens, heads, dims;
    float *memory, *norms;                  /* scratch of each thread; [images, heads, tokens] */
    ptrdiff_t memory_each;
} job;

/* out = LayerNorm(x + factor * (branch + bias)); sum: what is inside of the norm. Without branch the
 * norm alone, without weight the sum alone. */
INLINE void add_norm(const job *j, ptrdiff_t begin, ptrdiff_t end, int half) {
    const ptrdiff_t d = j->width;
    for (ptrdiff_t r = begin; r < end; r++) {
        const float *row = j->x + r * d;
        vec total = {0}, second = {0};
        if (j->branch) {
            const vec f = all(j->factor ? j->factor[r] : 1.0f);
            for (ptrdiff_t i = 0; i < d; i += LANES) {
                const vec b = load(j->branch, r * d + i, half) + load(j->bias, i, 0);
                const vec v = load(row, i, 0) + f * b;
                store(j->sum, r * d + i, v, 0);
                total += v;
            }
            row = j->sum + r * d;
        } else {
            for (ptrdiff_t i = 0; i < d; i += LANES) total += load(row, i, 0);
        }
        if (!j->weight) continue;
        const float mean = sum_of(total) / (float)d;
        for (ptrdiff_t i = 0; i < d; i += LANES) {
            const vec v = load(row, i, 0) - mean;
            second += v * v;
        }
        const float scale = 1.0f / sqrtf(sum_of(second) / (float)d + j->eps);
        j->stats[r] = mean;
        j->stats[j->rows + r] = scale;
        for (ptrdiff_t i = 0; i < d; i += LANES) {
            const vec v = (load(row, i, 0) - mean) * scale;
            store(j->out, r * d + i, v * load(j->weight, i, 0) + load(j->norm_bias, i, 0), half);
        }
    }
}

/* sum = x (the gradient behind the residual) + the gradient of the norm of `branch` (float32, what
 * was normalised) given that of its output. out: the norm's output anew; out2 = factor * sum, for
 * the branch before. totals: gradients of weight, bias, and sums of out2. */
INLINE void norm_backward(const job *j, ptrdiff_t begin, ptrdiff_t end, float *totals, int half) {
    const ptrdiff_t d = j->width;
    float *restrict of_weight = totals, *restrict of_bias = totals + d, *of_branch = totals + 2 * d;
    for (ptrdiff_t r = begin; r < end; r++) {
        const float *inside = (const float *)j->branch + r * d, *behind = j->x + r * d;
        const float mean = j->stats[r], scale = j->stats[j->rows + r];
        vec first = {0}, second = {0};
        for (ptrdiff_t i = 0; i < d; i += LANES) {
            const vec g = load(j->gradient, r * d + i, half), w = load(j->weight, i, 0);
            const vec unit = (load(inside, i, 0) - mean) * scale;
            first += g * w;
            second += g * w * unit;
            store(of_weight, i, load(of_weight, i, 0) + g * unit, 0);
            store(of_bias, i, load(of_bias, i, 0) + g, 0);
            store(j->out, r * d + i, unit * w + load(j->norm_bias, i, 0), half);
        }
        const float a = sum_of(first) / (float)d, b = sum_of(second) / (float)d;
        const vec f = all(j->factor ? j->factor[r] : 1.0f);
        for (ptrdiff_t i = 0; i < d; i += LANES) {
            const vec g = load(j->gradient, r * d + i, half) * load(j->weight, i, 0);
            const vec unit = (load(inside, i, 0) - mean) * scale;
            const vec v = load(behind, i, 0) + scale * (g - a - unit * b);
            store(j->sum, r * d + i, v, 0);
            if (!j->out2) continue;
            store(j->out2, r * d + i, f * v, half);
            store(of_branch, i, load(of_branch, i, 0) + f * v, 0);
        }
    }
}

/* out = factor * x, and its sums over rows. */
INLINE void scale(const job *j, ptrdiff_t begin, ptrdiff_t end, float *totals, int half) {
    const ptrdiff_t d = j->width;
    for (ptrdiff_t r = begin; r < end; r++) {
        const vec f = all(j->factor ? j->factor[r] : 1.0f);
        for (ptrdiff_t i = 0; i < d; i += LANES) {
            const vec v = f * load(j->x, r * d + i, 0);
            if (j->out) store(j->out, r * d + i, v, half);
            store(totals, i, load(totals, i, 0) + v, 0);
        }
    }
}

/* out = GELU(branch + bias). */
INLINE void gelu(const job *j, ptrdiff_t begin, ptrdiff_t end, int half) {
    const ptrdiff_t d = j->width;
    for (ptrdiff_t r = begin; r < end; r++)
        for (ptrdiff_t i = 0; i < d; i += LANES) {
            vec bell;
            const vec x = load(j->branch, r * d + i, half) + load(j->bias, i, 0);
            store(j->out, r * d + i, x * normal_share(x, &bell), half);
        }
}

/* out2: that of GELU's input, given that of its output (they may be one); out: GELU's output anew;
 * totals: sums of out2. */
INLINE void gelu_backward(const job *j, ptrdiff_t begin, ptrdiff_t end, float *totals, int half) {
    const ptrdiff_t d = j->width;
    for (ptrdiff_t r = begin; r < end; r++)
        for (ptrdiff_t i = 0; i < d; i += LANES) {
            vec bell;
            const vec x = load(j->branch, r * d + i, half) + load(j->bias, i, 0);
            const vec share = normal_share(x, &bell);
            const vec slope = share + x * bell * 0.3989422804f;
            const vec g = load(j->gradient, r * d + i, half) * slope;
            store(j->out, r * d + i, x * share, half);
            store(j->out2, r * d + i, g, half);
            store(totals, i, load(totals, i, 0) + g, 0);
        }
}

#endif
