/* Views of a batch of pictures: crop, resize, flips, colours, blur, solarize, as Pillow rounds them.
 *
 * Pictures come as bytes [H, W, 3], views leave as planes [3, h, w]. One thread; no library but
 * libc and libm; no interface of Python, so that it builds without its headers and runs without its
 * lock (ctypes). What it is given has been checked: views.py is the only caller.
 *
 * Loops are written for the compiler to vectorise. On x86 the whole view is compiled three times and
 * chosen by what the processor has. Fused multiply-adds stay off: they round otherwise than Pillow.
 */

#include "blur.h"
#include "colour.h"
#include "resize.h"

#define INTERFACE 1 /* raised whenever the arguments change; views.py asks for the same */

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
