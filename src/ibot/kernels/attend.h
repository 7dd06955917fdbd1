/* Attention of short sequences, one image and head at a time: all it needs lies in the cache. Scores
 * are made anew in the backward pass. Products and sums are float32. */

/* Included once for each kind of processor; NAMED(x) is x with the kind's name behind it. */

#ifndef BLOCK
#define BLOCK 48 /* queries at once */
#endif

/* C [M, N] (+)= A [M, K] B [K, N] for MR rows and NV * 16 columns; A by any strides. */
INLINE void NAMED(tile)(int MR, int NV, ptrdiff_t k, const float *a, ptrdiff_t row, ptrdiff_t column,
                 const float *b, ptrdiff_t ldb, float *c, ptrdiff_t ldc, int add) {
    vec sums[6][4];
#pragma GCC unroll 6
    for (int m = 0; m < MR; m++)
#pragma GCC unroll 4
        for (int n = 0; n < NV; n++)
            sums[m][n] = add ? load(c, m * ldc + n * LANES, 0) : (vec){0};
    for (ptrdiff_t i = 0; i < k; i++, a += column, b += ldb) {
        vec right[4];
#pragma GCC unroll 4
        for (int n = 0; n < NV; n++) right[n] = load(b, n * LANES, 0);
#pragma GCC unroll 6
    for (int m = 0; m < MR; m++)
#pragma GCC unroll 4
        for (int n = 0; n < NV; n++) sums[m][n] += a[m * row] * right[n];
    }
#pragma GCC unroll 6
    for (int m = 0; m < MR; m++)
#pragma GCC unroll 4
        for (int n = 0; n < NV; n++) store(c, m * ldc + n * LANES, sums[m][n], 0);
}

INLINE void NAMED(columns)(int NV, ptrdiff_t m, ptrdiff_t k, const float *a, ptrdiff_t row,
                    ptrdiff_t column, const float *b, ptrdiff_t ldb, float *c, ptrdiff_t ldc,
                    int add) {
    for (; m >= 6; m -= 6, a += 6 * row, c += 6 * ldc)
        NAMED(tile)(6, NV, k, a, row, column, b, ldb, c, ldc, add);
    if (m >= 4) {
        NAMED(tile)(4, NV, k, a, row, column, b, ldb, c, ldc, add);
        m -= 4, a += 4 * row, c += 4 * ldc;
    }
    if (m >= 2) {
        NAMED(tile)(2, NV, k, a, row, column, b, ldb, c, ldc, add);
        m -= 2, a += 2 * row, c += 2 * ldc;
    }
    if (m) NAMED(tile)(1, NV, k, a, row, column, b, ldb, c, ldc, add);
}

/* C [m, n] (+)= A [m, k] B [k, n]; n a multiple of 16. */
static __attribute__((noinline)) void NAMED(product)(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k, const float *a, ptrdiff_t row,
                    ptrdiff_t column, const float *b, ptrdiff_t ldb, float *c, ptrdiff_t ldc,
                    int add) {
    while (n > 0) {
        const ptrdiff_t left = n / LANES;
        const int take = left > 5 || left == 4 ? 4 : left == 5 ? 3 : (int)left;
        switch (take) {
            case 4: NAMED(columns)(4, m, k, a, row, column, b, ldb, c, ldc, add); break;
            case 3: NAMED(columns)(3, m, k, a, row, column, b, ldb, c, ldc, add); break;
            case 2: NAMED(columns)(2, m, k, a, row, column, b, ldb, c, ldc, add); break;
            default: NAMED(columns)(1, m, k, a, row, column, b, ldb, c, ldc, add);
        }
        b += take * LANES, c += take * LANES, n -= take * LANES;
    }
}

/* Rows of one head as float32 [tokens, dims], with bias and scaled; `turned` [dims, padded] too. */
INLINE void NAMED(unpack)(const job *j, const void *from, ptrdiff_t at, ptrdiff_t stride,
                   const float *bias, float factor, float *rows, float *turned, ptrdiff_t padded,
                   int half) {
    const ptrdiff_t d = j->dims;
    for (ptrdiff_t t = 0; t < j->tokens; t++)
        for (ptrdiff_t i = 0; i < d; i += LANES) {
            vec v = load(from, at + t * stride + i, half);
            if (bias) v += load(bias, i, 0);
            store(rows, t * d + i, v * factor, 0);
        }
    if (!turned) return;
    for (ptrdiff_t i = 0; i < d; i++) {
        for (ptrdiff_t t = 0; t < j->tokens; t++) turned[i * padded + t] = rows[t * d + i];
        for (ptrdiff_t t = j->tokens; t < padded; t++) turned[i * padded + t] = 0;
    }
}

/* Items are (image, head). branch: queries, keys, values [images, tokens, 3, heads, dims] without
 * their bias; out [images, tokens, heads, dims]; norms: log of the sums of exponentials. */
