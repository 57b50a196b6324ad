"""Hints to XLA on CPU, which fuses without regard to what a fusion computes again.

Each function leaves values as they are and holds back an optimization across them. There is one
function for each reason; `workarounds.disabled` switches them off.
"""

from jax import lax

from jaxbox_kernels.common.workarounds import Workaround, enabled


def compute_once[Tree](values: Tree) -> Tree:
    """Keeps values in memory. Otherwise XLA may compute them again for each reader or element."""
    return _hold(values, Workaround.COMPUTE_ONCE)


def read_again[Tree](values: Tree) -> Tree:
    """Makes what follows read values anew. Otherwise XLA may keep what others have read before."""
    return _hold(values, Workaround.READ_AGAIN)


def do_not_fuse[Tree](values: Tree) -> Tree:
    """Separates what precedes from what follows, because both run slower in one loop."""
    return _hold(values, Workaround.DO_NOT_FUSE)


def _hold[Tree](values: Tree, reason: Workaround) -> Tree:
    held: Tree = lax.optimization_barrier(values) if enabled(reason) else values
    return held
