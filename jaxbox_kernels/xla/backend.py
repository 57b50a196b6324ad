"""The choice between the two forms of the box convolution in XLA, by the size of the image."""

import functools
from typing import Final

import jax
from jax import Array

from jaxbox_kernels.backend import Backend, Gradients, Options, always_suitable
from jaxbox_kernels.common.dtypes import sum_dtype
from jaxbox_kernels.xla import integral_image, overlap_matrices, second_order

# Largest H + W for which overlap matrices are used. They cost H + W multiply-adds an output,
# integral images the same at every size. Time of matrices relative to integral images on CPU,
# forward and backward: 0.9 and 0.6 at H + W = 32, 1.1 and 0.9 at 48, 1.0 and 1.3 at 52, 1.3 and 1.0
# at 72, 1.6 and 1.7 at 104, 2.5 and 4.9 at 192.
_LARGEST_MATRIX_SIZE = 50


@functools.partial(jax.jit, static_argnames="options")
def forward(x: Array, theta: Array, options: Options) -> Array:
    """Computes the output; see `jaxbox_kernels.backend.Forward`."""
    dtype = sum_dtype(x)
    # Boxes of whole pixels make integral images faster, and matrices not.
    uses_matrices = _uses_matrices(x) and not options.whole_pixels
    form = overlap_matrices if uses_matrices else integral_image
    return form.forward(x.astype(dtype), theta.astype(dtype), options).astype(x.dtype)


@functools.partial(jax.jit, static_argnames="options")
def backward(x: Array | None, theta: Array, g: Array, options: Options) -> Gradients:
    """Computes the gradients; see `jaxbox_kernels.backend.Backward`."""
    dtype = sum_dtype(g)
    # Integral images are in fixed point, which has no derivatives. Matrices have all of them.
    form = overlap_matrices.backward if _uses_matrices(g) else _differentiable_integral_image
    dx, dtheta = form(
        None if x is None else x.astype(dtype), theta.astype(dtype), g.astype(dtype), options
    )
    return None if dx is None else dx.astype(g.dtype), dtheta


_differentiable_integral_image = second_order.differentiable(integral_image.backward)


def _uses_matrices(planes: Array) -> bool:
    return sum(planes.shape[-2:]) <= _LARGEST_MATRIX_SIZE


BACKEND: Final = Backend("xla", forward, backward, always_suitable, maps_images=True)