INLINE void NAMED(attend)(const job *j, ptrdiff_t begin, ptrdiff_t end, float *memory, int half) {
    const ptrdiff_t t = j->tokens, d = j->dims, width = j->heads * d;
    const ptrdiff_t padded = (t + LANES - 1) / LANES * LANES;
    float *q = memory, *k = q + t * d, *v = k + t * d, *kt = v + t * d, *s = kt + d * padded;
    float *mixed = s + BLOCK * padded;
    const float scale = 1.0f / sqrtf((float)d);
    for (ptrdiff_t item = begin; item < end; item++) {
        const ptrdiff_t image = item / j->heads, head = item % j->heads;
        const ptrdiff_t at = image * t * 3 * width + head * d;
        const float *bias = j->bias + head * d;
        NAMED(unpack)(j, j->branch, at, 3 * width, bias, scale, q, NULL, padded, half);
        NAMED(unpack)(j, j->branch, at + width, 3 * width, bias + width, 1, k, kt, padded, half);
        NAMED(unpack)(j, j->branch, at + 2 * width, 3 * width, bias + 2 * width, 1, v, NULL, padded, half);
        for (ptrdiff_t from = 0; from < t; from += BLOCK) {
            const ptrdiff_t m = t - from < BLOCK ? t - from : BLOCK;
            NAMED(product)(m, padded, d, q + from * d, d, 1, kt, padded, s, padded, 0);
            for (ptrdiff_t r = 0; r < m; r++) {
                float *row = s + r * padded;
                for (ptrdiff_t i = t; i < padded; i++) row[i] = -INFINITY;
                vec most = load(row, 0, 0), total = {0};
                for (ptrdiff_t i = LANES; i < padded; i += LANES)
                    most = larger(load(row, i, 0), most);
                const float top = max_of(most);
                for (ptrdiff_t i = 0; i < padded; i += LANES)
                    store(row, i, exponential(load(row, i, 0) - top), 0);
                for (ptrdiff_t i = t; i < padded; i++) row[i] = 0;
                for (ptrdiff_t i = 0; i < padded; i += LANES) total += load(row, i, 0);
                const float sum = sum_of(total);
                j->norms[item * t + from + r] = top + logf(sum);
                q[(from + r) * d] = 1.0f / sum; /* this query is not needed any more */
            }
            NAMED(product)(m, d, t, s, padded, 1, v, d, mixed, d, 0);
            for (ptrdiff_t r = 0; r < m; r++)
                for (ptrdiff_t i = 0; i < d; i += LANES)
                    store(j->out, (image * t + from + r) * width + head * d + i,
                          load(mixed, r * d + i, 0) * q[(from + r) * d], half);
        }
    }
}

/* out2: gradient of queries, keys, values, given that of the output; totals: its sums over tokens.
 * out: the output itself. */
INLINE void NAMED(attend_backward)(const job *j, ptrdiff_t begin, ptrdiff_t end, float *memory,
                            float *totals, int half) {
    const ptrdiff_t t = j->tokens, d = j->dims, width = j->heads * d;
    const ptrdiff_t padded = (t + LANES - 1) / LANES * LANES, size = t * d;
    float *q = memory, *k = q + size, *v = k + size, *g = v + size, *kt = g + size;
    float *vt = kt + d * padded, *s = vt + d * padded, *ds = s + BLOCK * padded;
    float *dq = ds + BLOCK * padded, *dk = dq + size, *dv = dk + size;
    const float scale = 1.0f / sqrtf((float)d);
    for (ptrdiff_t item = begin; item < end; item++) {
        const ptrdiff_t image = item / j->heads, head = item % j->heads;
        const ptrdiff_t at = image * t * 3 * width + head * d, mine = image * t * width + head * d;
        const float *bias = j->bias + head * d;
        NAMED(unpack)(j, j->branch, at, 3 * width, bias, scale, q, NULL, padded, half);
        NAMED(unpack)(j, j->branch, at + width, 3 * width, bias + width, 1, k, kt, padded, half);
        NAMED(unpack)(j, j->branch, at + 2 * width, 3 * width, bias + 2 * width, 1, v, vt, padded, half);
        NAMED(unpack)(j, j->gradient, mine, width, NULL, 1, g, NULL, padded, half);
        for (ptrdiff_t from = 0; from < t; from += BLOCK) {
            const ptrdiff_t m = t - from < BLOCK ? t - from : BLOCK;
            NAMED(product)(m, padded, d, q + from * d, d, 1, kt, padded, s, padded, 0);
            NAMED(product)(m, padded, d, g + from * d, d, 1, vt, padded, ds, padded, 0);
            for (ptrdiff_t r = 0; r < m; r++) {
                float *row = s + r * padded, *slope = ds + r * padded;
                const ptrdiff_t place = mine + (from + r) * width;
                vec common = {0};
                for (ptrdiff_t i = 0; i < d; i += LANES)
                    common += load(g, (from + r) * d + i, 0) * load(j->out, place + i, half);
                const float inner = sum_of(common), norm = j->norms[item * t + from + r];
                for (ptrdiff_t i = 0; i < padded; i += LANES) {
                    const vec p = exponential(load(row, i, 0) - norm);
                    store(row, i, p, 0);
                    store(slope, i, p * (load(slope, i, 0) - inner), 0);
                }
            }
            const int add = from > 0;
            NAMED(product)(t, d, m, s, 1, padded, g + from * d, d, dv, d, add);
            NAMED(product)(t, d, m, ds, 1, padded, q + from * d, d, dk, d, add);
            NAMED(product)(m, d, t, ds, padded, 1, k, d, dq + from * d, d, 0);
        }
        const float *of[3] = {dq, dk, dv};
        for (int part = 0; part < 3; part++) {
            float *sums = totals + part * width + head * d;
            const vec f = all(part == 0 ? scale : 1.0f);
            for (ptrdiff_t r = 0; r < t; r++)
                for (ptrdiff_t i = 0; i < d; i += LANES) {
                    const vec value = f * load(of[part], r * d + i, 0);
                    store(j->out2, at + part * width + r * 3 * width + i, value, half);
                    store(sums, i, load(sums, i, 0) + value, 0);
                }
        }
    }
}
