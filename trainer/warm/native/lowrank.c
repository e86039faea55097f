/* The low-rank products of all jobs of a pass for one group of sibling layers, without padding.
 *
 *     forward:   h = s x A^T;      y_m += h_m B_m^T
 *     backward:  dh_m = s dy_m B_m;  dx += dh A;  dA += dh^T x;  dB_m += dy_m^T h_m
 *
 * for the tokens of each job, with its factors: A [S, I], all siblings' below each other, and B_m [o_m, R].
 *
 * One product is behind all: C += L R, with C in registers as long as it is summed. Each element is a sum in the order
 * of what is summed over, so it is the same bits however tokens are dealt out to threads, and whoever else is there.
 * Jobs share no sums and no scratch that is not overwritten, so that NaN stays where it is.
 *
 * What threads do is in tasks.h.
 */
#include "vectors.h"

enum {
    PACKED = 4096,      /* numbers of A or B that are turned at a time: they stay near */
    FEWEST_TOKENS = 16, /* of a task: turning A and B costs as much as multiplying with four */
    MOST_TOKENS = 48,
    BACK_TOKENS = 24, /* most of a task where nothing is turned */
    COLUMNS = 192,    /* of dA */
    ROWS = 256,       /* of dB */
    SUMMED = 64,      /* tokens at a time, for dA and dB */
};

/* What layout.py packs; all numbers have eight bytes. */
struct job {
    int64_t start, tokens;
    double scale;
    int64_t row; /* of the factors */
};

struct sibling {
    void *of; /* y or dy: its columns */
    int64_t stride, width;
};

struct head {
    int64_t jobs, siblings, inputs;
    void *x;
    int64_t x_stride;
    void *dx; /* none where it is not wanted */
    int64_t dx_stride;
    void *h, *dh; /* job after job, [T, S] */
    struct sibling sibling[];
};

struct member {
    void *b, *grad_b; /* none where the job does not adapt this sibling */
};

struct factors {
    int64_t rank; /* 0 where the job adapts none of them */
    void *a, *grad_a;
    struct member member[];
};

struct call {
    parallel parallel;
    int64_t threads;
    const struct head *head;
    const struct job *jobs;
    const char *factors;
    int64_t block; /* most tokens of a task */
};

/* One job's part of a call. */
struct part {
    const struct job *job;
    const struct factors *factors;
    int64_t stacked; /* S */
    int64_t hidden;  /* where its h begins */
};

/* The job at `index`; `before` is the one before it. */
static struct part part_at(const struct call *call, int64_t index, const struct part *before) {
    const struct head *head = call->head;
    int64_t size = sizeof(struct factors) + head->siblings * sizeof(struct member);
    const struct job *job = call->jobs + index;
    struct part part = {job, (const void *)(call->factors + job->row * size), 0, 0};
    for (int64_t m = 0; m < head->siblings; m++)
        part.stacked += part.factors->member[m].b ? part.factors->rank : 0;
    if (before)
        part.hidden = before->hidden + before->job->tokens * before->stacked;
    return part;
}

static int64_t blocks_of(const struct call *call, const struct part *part) {
    return part->stacked ? pieces(part->job->tokens, call->block) : 0;
}

/* Tasks of the second half of a backward pass: columns of dA, then rows of each dB. */
static int64_t sums_of(const struct call *call, const struct part *part) {
    if (!part->stacked || !part->job->tokens)
        return 0;
    int64_t count = pieces(call->head->inputs, COLUMNS);
    for (int64_t m = 0; m < call->head->siblings; m++)
        if (part->factors->member[m].b)
            count += pieces(call->head->sibling[m].width, ROWS);
    return count;
}

typedef int64_t (*counting)(const struct call *, const struct part *);

/* Whose the task is, which is left with its number among those of that job. */
static struct part find(const struct call *call, counting count, int64_t *task) {
    struct part part = part_at(call, 0, 0);
    for (int64_t index = 1; *task >= count(call, &part); index++) {
        *task -= count(call, &part);
        part = part_at(call, index, &part);
    }
    return part;
}

/* All jobs' tasks, on as many threads as there are. The longest jobs should come first. */
static void run(const struct call *call, counting count, void (*task)(const void *, int64_t)) {
    struct part part;
    int64_t tasks = 0;
    for (int64_t index = 0; index < call->head->jobs; index++) {
        part = part_at(call, index, index ? &part : 0);
        tasks += count(call, &part);
    }
    deal_out(call->parallel, call->threads, (struct deal){call, task, tasks, 0});
}

static int64_t tokens_of_a_task(const struct head *head, const struct job *jobs, int64_t threads) {
    int64_t tokens = 0;
    for (int64_t index = 0; index < head->jobs; index++)
        tokens += jobs[index].tokens;
    return least(MOST_TOKENS, most(FEWEST_TOKENS, pieces(tokens, 4 * threads)));
}

#define KERNEL "tasks.h"
#include "types.h"
