"""Workarounds for XLA on CPU, each with a switch, so that one can see whether it still pays.

`experiments/benchmarks/xla_workarounds.py` times each of them on and off.
"""

import contextlib
import enum
from collections.abc import Iterator

import jax


class Workaround(enum.StrEnum):
    """The workarounds; each is implemented in one place, which says what XLA does without it."""

    COMPUTE_ONCE = "compute_once"  # common/xla_hints.py
    READ_AGAIN = "read_again"
    DO_NOT_FUSE = "do_not_fuse"
    SEPARATE_TRANSPOSITIONS = "separate_transpositions"  # common/layout.py
    BLOCKED_PREFIX_SUMS = "blocked_prefix_sums"  # xla/prefix_sums.py
    CHUNKS = "chunks"  # xla/chunks.py
    NEIGHBOURING_ROWS = "neighbouring_rows"  # common/reductions.py
    LARGE_KERNEL_BLOCKS = "large_kernel_blocks"  # common/conv_large_kernel.py
    DILATION_BY_ZEROS = "dilation_by_zeros"  # common/conv_large_dilation.py
    MATRIX_PRODUCTS = "matrix_products"  # common/conv_patches.py


_disabled: frozenset[Workaround] = frozenset()


def enabled(workaround: Workaround) -> bool:
    """Whether a workaround is to be used; asked when JAX traces."""
    return workaround not in _disabled


@contextlib.contextmanager
def disabled(*workarounds: Workaround) -> Iterator[None]:
    """Switches workarounds off, or all of them if none is named.

    JAX does not know of the switch: a function that it has traced before would be taken from its
    caches as it was. So all caches are cleared on entry and on exit. To use programs of both kinds
    side by side, compile them ahead of time inside and outside; they stay as they were compiled.
    The switch is for benchmarks and tests, and not for programs in which several threads trace.

    Args:
      *workarounds: those to switch off, besides any that are off already.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxbox_kernels.common import workarounds, xla_hints
      >>> def program():
      ...     lowered = jax.jit(xla_hints.compute_once).lower(jnp.ones(3))
      ...     return "barrier" in lowered.as_text()
      >>> with workarounds.disabled(workarounds.Workaround.COMPUTE_ONCE):
      ...     print(program())
      False
      >>> print(program())
      True
    """
    global _disabled
    before = _disabled
    _disabled |= frozenset(workarounds or Workaround)
    jax.clear_caches()
    try:
        yield
    finally:
        _disabled = before
        jax.clear_caches()
