"""Computation of planes in chunks, whose intermediate results stay in the caches.

Chunks also bound the memory: glibc returns blocks of more than 32 MB to the system at once, and the
page faults of the next call would cost more than the arithmetic.
"""

import math
from collections.abc import Callable

import jax
from jax import Array, lax

from jaxbox_kernels.common import sizes, xla_hints
from jaxbox_kernels.common.workarounds import Workaround, enabled

# Chunk size in outputs; inputs are chunked only above twice this.
_CHUNK_OUTPUTS = 2**19


def map_planes[Result](function: Callable[..., Result], theta: Array, *planes: Array) -> Result:
    """Applies a function of boxes and planes to one chunk of planes after the other.

    Args:
      function: takes `theta` and `planes` and returns arrays whose first axis is theirs.
      theta: the boxes of each plane, `(P, F, 4)`.
      *planes: arrays `(P, ..., H, W)`.
    """
    number, boxes = theta.shape[:2]
    if not sizes.are_known(number, boxes, *planes[0].shape[-2:]):
        return function(theta, *planes)
    fitting = max(1, _CHUNK_OUTPUTS // (boxes * math.prod(planes[0].shape[-2:])))
    if number <= 2 * fitting or not enabled(Workaround.CHUNKS):
        return function(theta, *planes)
    size = max(size for size in range(1, fitting + 1) if number % size == 0)
    chunks = [array.reshape(-1, size, *array.shape[1:]) for array in (theta, *planes)]
    # Fused with the write into the joined results, the last loop would run in one thread.
    results = lax.map(lambda arrays: xla_hints.do_not_fuse(function(*arrays)), chunks)
    merged: Result = jax.tree.map(lambda array: lax.collapse(array, 0, 2), results)
    return merged
