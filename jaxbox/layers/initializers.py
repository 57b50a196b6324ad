"""The initializers that layers have by default."""

from collections.abc import Sequence
from typing import Final

import jax
from flax import nnx
from flax.typing import Dtype, Initializer

__all__ = ["KERNEL_INIT", "OFFSETS_INIT", "uniform"]

KERNEL_INIT: Final[Initializer] = nnx.initializers.lecun_normal()
"""For the weights of a kernel, as in Flax."""

OFFSETS_INIT: Final[Initializer] = nnx.initializers.normal(0.5)
"""For the offsets, in cells, of DCLS's taps from the positions around which they start."""


def uniform(bound: float) -> Initializer:
    """Returns the initializer of numbers that are uniform in `[-bound, bound]`."""

    def init(key: jax.Array, shape: Sequence[int], dtype: Dtype) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
