"""The dtypes that computations use."""

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike


def sum_dtype(array: Array) -> DTypeLike:
    """The dtype in which to add up an array: float64 if that is its dtype, else float32."""
    return jnp.float64 if array.dtype == jnp.float64 else jnp.float32
