"""Box convolution in plain XLA: a choice between two forms, by platform and size of the image."""

import functools
from dataclasses import replace
from typing import Final

import jax
import jax.numpy as jnp
from jax import Array

from jaxbox_kernels import non_finite, strided_gradients
from jaxbox_kernels.backend import (
    Backend,
    Backward,
    Forward,
    Gradients,
    Options,
    always_suitable,
    by_platform,
)
from jaxbox_kernels.common import sizes
from jaxbox_kernels.common.dtypes import sum_dtype
from jaxbox_kernels.xla import integral_image, integral_image_grad, overlap_matrices, second_order


def _of_finite_planes(name: str, forward: Forward, backward: Backward) -> Backend:
    """A backend that takes what is not finite for 0 and has no second derivatives."""
    return Backend(name, forward, backward, always_suitable, maps_images=True, has_strides=True)


def _complete(backend: Backend) -> Backend:
    """Extends a backend to NaN and infinite pixels, second derivatives and strided gradients."""
    backward = second_order.differentiable(non_finite.guard_backward(backend.backward))
    return replace(
        backend,
        forward=non_finite.guard_forward(backend.forward),
        backward=strided_gradients.by_spreading(backward),
    )


_MATRICES = _of_finite_planes(
    "overlap matrices", overlap_matrices.forward, overlap_matrices.backward
)
_MATRICES_IN_FLOAT32 = _of_finite_planes(
    "overlap matrices in float32",
    overlap_matrices.forward_in_float32,
    overlap_matrices.backward_in_float32,
)
_INTEGRALS = _of_finite_planes(
    "integral images", integral_image.forward, integral_image_grad.backward
)

OVERLAP_MATRICES: Final = _complete(_MATRICES)
OVERLAP_MATRICES_IN_FLOAT32: Final = _complete(_MATRICES_IN_FLOAT32)
INTEGRAL_IMAGES: Final = _complete(_INTEGRALS)

# The largest H + W for which overlap matrices are used. They cost H + W multiply-adds an output,
# integral images the same at every size. On CPU both take about as long at this size;
# `experiments/benchmarks/xla_workarounds.py` prints the ratio of their times at several sizes.
_LARGEST_MATRIX_SIZE_ON_CPU = 50
# The same on TPUs and GPUs, up to which size `docs/tpu.md` has the compiler's estimates for a TPU.
_LARGEST_MATRIX_SIZE = 4096


def _choose_on_cpu(planes: Array, whole_pixels: bool) -> Backend:
    # Knowing that bounds lie on pixel edges makes integral images faster, and matrices not.
    small = _has_size_up_to(_LARGEST_MATRIX_SIZE_ON_CPU, planes)
    return _MATRICES if small and not whole_pixels else _INTEGRALS


def _choose_elsewhere(planes: Array) -> Backend:
    if not _has_size_up_to(_LARGEST_MATRIX_SIZE, planes):
        return _INTEGRALS
    return _MATRICES_IN_FLOAT32 if planes.dtype == jnp.float32 else _MATRICES


def _has_size_up_to(largest: int, planes: Array) -> bool:
    height, width = planes.shape[-2:]
    return sizes.are_known(height, width) and height + width <= largest


def _forward_on_cpu(x: Array, theta: Array, options: Options) -> Array:
    return _choose_on_cpu(x, options.whole_pixels).forward(x, theta, options)


def _backward_on_cpu(x: Array | None, theta: Array, g: Array, options: Options) -> Gradients:
    return _choose_on_cpu(g, whole_pixels=False).backward(x, theta, g, options)


def _forward_elsewhere(x: Array, theta: Array, options: Options) -> Array:
    return _choose_elsewhere(x).forward(x, theta, options)


def _backward_elsewhere(x: Array | None, theta: Array, g: Array, options: Options) -> Gradients:
    return _choose_elsewhere(g).backward(x, theta, g, options)


def with_wide_sums(backend: Backend) -> Backend:
    """A backend that computes in float32 at least."""

    @functools.partial(jax.jit, static_argnames="options")
    def forward(x: Array, theta: Array, options: Options) -> Array:
        dtype = sum_dtype(x)
        return backend.forward(x.astype(dtype), theta.astype(dtype), options).astype(x.dtype)

    @functools.partial(jax.jit, static_argnames="options")
    def backward(x: Array | None, theta: Array, g: Array, options: Options) -> Gradients:
        dtype = sum_dtype(g)
        wide_x = None if x is None else x.astype(dtype)
        dx, dtheta = backend.backward(wide_x, theta.astype(dtype), g.astype(dtype), options)
        return None if dx is None else dx.astype(g.dtype), dtheta

    return replace(backend, forward=forward, backward=backward)


_ON_CPU = _of_finite_planes("xla", _forward_on_cpu, _backward_on_cpu)
_ELSEWHERE = _of_finite_planes("xla", _forward_elsewhere, _backward_elsewhere)

BACKEND: Final = replace(
    with_wide_sums(_complete(by_platform("cpu", _ON_CPU, _ELSEWHERE))), name="xla"
)
# JAX traces what it computes on CPUs too, so a backend that is never used there saves time.
BACKEND_ELSEWHERE: Final = with_wide_sums(_complete(_ELSEWHERE))
