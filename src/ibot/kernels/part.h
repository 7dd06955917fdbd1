/* One share of the items of a call; included once for each kind of processor. */

#include "attend.h"

INLINE void NAMED(share)(int what, const job *j, ptrdiff_t begin, ptrdiff_t end, float *totals,
                         float *memory, int half) {
    switch (what) {
        case ADD_NORM: add_norm(j, begin, end, half); break;
        case NORM_BACKWARD: norm_backward(j, begin, end, totals, half); break;
        case SCALE: scale(j, begin, end, totals, half); break;
        case GELU: gelu(j, begin, end, half); break;
        case GELU_BACKWARD: gelu_backward(j, begin, end, totals, half); break;
        case ATTEND: NAMED(attend)(j, begin, end, memory, half); break;
        case ATTEND_BACKWARD: NAMED(attend_backward)(j, begin, end, memory, totals, half); break;
        default: break;
    }
}

static void NAMED(part)(int what, const job *j, ptrdiff_t begin, ptrdiff_t end, float *totals,
                        float *memory, int half) {
    if (half)
        NAMED(share)(what, j, begin, end, totals, memory, 1);
    else
        NAMED(share)(what, j, begin, end, totals, memory, 0);
}
