/* Rows that become columns, for one type of number: REAL. See types.h, which includes this. */

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
