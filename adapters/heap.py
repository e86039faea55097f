"""What the C library does with memory that is freed."""

import ctypes

#: From <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
#: The largest that glibc takes. Most activations of a micro-batch are smaller.
FROM_HEAP = 32 << 20
#: Freed memory is kept up to this much.
KEPT = 1 << 30
#: One for the first thread, one for all others.
ARENAS = 2


def keep_freed_memory() -> bool:
    """Keep it for the next pass instead of giving it back to the kernel, which would hand it out again page by page.

    4 to 8 % of a step on a CPU (bench/LOG.md), for memory that the next pass takes anyway. Returns whether the C
    library agreed; other ones than glibc have no such call.
    """
    return _set((M_MMAP_THRESHOLD, FROM_HEAP), (M_TRIM_THRESHOLD, KEPT))


def share_arenas() -> bool:
    """Let threads allocate from what others have freed. Call before there are any.

    Else glibc gives them eight arenas for each core, and a process with some dozen threads goes on growing until each
    arena has seen the most that its threads ever need. Threads wait for each other's allocations only where the
    interpreter's lock is released, since nobody else allocates meanwhile. Returns whether the C library agreed.
    """
    return _set((M_ARENA_MAX, ARENAS))


def _set(*options: tuple[int, int]) -> bool:
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    return set_option is not None and all(bool(set_option(*option)) for option in options)
