"""Box convolution in plain XLA: a choice between two forms, by platform and size of the image."""

import functools
from dataclasses import replace
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxbox_kernels import non_finite
from jaxbox_kernels.backend import (
    Backend,
    Backward,
    Forward,
    Gradients,
    Options,
    always_suitable,
)
from jaxbox_kernels.common import sizes
from jaxbox_kernels.common.dtypes import sum_dtype
from jaxbox_kernels.xla import integral_image, integral_image_grad, overlap_matrices, second_order


class _Form(NamedTuple):
    """A way to compute box convolutions of finite planes."""

    forward: Forward
    backward: Backward


_MATRICES = _Form(overlap_matrices.forward, overlap_matrices.backward)
_MATRICES_IN_FLOAT32 = _Form(
    overlap_matrices.forward_in_float32, overlap_matrices.backward_in_float32
)
_INTEGRALS = _Form(integral_image.forward, integral_image_grad.backward)


def _backend(name: str, form: _Form) -> Backend:
    """A form, extended to NaN and infinite pixels and to second derivatives."""
    return Backend(
        name,
        non_finite.guard_forward(form.forward),
        second_order.differentiable(non_finite.guard_backward(form.backward)),
        always_suitable,
        maps_images=True,
    )


OVERLAP_MATRICES: Final = _backend("overlap matrices", _MATRICES)
OVERLAP_MATRICES_IN_FLOAT32: Final = _backend("overlap matrices in float32", _MATRICES_IN_FLOAT32)
INTEGRAL_IMAGES: Final = _backend("integral images", _INTEGRALS)

# The largest H + W for which overlap matrices are used. They cost H + W multiply-adds an output,
# integral images the same at every size. On CPU both take about as long at this size;
# `experiments/benchmarks/xla_workarounds.py` prints the ratio of their times at several sizes.
_LARGEST_MATRIX_SIZE_ON_CPU = 50
# `docs/tpu.md` has the compiler's estimates for a TPU.
_LARGEST_MATRIX_SIZE = 4096


def _choose_on_cpu(planes: Array, whole_pixels: bool) -> _Form:
    # Knowing that bounds lie on pixel edges makes integral images faster, and matrices not.
    small = _has_size_up_to(_LARGEST_MATRIX_SIZE_ON_CPU, planes)
    return _MATRICES if small and not whole_pixels else _INTEGRALS


def _choose_elsewhere(planes: Array) -> _Form:
    if not _has_size_up_to(_LARGEST_MATRIX_SIZE, planes):
        return _INTEGRALS
    return _MATRICES_IN_FLOAT32 if planes.dtype == jnp.float32 else _MATRICES


def _has_size_up_to(largest: int, planes: Array) -> bool:
    height, width = planes.shape[-2:]
    return sizes.are_known(height, width) and height + width <= largest


def _forward_elsewhere(x: Array, theta: Array, options: Options) -> Array:
    return _choose_elsewhere(x).forward(x, theta, options)


def _backward_elsewhere(x: Array | None, theta: Array, g: Array, options: Options) -> Gradients:
    return _choose_elsewhere(g).backward(x, theta, g, options)


def _forward(x: Array, theta: Array, options: Options) -> Array:
    on_cpu = _choose_on_cpu(x, options.whole_pixels).forward
    output: Array = lax.platform_dependent(
        x,
        theta,
        cpu=functools.partial(on_cpu, options=options),
        default=functools.partial(_forward_elsewhere, options=options),
    )
    return output


def _backward(x: Array | None, theta: Array, g: Array, options: Options) -> Gradients:
    on_cpu = _choose_on_cpu(g, whole_pixels=False).backward
    gradients: Gradients = lax.platform_dependent(
        x,
        theta,
        g,
        cpu=functools.partial(on_cpu, options=options),
        default=functools.partial(_backward_elsewhere, options=options),
    )
    return gradients


def _with_wide_sums(backend: Backend) -> Backend:
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


BACKEND: Final = _with_wide_sums(_backend("xla", _Form(_forward, _backward)))
# JAX traces what it computes on CPUs too, so a backend that is never used there saves time.
BACKEND_ELSEWHERE: Final = _with_wide_sums(
    _backend("xla", _Form(_forward_elsewhere, _backward_elsewhere))
)
