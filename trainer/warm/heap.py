"""What the C library does with memory that a pass has freed."""

import ctypes

#: From <malloc.h>.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
#: The largest that glibc takes. Most activations of a micro-batch are smaller.
FROM_HEAP = 32 << 20
#: Freed memory is kept up to this much.
KEPT = 1 << 30


def keep_freed_memory() -> bool:
    """Keep it for the next pass instead of giving it back to the kernel, which would hand it out again page by page.

    4 to 8 % of a step on a CPU (bench/LOG.md), for memory that the next pass takes anyway. Returns whether the C
    library agreed; other ones than glibc have no such call.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return False
    return bool(set_option(M_MMAP_THRESHOLD, FROM_HEAP) and set_option(M_TRIM_THRESHOLD, KEPT))
