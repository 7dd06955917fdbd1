/* What a transformer block does between its matrix products, forward and backward, each in one pass.
 *
 * No interface of Python (ctypes calls it, without its lock) and no library but libc, libm and, for
 * threads, the OpenMP that torch has loaded. What it is given has been checked: blocks.py is the only
 * caller. Every function is compiled three times and chosen by what the processor has.
 */

#if defined(__x86_64__) && defined(__linux__) && (defined(__clang__) || __GNUC__ >= 11)
#define WITH_AMX 1
#define _GNU_SOURCE
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#define WITH_AMX 0
#endif
#include "rows.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

#define INTERFACE 1 /* raised whenever the arguments change; library.py asks for the same */

enum { ADD_NORM, NORM_BACKWARD, SCALE, GELU, GELU_BACKWARD, ATTEND, ATTEND_BACKWARD };

#define JOIN(name, kind) name##_##kind
#define EXPANDED(name, kind) JOIN(name, kind)
#define NAMED(name) EXPANDED(name, KIND)

#if !defined(__x86_64__)
#define KIND plain
#include "part.h"
#undef KIND
#else
#ifndef ONLY_AVX512
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define KIND avx2
#include "part.h"
#undef KIND
#pragma GCC pop_options
#endif
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512")
#define KIND avx512
#include "part.h"
#undef KIND
#pragma GCC pop_options
#if WITH_AMX
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,avx512bf16,amx-tile,amx-bf16,prefer-vector-width=512")
#include "attend_amx.h"
#pragma GCC pop_options

/* Linux lends the tiles to a process that asks for them; the processor must have them. */
static int has_tiles(void) {
    static int known = -1;
    if (known >= 0) return known;
    unsigned a = 0, b = 0, c = 0, d = 0;
    const int there = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1) && (d >> 24 & 1) &&
                      __builtin_cpu_supports("avx512bf16");
    known = there && syscall(SYS_arch_prctl, 0x1023 /* request */, 18 /* tile data */) == 0;
    return known;
}
#endif
#endif

typedef void (*worker)(int, const job *, ptrdiff_t, ptrdiff_t, float *, float *, int);

/* By what the processor has, up to `level`: 3 is AMX, 2 AVX-512, 1 AVX2; null if it has neither. */
static worker choose(int32_t level) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (level >= 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
#if WITH_AMX
        if (level >= 3 && has_tiles()) return part_amx;
#endif
        return part_avx512;
    }
#ifndef ONLY_AVX512
    if (level >= 1 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return part_avx2;
#endif
    return NULL;
#else
    (void)level;
    return part_plain;
#endif
}

/* 0 on a processor for which nothing was compiled. */
EXPORTED int32_t ibot_blocks_interface(void) { return choose(2) ? INTERFACE : 0; }

/* Items (rows, or images times heads) are shared out evenly; totals [threads, each] are zero. */
EXPORTED void ibot_blocks(int32_t what, int32_t half, int32_t threads, int32_t level,
                          int64_t items, int64_t totals_each, const job *j) {
    const worker work = choose(level);
#if defined(_OPENMP)
#pragma omp parallel for num_threads(threads) schedule(static, 1) if (threads > 1)
#endif
    for (int32_t i = 0; i < threads; i++) {
        const ptrdiff_t begin = (ptrdiff_t)(items * i / threads);
        const ptrdiff_t end = (ptrdiff_t)(items * (i + 1) / threads);
        work(what, j, begin, end, j->totals ? j->totals + i * totals_each : NULL,
             j->memory ? j->memory + i * j->memory_each : NULL, half);
    }
}
