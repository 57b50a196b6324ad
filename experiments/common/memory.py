"""Keeping freed memory in the process, because a training loop soon asks for it again."""

import ctypes
import sys

# Names and numbers from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> None:
    """Stops glibc from returning freed memory to the system.

    XLA on CPU allocates one large block for all temporaries of each step. By default glibc maps
    and unmaps it every time, and the page faults take a considerable part of a training step. Does
    nothing where there is no glibc. Call it before the first computation.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 2**27)
