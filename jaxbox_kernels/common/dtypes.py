"""In which precision to compute."""

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike


def sum_dtype(array: Array) -> DTypeLike:
    """That of sums: float32, or wider if the array is."""
    return jnp.float64 if array.dtype == jnp.float64 else jnp.float32
