/* C += L R, and C += L R^T, for one type of number: REAL. See lowrank.c, which includes this.
 *
 * A tile of C is summed in registers. To a row of R, which is read as vectors, belongs one number of each row of L.
 */

#define LANES ((int)(VECTOR_BYTES / sizeof(REAL)))
#define WHOLE OF(whole)
#define HALF OF(half)
#define ONE OF(one)
typedef REAL WHOLE __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
typedef REAL HALF __attribute__((vector_size(VECTOR_BYTES / 2), aligned(sizeof(REAL)), may_alias));
typedef REAL ONE;

/* Two factors and the result; steps from one element to the next along each. Rows of R and C have no gaps. */
struct OF(product) {
    const REAL *l, *r;
    REAL *c;
    int64_t l_row, l_sum, r_sum, c_row, sum;
};

/* rows x vectors of C, which are known when this is compiled. */
#define TILE(NAME, VECTOR)                                                                         \
    INLINE void NAME(const int rows, const int vectors, struct OF(product) p) {                    \
        const int lanes = sizeof(VECTOR) / sizeof(REAL);                                           \
        VECTOR sums[MOST_ROWS][MOST_VECTORS];                                                      \
        UNROLL for (int i = 0; i < rows; i++) {                                                    \
            UNROLL for (int j = 0; j < vectors; j++) {                                             \
                sums[i][j] = (VECTOR){0};                                                          \
                __builtin_prefetch(p.c + i * p.c_row + j * lanes, 1);                              \
            }                                                                                      \
        }                                                                                          \
        for (int64_t k = 0; k < p.sum; k++, p.r += p.r_sum, p.l += p.l_sum) {                      \
            VECTOR right[MOST_VECTORS];                                                            \
            UNROLL for (int j = 0; j < vectors; j++)                                               \
                right[j] = *(const VECTOR *)(p.r + j * lanes);                                     \
            /* Factors come from memory, and one job's are far from another's: ask early. */       \
            if (vectors == 1)                                                                      \
                __builtin_prefetch(p.r + AHEAD * p.r_sum, 0, 2);                                   \
            if (vectors == MOST_VECTORS) {                                                         \
                UNROLL for (int j = 0; j < vectors; j++)                                           \
                    __builtin_prefetch(p.r + (vectors + j) * lanes);                               \
            }                                                                                      \
            UNROLL for (int i = 0; i < rows; i++) {                                                \
                REAL left = p.l[i * p.l_row];                                                      \
                UNROLL for (int j = 0; j < vectors; j++) sums[i][j] += left * right[j];            \
            }                                                                                      \
        }                                                                                          \
        UNROLL for (int i = 0; i < rows; i++) {                                                    \
            UNROLL for (int j = 0; j < vectors; j++)                                               \
                *(VECTOR *)(p.c + i * p.c_row + j * lanes) += sums[i][j];                          \
        }                                                                                          \
    }

TILE(OF(tile_whole), WHOLE)
TILE(OF(tile_half), HALF)
TILE(OF(tile_one), ONE)

/* All rows of some columns. */
#define PANEL(NAME, TILE)                                                                          \
    INLINE void NAME(const int vectors, struct OF(product) p, int64_t rows) {                      \
        const int at_once = SUMS / vectors < MOST_ROWS ? SUMS / vectors : MOST_ROWS;               \
        for (; rows >= at_once; rows -= at_once) {                                                 \
            TILE(at_once, vectors, p);                                                             \
            p.l += at_once * p.l_row, p.c += at_once * p.c_row;                                    \
        }                                                                                          \
        switch (rows) {                                                                            \
        case 7: if (at_once > 7) TILE(7, vectors, p); break;                                       \
        case 6: if (at_once > 6) TILE(6, vectors, p); break;                                       \
        case 5: if (at_once > 5) TILE(5, vectors, p); break;                                       \
        case 4: if (at_once > 4) TILE(4, vectors, p); break;                                       \
        case 3: if (at_once > 3) TILE(3, vectors, p); break;                                       \
        case 2: TILE(2, vectors, p); break;                                                        \
        case 1: TILE(1, vectors, p); break;                                                        \
        }                                                                                          \
    }

PANEL(OF(panel_whole), OF(tile_whole))
PANEL(OF(panel_half), OF(tile_half))
PANEL(OF(panel_one), OF(tile_one))

