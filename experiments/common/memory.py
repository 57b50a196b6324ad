"""The memory of a process: keeping what it freed, and refusing what cannot fit."""

import ctypes
import os
import sys

from experiments.common.program import UserError

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


def check_fits(size: float, what: str) -> None:
    """Checks that an array fits into this machine's memory, before something allocates it.

    Args:
      size: the number of bytes.
      what: what takes them, with the option that they depend on.

    Raises:
      UserError: the array does not fit.
    """
    if not hasattr(os, "sysconf"):
        return
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        raise UserError(
            f"{what} would take {size / 2**30:.4g} GiB, and this machine has {memory / 2**30:.4g}"
        )
