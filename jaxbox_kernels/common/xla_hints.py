"""Hints to XLA: three reasons to hold an optimization back, one function for each.

All are `lax.optimization_barrier`, which has no effect on values. They exist because XLA on CPU
fuses without regard to what a fusion computes again.
"""

from jax import lax


def compute_once[Tree](values: Tree) -> Tree:
    """Keeps values in memory, where XLA would compute them again for each reader or element."""
    return lax.optimization_barrier(values)


def read_again[Tree](values: Tree) -> Tree:
    """Makes each group of readers read values anew, where XLA would keep what the first read."""
    return lax.optimization_barrier(values)


def do_not_fuse[Tree](values: Tree) -> Tree:
    """Separates what comes before from what comes after, where fused they run slower."""
    return lax.optimization_barrier(values)
