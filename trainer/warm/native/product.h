/* C += L R, for one type of number: REAL. See types.h, which includes this.
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
