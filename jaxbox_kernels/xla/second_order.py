"""Derivatives of the gradients, for backends that have none of their own."""

import functools
from typing import Any

import jax
from jax import Array

from jaxbox_kernels import strided_gradients
from jaxbox_kernels.backend import Backward, Gradients, Options
from jaxbox_kernels.common.dtypes import sum_dtype
from jaxbox_kernels.xla import overlap_matrices


def differentiable(backward: Backward) -> Backward:
    """Makes a backend's `backward` differentiable.

    Its derivatives are those of the overlap matrices, which are ordinary functions of boxes and
    pixels.
    """

    @functools.wraps(backward)
    def differentiable_backward(
        x: Array | None, theta: Array, g: Array, options: Options
    ) -> Gradients:
        @jax.custom_jvp
        def gradients(*arrays: Any) -> Gradients:
            x, theta, g = arrays
            return backward(x, theta, g, options)

        @gradients.defjvp
        def differentiate(arrays: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
            by_matrices = functools.partial(_by_matrices, options=options)
            return gradients(*arrays), jax.jvp(by_matrices, arrays, tangents)[1]

        result: Gradients = gradients(x, theta, g)
        return result

    return differentiable_backward


@strided_gradients.by_spreading
def _by_matrices(x: Array | None, theta: Array, g: Array, options: Options) -> Gradients:
    dtype = sum_dtype(theta)
    dx, dtheta = overlap_matrices.gradients(
        None if x is None else x.astype(dtype), theta.astype(dtype), g.astype(dtype), options
    )
    return None if dx is None else dx.astype(g.dtype), dtheta
