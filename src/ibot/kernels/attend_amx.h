/* Attention of bfloat16 by matrix tiles (AMX): products of bfloat16, sums and softmax in float32.
 * What attend.h computes, for dims that are a multiple of 32; tokens are filled up to one. */

#define QUERIES 32 /* at once; keys in the backward pass */

typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} tile_layout;

INLINE void store_native(uint16_t *p, ptrdiff_t i, vec v) {
    *(looseh *)(p + i) = (vech)_mm512_cvtneps_pbh((__m512)v);
}

static void configure(void) {
    tile_layout layout = {.palette = 1};
    for (int i = 0; i < 8; i++) layout.bytes[i] = 64, layout.rows[i] = 16;
    /* The intrinsic names its first eight bytes alone, and a compiler may leave out the rest. */
    __asm__ volatile("" : : "r"(&layout) : "memory");
    _tile_loadconfig(&layout);
}

/* C [m, n] (+)= A [m, k] B [k, n], all multiples of 32; B as [k / 2, n] pairs. */
static __attribute__((noinline)) void tiles(ptrdiff_t m, ptrdiff_t n, ptrdiff_t k,
                                            const uint16_t *a, ptrdiff_t lda, const uint32_t *b,
                                            ptrdiff_t ldb, float *c, ptrdiff_t ldc, int add) {
    for (ptrdiff_t i = 0; i < m; i += 32)
        for (ptrdiff_t j = 0; j < n; j += 32) {
            float *out = c + i * ldc + j, *below = out + 16 * ldc;
            if (add) {
                _tile_loadd(0, out, ldc * 4);
                _tile_loadd(1, out + 16, ldc * 4);
                _tile_loadd(2, below, ldc * 4);
                _tile_loadd(3, below + 16, ldc * 4);
            } else {
                _tile_zero(0);
                _tile_zero(1);
                _tile_zero(2);
                _tile_zero(3);
            }
            for (ptrdiff_t l = 0; l < k; l += 32) {
                _tile_loadd(4, a + i * lda + l, lda * 2);
                _tile_loadd(5, a + (i + 16) * lda + l, lda * 2);
                _tile_loadd(6, b + l / 2 * ldb + j, ldb * 4);
                _tile_loadd(7, b + l / 2 * ldb + j + 16, ldb * 4);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
            _tile_stored(0, out, ldc * 4);
            _tile_stored(1, out + 16, ldc * 4);
            _tile_stored(2, below, ldc * 4);
            _tile_stored(3, below + 16, ldc * 4);
        }
}

/* Rows of one head [padded, dims], with bias; zero behind the tokens. */
static void head_rows(const job *j, const void *from, ptrdiff_t at, ptrdiff_t stride,
                      const float *bias, uint16_t *rows, ptrdiff_t padded) {
    const ptrdiff_t d = j->dims;
    for (ptrdiff_t t = 0; t < j->tokens; t++)
        for (ptrdiff_t i = 0; i < d; i += LANES) {
            vec v = load(from, at + t * stride + i, 1);
            if (bias) v += load(bias, i, 0);
            store_native(rows, t * d + i, v);
        }
    memset(rows + j->tokens * d, 0, (size_t)((padded - j->tokens) * d * 2));
}

/* Rows [n, d] as the right side of a product over d: pairs [d / 2, n]. */
static void turned_pairs(const uint16_t *rows, ptrdiff_t n, ptrdiff_t d, uint32_t *out) {
    const uint32_t *pairs = (const uint32_t *)(const void *)rows;
    for (ptrdiff_t i = 0; i < d / 2; i++)
        for (ptrdiff_t t = 0; t < n; t++) out[i * n + t] = pairs[t * (d / 2) + i];
}

/* Rows [n, d] as the right side of a product over n: pairs [n / 2, d]. */
static void row_pairs(const uint16_t *rows, ptrdiff_t n, ptrdiff_t d, uint32_t *out) {
    for (ptrdiff_t t = 0; t < n / 2; t++)
        for (ptrdiff_t i = 0; i < d; i++)
            out[t * d + i] = rows[2 * t * d + i] | (uint32_t)rows[(2 * t + 1) * d + i] << 16;
}

static void attend_amx(const job *j, ptrdiff_t begin, ptrdiff_t end, float *memory) {
    const ptrdiff_t t = j->tokens, d = j->dims, width = j->heads * d;
    const ptrdiff_t padded = (t + 31) / 32 * 32, each = padded * d / 2;
    uint16_t *q = (uint16_t *)memory, *p = (uint16_t *)(memory + 3 * each);
    uint32_t *kt = (uint32_t *)(memory + each), *v = (uint32_t *)(memory + 2 * each);
    float *s = memory + 3 * each + QUERIES * padded / 2, *mixed = s + QUERIES * padded;
    const float scale = 1.0f / sqrtf((float)d);
    configure();
    for (ptrdiff_t item = begin; item < end; item++) {
        const ptrdiff_t image = item / j->heads, head = item % j->heads;
        const ptrdiff_t at = image * t * 3 * width + head * d;
        const float *bias = j->bias + head * d;
        head_rows(j, j->branch, at + width, 3 * width, bias + width, q, padded);
        turned_pairs(q, padded, d, kt);
        head_rows(j, j->branch, at + 2 * width, 3 * width, bias + 2 * width, q, padded);
        row_pairs(q, padded, d, v);
        head_rows(j, j->branch, at, 3 * width, bias, q, padded);
        for (ptrdiff_t from = 0; from < t; from += QUERIES) {
            const ptrdiff_t m = t - from < QUERIES ? t - from : QUERIES;
            float inverse[QUERIES];
            tiles(QUERIES, padded, d, q + from * d, d, kt, padded, s, padded, 0);
            for (ptrdiff_t r = 0; r < m; r++) {
                float *row = s + r * padded;
                for (ptrdiff_t i = t; i < padded; i++) row[i] = -INFINITY;
                vec most = load(row, 0, 0), total = {0};
                for (ptrdiff_t i = LANES; i < padded; i += LANES)
                    most = larger(load(row, i, 0), most);
                const float top = max_of(most) * scale;
                for (ptrdiff_t i = 0; i < padded; i += LANES) {
                    const vec e = exponential(load(row, i, 0) * scale - top);
                    total += e; /* behind the tokens the smallest numbers there are */
                    store_native(p, r * padded + i, e);
                }
                const float sum = sum_of(total);
                j->norms[item * t + from + r] = top + logf(sum);
                inverse[r] = 1.0f / sum;
            }
            tiles(QUERIES, d, padded, p, padded, v, d, mixed, d, 0);
            for (ptrdiff_t r = 0; r < m; r++)
                for (ptrdiff_t i = 0; i < d; i += LANES)
                    store(j->out, (image * t + from + r) * width + head * d + i,
                          load(mixed, r * d + i, 0) * inverse[r], 1);
        }
    }
    _tile_release();
}

/* Scores stand key by key: what belongs to a query lies in a column, and no row is summed. */
static void attend_backward_amx(const job *j, ptrdiff_t begin, ptrdiff_t end, float *memory,
                                float *totals) {
    const ptrdiff_t t = j->tokens, d = j->dims, width = j->heads * d;
    const ptrdiff_t padded = (t + 31) / 32 * 32, each = padded * d / 2;
    float *at_float = memory;
    uint16_t *k = (uint16_t *)at_float, *v = (uint16_t *)(at_float + each);
    uint16_t *kt = (uint16_t *)(at_float + 2 * each), *rows = (uint16_t *)(at_float + 3 * each);
    uint32_t *qt = (uint32_t *)(at_float + 4 * each), *gt = (uint32_t *)(at_float + 5 * each);
    uint32_t *q = (uint32_t *)(at_float + 6 * each), *g = (uint32_t *)(at_float + 7 * each);
    float *s = at_float + 8 * each, *ds = s + QUERIES * padded, *next = ds + QUERIES * padded;
    uint16_t *p16 = (uint16_t *)next, *ds16 = p16 + QUERIES * padded;
    uint32_t *pairs = (uint32_t *)(next + QUERIES * padded);
    float *dq = next + QUERIES * padded * 3 / 2, *dk = dq + d * padded, *dv = dk + QUERIES * d;
    float *norm = dv + QUERIES * d, *inner = norm + padded;
    const float scale = 1.0f / sqrtf((float)d);
    configure();
    for (ptrdiff_t item = begin; item < end; item++) {
        const ptrdiff_t image = item / j->heads, head = item % j->heads;
        const ptrdiff_t at = image * t * 3 * width + head * d, mine = image * t * width + head * d;
        const float *bias = j->bias + head * d;
        head_rows(j, j->branch, at + width, 3 * width, bias + width, k, padded);
        head_rows(j, j->branch, at + 2 * width, 3 * width, bias + 2 * width, v, padded);
        for (ptrdiff_t i = 0; i < d; i++)
            for (ptrdiff_t r = 0; r < padded; r++) kt[i * padded + r] = k[r * d + i];
        head_rows(j, j->branch, at, 3 * width, bias, rows, padded);
        turned_pairs(rows, padded, d, qt);
        row_pairs(rows, padded, d, q);
        head_rows(j, j->gradient, mine, width, NULL, rows, padded);
        turned_pairs(rows, padded, d, gt);
        row_pairs(rows, padded, d, g);
        for (ptrdiff_t r = 0; r < padded; r++) {
            vec common = {0};
            for (ptrdiff_t i = 0; r < t && i < d; i += LANES)
                common += load(rows, r * d + i, 1) * load(j->out, mine + r * width + i, 1);
            inner[r] = sum_of(common);
            norm[r] = r < t ? j->norms[item * t + r] : 1e30f;
        }
        for (ptrdiff_t from = 0; from < t; from += QUERIES) {
            tiles(QUERIES, padded, d, k + from * d, d, qt, padded, s, padded, 0);
            tiles(QUERIES, padded, d, v + from * d, d, gt, padded, ds, padded, 0);
            for (ptrdiff_t r = 0; r < QUERIES; r++)
                for (ptrdiff_t i = 0; i < padded; i += LANES) {
                    const ptrdiff_t place = r * padded + i;
                    const vec p = exponential(load(s, place, 0) * scale - load(norm, i, 0));
                    store_native(p16, place, p);
                    store_native(ds16, place, p * (load(ds, place, 0) - load(inner, i, 0)));
                }
            /* Keys behind the tokens have zeros in kt, but what is not finite times 0 is not 0. */
            if (t - from < QUERIES)
                memset(ds16 + (t - from) * padded, 0, (size_t)((QUERIES - t + from) * padded * 2));
            row_pairs(ds16, QUERIES, padded, pairs);
            tiles(QUERIES, d, padded, p16, padded, g, d, dv, d, 0);
            tiles(QUERIES, d, padded, ds16, padded, q, d, dk, d, 0);
            tiles(d, padded, QUERIES, kt + from, padded, pairs, padded, dq, padded, from > 0);
            const float *of[2] = {dk, dv};
            for (int part = 0; part < 2; part++) {
                const ptrdiff_t shift = (part + 1) * width, m = t - from;
                const vec f = all(part == 0 ? scale : 1.0f);
                float *sums = totals + shift + head * d;
                for (ptrdiff_t r = 0; r < (m < QUERIES ? m : QUERIES); r++)
                    for (ptrdiff_t i = 0; i < d; i += LANES) {
                        const vec value = f * load(of[part], r * d + i, 0);
                        store(j->out2, at + shift + (from + r) * 3 * width + i, value, 1);
                        store(sums, i, load(sums, i, 0) + value, 0);
                    }
            }
        }
        float *sums = totals + head * d;
        for (ptrdiff_t r = 0; r < t; r++)
            for (ptrdiff_t i = 0; i < d; i += LANES) {
                vec value;
                for (int l = 0; l < LANES; l++) value[l] = dq[(i + l) * padded + r];
                value *= scale;
                store(j->out2, at + r * 3 * width + i, value, 1);
                store(sums, i, load(sums, i, 0) + value, 0);
            }
    }
    _tile_release();
}

static void part_amx(int what, const job *j, ptrdiff_t begin, ptrdiff_t end, float *totals,
                     float *memory, int half) {
    const int fits = half && j->dims % 32 == 0;
    if (fits && what == ATTEND)
        attend_amx(j, begin, end, memory);
    else if (fits && what == ATTEND_BACKWARD)
        attend_backward_amx(j, begin, end, memory, totals);
    else
        part_avx512(what, j, begin, end, totals, memory, half);
}
