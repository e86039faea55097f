/* Products with a base model's frozen weights, W [O, I]:
 *
 *     forward:   y = x W^T
 *     backward:  dx = dy W
 *
 * A weight that has come from memory is used for up to NEAR tokens while it is at hand. Few tokens pay most for what a
 * general library does first, to lay the weights out anew; many, for rows of some kilobytes, whose columns compete for
 * the same few places of a cache, so their sums are made aside.
 *
 * Each element is a sum in an order that depends on how many tokens there are, but not on their company or on threads.
 *
 * What threads do is in rows.h.
 */
#include "vectors.h"

/* Of a tile of y, of few tokens: as many sums as there are registers for. */
#define TOKENS 3
#define OUTPUTS (SUMS / TOKENS)

enum {
    FEW = 40,      /* up to so many, turning W costs more than it saves */
    SUMMED = 768,  /* inputs at a time, of few tokens: so many of OUTPUTS rows stay near */
    TURNED = 256,  /* the same, of many */
    PANEL = 48,    /* most outputs of a task, forward */
    DEALT = 16,    /* a multiple of these, so that it depends on no thread which are computed together */
    WIDE = 320,    /* most inputs of a task, backward: what is read of a row should not be too short */
    STACKED = 256, /* outputs at a time, backward */
    NEAR = 256,    /* tokens at a time: with the weights at hand they fit in a second cache */
};

/* What layout.py packs; all numbers have eight bytes. */
struct dense {
    void *from; /* x or dy */
    int64_t from_stride;
    void *weight;
    int64_t weight_stride;
    void *to; /* y or dx */
    int64_t to_stride;
    int64_t tokens, inputs, outputs;
};

/* Columns of the result are dealt out, so many at a time. */
struct call {
    const struct dense *of;
    int64_t columns, width;
    void (*make)(const struct dense *, int64_t first, int64_t last);
};

static void make_columns(const void *of, int64_t task) {
    const struct call *call = of;
    int64_t first = task * call->width;
    call->make(call->of, first, least(first + call->width, call->columns));
}

static void run(parallel parallel, int64_t threads, struct call call) {
    int64_t tasks = pieces(call.columns, call.width);
    deal_out(parallel, threads, (struct deal){&call, make_columns, tasks, 0});
}

/* Whether this processor is one on which these were measured to be faster than the library that torch has, MKL. */
int dense_pays(void) {
#if defined(__AVX512F__)
    return __builtin_cpu_is("amd") != 0;
#else
    return 0;
#endif
}

#define KERNEL "rows.h"
#include "types.h"
