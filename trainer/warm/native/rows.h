/* What threads do with rows of W, for one type of number: REAL. See dense.c, which includes this. */

/* A number of each of OUTPUTS outputs. */
typedef REAL OF(numbers)
    __attribute__((vector_size(OUTPUTS * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));

/* The sums of OUTPUTS vectors, side by side. Where there are shuffles, each round adds halves of two vectors, whose
 * lanes then take turns; see turned.h. */
INLINE OF(numbers) OF(add_up)(WHOLE *sums) {
    OF(numbers) total;
#if SHUFFLES
    UNROLL for (int half = OUTPUTS / 2; half; half /= 2) {
        UNROLL for (int i = 0; i < half; i++) {
            WHOLE a = sums[i], b = sums[i + half];
            sums[i] = __builtin_shufflevector(a, b, LOWER(WHOLE_LANES)) +
                      __builtin_shufflevector(a, b, UPPER(WHOLE_LANES));
        }
    }
    OF(numbers) halves[2];
    memcpy(halves, sums, sizeof(WHOLE));
    total = halves[0];
    if (LANES > OUTPUTS) /* twice as many */
        total += halves[1];
#else
    UNROLL for (int i = 0; i < OUTPUTS; i++) {
        total[i] = 0;
        UNROLL for (int lane = 0; lane < LANES; lane++) total[i] += sums[i][lane];
    }
#endif
    return total;
}

/* Of some tokens and OUTPUTS outputs, along some inputs. Added to y where there were inputs before these. */
INLINE void OF(dot)(const int tokens, const struct dense *of, int64_t token, int64_t output,
                    int64_t first, int64_t last) {
    const REAL *x = (const REAL *)of->from + token * of->from_stride;
    const REAL *weight = (const REAL *)of->weight + output * of->weight_stride;
    REAL *y = (REAL *)of->to + token * of->to_stride + output;
    WHOLE sums[TOKENS][OUTPUTS];
    UNROLL for (int i = 0; i < tokens; i++) {
        UNROLL for (int j = 0; j < OUTPUTS; j++) sums[i][j] = (WHOLE){0};
    }
    int64_t k = first;
    for (; k + LANES <= last; k += LANES) {
        WHOLE own[TOKENS];
        UNROLL for (int i = 0; i < tokens; i++)
            own[i] = *(const WHOLE *)(x + i * of->from_stride + k);
        UNROLL for (int j = 0; j < OUTPUTS; j++) {
            WHOLE row = *(const WHOLE *)(weight + j * of->weight_stride + k);
            UNROLL for (int i = 0; i < tokens; i++) sums[i][j] += own[i] * row;
        }
    }
    UNROLL for (int i = 0; i < tokens; i++) {
        REAL *to = y + i * of->to_stride;
        OF(numbers) total = OF(add_up)(sums[i]);
        if (first)
            total += *(OF(numbers) *)to;
        *(OF(numbers) *)to = total;
        for (int64_t rest = k; rest < last; rest++) {
            for (int j = 0; j < OUTPUTS; j++)
                to[j] += x[i * of->from_stride + rest] * weight[j * of->weight_stride + rest];
        }
    }
}

/* One number of y; for the last few outputs. */
static REAL OF(dot_one)(const struct dense *of, int64_t token, int64_t output) {
    const REAL *x = (const REAL *)of->from + token * of->from_stride;
    const REAL *weight = (const REAL *)of->weight + output * of->weight_stride;
    REAL total = 0;
    for (int64_t k = 0; k < of->inputs; k++)
        total += x[k] * weight[k];
    return total;
}

/* Columns of y, of few tokens: each number is a sum along a row of x and one of W. */
static void OF(few)(const struct dense *of, int64_t output, int64_t last) {
    for (; output + OUTPUTS <= last; output += OUTPUTS) {
        for (int64_t k = 0; k < of->inputs; k += SUMMED) {
            int64_t end = least(k + SUMMED, of->inputs), token = 0;
            for (; token + TOKENS <= of->tokens; token += TOKENS)
                OF(dot)(TOKENS, of, token, output, k, end);
            switch (of->tokens - token) {
            case 2: OF(dot)(2, of, token, output, k, end); break;
            case 1: OF(dot)(1, of, token, output, k, end); break;
            }
        }
    }
    for (; output < last; output++)
        for (int64_t token = 0; token < of->tokens; token++)
            ((REAL *)of->to)[token * of->to_stride + output] = OF(dot_one)(of, token, output);
}

/* Columns of y, of many tokens: W is turned, a piece at a time. */
static void OF(many)(const struct dense *of, int64_t output, int64_t last) {
    REAL turned[TURNED * PANEL] __attribute__((aligned(64)));
    REAL sums[NEAR * PANEL] __attribute__((aligned(64)));
    int64_t outputs = last - output;
    for (int64_t token = 0; token < of->tokens; token += NEAR) {
        int64_t tokens = least(NEAR, of->tokens - token);
        memset(sums, 0, tokens * outputs * sizeof(REAL));
        for (int64_t k = 0; k < of->inputs; k += TURNED) {
            int64_t sum = least(TURNED, of->inputs - k);
            const REAL *weight = (const REAL *)of->weight + output * of->weight_stride + k;
            OF(turn)(weight, of->weight_stride, outputs, sum, turned, sum);
            const REAL *x = (const REAL *)of->from + token * of->from_stride + k;
            struct OF(product) p = {x, turned, sums, of->from_stride, 1, outputs, outputs, sum};
            OF(multiply)(p, tokens, outputs);
        }
        REAL *y = (REAL *)of->to + token * of->to_stride + output;
        for (int64_t i = 0; i < tokens; i++)
            memcpy(y + i * of->to_stride, sums + i * outputs, outputs * sizeof(REAL));
    }
}

/* Columns of dx: each row is a sum of rows of W. */
static void OF(back)(const struct dense *of, int64_t input, int64_t last) {
    for (int64_t token = 0; token < of->tokens; token += NEAR) {
        int64_t tokens = least(NEAR, of->tokens - token);
        const REAL *dy = (const REAL *)of->from + token * of->from_stride;
        REAL *dx = (REAL *)of->to + token * of->to_stride + input;
        for (int64_t i = 0; i < tokens; i++)
            memset(dx + i * of->to_stride, 0, (last - input) * sizeof(REAL));
        for (int64_t output = 0; output < of->outputs; output += STACKED) {
            const REAL *weight = (const REAL *)of->weight + output * of->weight_stride + input;
            struct OF(product) p = {dy + output, weight, dx, of->from_stride, 1,
                                    of->weight_stride, of->to_stride,
                                    least(STACKED, of->outputs - output)};
            OF(multiply)(p, tokens, last - input);
        }
    }
}

void OF(dense_forward)(parallel parallel, int64_t threads, const struct dense *of) {
    int64_t width = pieces(least(PANEL, of->outputs / (4 * threads) + 1), DEALT) * DEALT;
    struct call call = {of, of->outputs, width, of->tokens > FEW ? OF(many) : OF(few)};
    run(parallel, threads, call);
}

void OF(dense_backward)(parallel parallel, int64_t threads, const struct dense *of) {
    int64_t tasks = threads * pieces(of->inputs, threads * WIDE);
    int64_t width = pieces(pieces(of->inputs, tasks), LANES) * LANES;
    struct call call = {of, of->inputs, width, OF(back)};
    run(parallel, threads, call);
}
