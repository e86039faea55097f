/* What threads do, for one type of number: REAL. See lowrank.c, which includes this. */

/* C += L R^T, where R [columns, sum] has rows without gaps. */
static void OF(multiply_turned)(struct OF(product) p, int64_t rows, int64_t columns) {
    REAL turned[PACKED] __attribute__((aligned(64)));
    for (int64_t done; columns > 0; columns -= done, p.r += done * p.sum, p.c += done) {
        done = least(columns, MOST_VECTORS * LANES);
        int64_t at_once = PACKED / done;
        for (int64_t k = 0; k < p.sum; k += at_once) {
            int64_t sum = least(at_once, p.sum - k);
            OF(turn)(p.r + k, p.sum, done, sum, turned, sum < p.sum ? sum : done * sum);
            struct OF(product) some = p;
            some.l += k * p.l_sum, some.r = turned, some.r_sum = done, some.sum = sum;
            OF(multiply)(some, rows, done);
        }
    }
}

INLINE void OF(scale)(REAL *at, int64_t count, REAL by) {
    for (int64_t i = 0; i < count; i++)
        at[i] *= by;
}

/* h of some tokens of a job, and what they add to y. */
static void OF(forward_task)(const void *of, int64_t task) {
    const struct call *call = of;
    const struct head *head = call->head;
    struct part part = find(call, blocks_of, &task);
    const struct factors *factors = part.factors;
    int64_t blocks = blocks_of(call, &part), tokens = part.job->tokens, stacked = part.stacked;
    int64_t from = tokens * task / blocks, count = tokens * (task + 1) / blocks - from;
    int64_t first = part.job->start + from, inputs = head->inputs, rank = factors->rank;
    REAL *h = (REAL *)head->h + part.hidden + from * stacked;
    memset(h, 0, count * stacked * sizeof(REAL));
    const REAL *x = (const REAL *)head->x + first * head->x_stride;
    struct OF(product) down = {x, factors->a, h, head->x_stride, 1, 0, stacked, inputs};
    OF(multiply_turned)(down, count, stacked);
    OF(scale)(h, count * stacked, part.job->scale);
    for (int64_t m = 0; m < head->siblings; m++) {
        const struct sibling *sibling = head->sibling + m;
        if (!factors->member[m].b)
            continue;
        REAL *y = (REAL *)sibling->of + first * sibling->stride;
        struct OF(product) up = {h, factors->member[m].b, y, stacked, 1, 0, sibling->stride, rank};
        OF(multiply_turned)(up, count, sibling->width);
        h += rank;
    }
}

/* dh of some tokens of a job, and what they add to dx. */
static void OF(backward_task)(const void *of, int64_t task) {
    const struct call *call = of;
    const struct head *head = call->head;
    struct part part = find(call, blocks_of, &task);
    const struct factors *factors = part.factors;
    int64_t blocks = blocks_of(call, &part), tokens = part.job->tokens, stacked = part.stacked;
    int64_t from = tokens * task / blocks, count = tokens * (task + 1) / blocks - from;
    int64_t first = part.job->start + from, inputs = head->inputs, rank = factors->rank;
    REAL *dh = (REAL *)head->dh + part.hidden + from * stacked, *own = dh;
    memset(dh, 0, count * stacked * sizeof(REAL));
    for (int64_t m = 0; m < head->siblings; m++) {
        const struct sibling *sibling = head->sibling + m;
        if (!factors->member[m].b)
            continue;
        const REAL *dy = (const REAL *)sibling->of + first * sibling->stride;
        const REAL *b = factors->member[m].b;
        struct OF(product) up = {dy, b, own, sibling->stride, 1, rank, stacked, sibling->width};
        OF(multiply)(up, count, rank);
        own += rank;
    }
    OF(scale)(dh, count * stacked, part.job->scale);
    if (!head->dx)
        return;
    REAL *dx = (REAL *)head->dx + first * head->dx_stride;
    struct OF(product) down = {dh, factors->a, dx, stacked, 1, inputs, head->dx_stride, stacked};
    OF(multiply)(down, count, inputs);
}

/* Some tokens after the others, so that what is read of them stays in a cache. */
static void OF(sum)(struct OF(product) p, int64_t tokens, int64_t rows, int64_t columns) {
    for (int64_t done = 0; done < tokens; done += SUMMED) {
        p.sum = least(SUMMED, tokens - done);
        OF(multiply)(p, rows, columns);
        p.l += SUMMED * p.l_sum, p.r += SUMMED * p.r_sum;
    }
}

/* Columns of a job's dA, or rows of one of its dB. */
static void OF(sum_task)(const void *of, int64_t task) {
    const struct call *call = of;
    const struct head *head = call->head;
    struct part part = find(call, sums_of, &task);
    const struct factors *factors = part.factors;
    int64_t start = part.job->start, tokens = part.job->tokens, stacked = part.stacked;
    int64_t inputs = head->inputs, rank = factors->rank, count = pieces(inputs, COLUMNS);
    const REAL *h = (const REAL *)head->h + part.hidden, *dh = (const REAL *)head->dh + part.hidden;
    if (task < count) {
        int64_t at = task * COLUMNS;
        const REAL *x = (const REAL *)head->x + start * head->x_stride + at;
        REAL *grad_a = (REAL *)factors->grad_a + at;
        struct OF(product) p = {dh, x, grad_a, 1, stacked, head->x_stride, inputs, 0};
        OF(sum)(p, tokens, stacked, least(COLUMNS, inputs - at));
        return;
    }
    task -= count;
    const struct sibling *sibling = head->sibling;
    const struct member *member = factors->member;
    for (;; sibling++, member++) {
        if (!member->b)
            continue;
        count = pieces(sibling->width, ROWS);
        if (task < count)
            break;
        task -= count, h += rank;
    }
    int64_t at = task * ROWS;
    const REAL *dy = (const REAL *)sibling->of + start * sibling->stride + at;
    REAL *grad_b = (REAL *)member->grad_b + at * rank;
    struct OF(product) p = {dy, h, grad_b, 1, sibling->stride, stacked, rank, 0};
    OF(sum)(p, tokens, least(ROWS, sibling->width - at), rank);
}

void OF(lowrank_forward)(parallel parallel, int64_t threads, const struct head *head,
                         const struct job *jobs, const void *factors) {
    int64_t block = tokens_of_a_task(head, jobs, threads);
    struct call call = {parallel, threads, head, jobs, factors, block};
    run(&call, blocks_of, OF(forward_task));
}

void OF(lowrank_backward)(parallel parallel, int64_t threads, const struct head *head,
                          const struct job *jobs, const void *factors) {
    struct call call = {parallel, threads, head, jobs, factors, BACK_TOKENS};
    run(&call, blocks_of, OF(backward_task));
    run(&call, sums_of, OF(sum_task));
}
