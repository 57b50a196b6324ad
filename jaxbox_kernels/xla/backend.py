"""Box convolution in plain XLA: a choice between two forms, by the size of the image."""

import functools
from typing import Final

import jax
from jax import Array

from jaxbox_kernels import non_finite
from jaxbox_kernels.backend import (
    Backend,
    Backward,
    Forward,
    Gradients,
    Options,
    always_suitable,
)
from jaxbox_kernels.common.dtypes import sum_dtype
from jaxbox_kernels.xla import integral_image, integral_image_grad, overlap_matrices, second_order


def _form(name: str, forward: Forward, backward: Backward) -> Backend:
    guarded = non_finite.guard_forward(forward)
    return Backend(
        name,
        guarded,
        second_order.differentiable(non_finite.guard_backward(backward, guarded)),
        always_suitable,
        maps_images=True,
    )


OVERLAP_MATRICES: Final = _form(
    "overlap matrices", overlap_matrices.forward, overlap_matrices.backward
)
INTEGRAL_IMAGES: Final = _form(
    "integral images", integral_image.forward, integral_image_grad.backward
)

# The largest H + W for which overlap matrices are used. They cost H + W multiply-adds an output,
# integral images the same at every size. Both take about as long on CPU at this size;
# `experiments/benchmarks/xla_workarounds.py` prints the ratio of their times at several sizes.
_LARGEST_MATRIX_SIZE = 50


@functools.partial(jax.jit, static_argnames="options")
def forward(x: Array, theta: Array, options: Options) -> Array:
    """Computes the output; see `jaxbox_kernels.backend.Forward`."""
    dtype = sum_dtype(x)
    # Knowing that bounds lie on pixel edges makes integral images faster, and matrices not.
    form = INTEGRAL_IMAGES if options.whole_pixels else _choose(x)
    output = form.forward(x.astype(dtype), theta.astype(dtype), options)
    return output.astype(x.dtype)


@functools.partial(jax.jit, static_argnames="options")
def backward(x: Array | None, theta: Array, g: Array, options: Options) -> Gradients:
    """Computes the gradients; see `jaxbox_kernels.backend.Backward`."""
    dtype = sum_dtype(g)
    wide_x = None if x is None else x.astype(dtype)
    dx, dtheta = _choose(g).backward(wide_x, theta.astype(dtype), g.astype(dtype), options)
    return None if dx is None else dx.astype(g.dtype), dtheta


def _choose(planes: Array) -> Backend:
    small = sum(planes.shape[-2:]) <= _LARGEST_MATRIX_SIZE
    return OVERLAP_MATRICES if small else INTEGRAL_IMAGES


BACKEND: Final = Backend("xla", forward, backward, always_suitable, maps_images=True)
