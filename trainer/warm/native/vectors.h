/* What all kernels share: the processor's registers, threads, and small things.
 *
 * Plain C11 with the vectors of GCC and Clang.
 */
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

/* Of one register; and how many of them hold sums. The others hold what is multiplied. */
#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define LANES_OF_FLOAT 16
#define LANES_OF_DOUBLE 8
#define HALF_LANES_OF_DOUBLE 4
#define SUMS 24
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#define LANES_OF_FLOAT 8
#define LANES_OF_DOUBLE 4
#define HALF_LANES_OF_DOUBLE 2
#define SUMS 12
#elif defined(__aarch64__)
#define VECTOR_BYTES 16
#define SUMS 24
#else
#define VECTOR_BYTES 16
#define SUMS 12
#endif

/* Where there are shuffles: lanes of the lower and upper halves of two vectors, in turn. */
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

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

/* See product.h. */
enum {
    MOST_ROWS = 8,    /* of a tile of C */
    MOST_VECTORS = 4, /* of its columns */
    AHEAD = 64,       /* rows of R that are asked for before they are wanted */
};

_Static_assert(sizeof(void *) == 8, "addresses are packed in eight bytes");

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t pieces(int64_t of, int64_t size) { return (of + size - 1) / size; }

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

/* As `GOMP_parallel`: run it on so many threads. */
typedef void (*parallel)(void (*)(void *), void *, unsigned, unsigned);

/* Tasks, of which each thread takes the next one. */
struct deal {
    const void *of;
    void (*task)(const void *of, int64_t task);
    int64_t tasks;
    _Atomic int64_t next;
};

static void work(void *shared) {
    struct deal *deal = shared;
    int64_t task;
    while ((task = atomic_fetch_add(&deal->next, 1)) < deal->tasks)
        deal->task(deal->of, task);
}

static void deal_out(parallel parallel, int64_t threads, struct deal deal) {
    /* To all of them, also where there is less to do: libgomp ends threads that a call has no use for. */
    if (threads > 1 && deal.tasks > 1)
        parallel(work, &deal, threads, 0);
    else
        work(&deal);
}