/* C += L R, of so many rows and columns. */
static void OF(multiply)(struct OF(product) p, int64_t rows, int64_t columns) {
    while (columns > 0) {
        int64_t done = least(columns / LANES, MOST_VECTORS) * LANES;
        switch (done / LANES) {
        case 4: OF(panel_whole)(4, p, rows); break;
        case 3: OF(panel_whole)(3, p, rows); break;
        case 2: OF(panel_whole)(2, p, rows); break;
        case 1: OF(panel_whole)(1, p, rows); break;
        default:
            done = columns >= LANES / 2 ? LANES / 2 : 1;
            if (done > 1)
                OF(panel_half)(1, p, rows);
            else
                OF(panel_one)(1, p, rows);
        }
        columns -= done, p.r += done, p.c += done;
    }
}

/* Where there are shuffles: two vectors' lower and upper halves, lane by lane in turn. `lanes` rows after log2(lanes)
 * such rounds are turned. */
#define TURN(NAME, VECTOR, LOWER, UPPER)                                                           \
    INLINE void NAME(const REAL *from, int64_t step, REAL *to, int64_t to_step) {                  \
        enum { lanes = sizeof(VECTOR) / sizeof(REAL) };                                            \
        VECTOR rows[lanes], next[lanes];                                                           \
        UNROLL for (int i = 0; i < lanes; i++) rows[i] = *(const VECTOR *)(from + i * step);       \
        UNROLL for (int round = 1; round < lanes; round *= 2) {                                    \
            UNROLL for (int i = 0; i < lanes / 2; i++) {                                           \
                next[2 * i] = __builtin_shufflevector(rows[i], rows[i + lanes / 2], LOWER);        \
                next[2 * i + 1] = __builtin_shufflevector(rows[i], rows[i + lanes / 2], UPPER);    \
            }                                                                                      \
            UNROLL for (int i = 0; i < lanes; i++) rows[i] = next[i];                              \
        }                                                                                          \
        UNROLL for (int i = 0; i < lanes; i++) *(VECTOR *)(to + i * to_step) = rows[i];            \
    }

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLES (VECTOR_BYTES >= 32)
#endif
#endif
#define LOWER_2 0, 2
#define UPPER_2 1, 3
#define LOWER_4 0, 4, 1, 5
#define UPPER_4 2, 6, 3, 7
#define LOWER_8 0, 8, 1, 9, 2, 10, 3, 11
#define UPPER_8 4, 12, 5, 13, 6, 14, 7, 15
#define LOWER_16 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define UPPER_16 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#define LOWER(lanes) JOIN(LOWER_, lanes)
#define UPPER(lanes) JOIN(UPPER_, lanes)

#if SHUFFLES
TURN(OF(turn_whole), WHOLE, LOWER(WHOLE_LANES), UPPER(WHOLE_LANES))
TURN(OF(turn_half), HALF, LOWER(HALF_LANES), UPPER(HALF_LANES))
#endif

/* `to` [columns, rows] is `from` [rows, columns] turned. What is `ahead` of it will be next. */
static void OF(turn)(const REAL *from, int64_t step, int64_t rows, int64_t columns, REAL *to,
                     int64_t ahead) {
    const int half = LANES / 2;
    for (int64_t i = 0, high; i < rows; i += high) {
        high = rows - i < half ? 1 : rows - i < LANES ? half : LANES;
        for (int64_t j = 0, wide; j < columns; j += wide) {
            const REAL *block = from + i * step + j;
            REAL *turned = to + j * rows + i;
            for (int64_t row = 0; row < high; row++)
                __builtin_prefetch(block + row * step + ahead, 0, 2);
#if SHUFFLES
            if (high == LANES && columns - j >= LANES) {
                OF(turn_whole)(block, step, turned, rows);
                wide = LANES;
                continue;
            }
            if (high >= half && columns - j >= half) {
                OF(turn_half)(block, step, turned, rows);
                if (high == LANES)
                    OF(turn_half)(block + half * step, step, turned + half, rows);
                wide = half;
                continue;
            }
#endif
            for (int64_t row = 0; row < high; row++)
                turned[row] = block[row * step];
            wide = 1;
        }
    }
}

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
