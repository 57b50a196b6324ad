"""Box convolution by native kernels for CPUs.

The kernels are C++, beside this file. They sum float32 and float64 pixels in float64; pixels of
other dtypes are converted to float32 for them.
"""

import functools
from typing import Any, Final

import jax
import jax.numpy as jnp
from jax import Array

from jaxbox_kernels.backend import Backend, Gradients, Options
from jaxbox_kernels.common import sizes
from jaxbox_kernels.common.dtypes import sum_dtype
from jaxbox_kernels.common.planewise import planewise
from jaxbox_kernels.common.platform_only import not_exported, platform_only
from jaxbox_kernels.cpu import library
from jaxbox_kernels.xla import second_order


def unsuitable(x: jax.ShapeDtypeStruct, boxes: int) -> str | None:
    """Says why the kernels cannot serve an input; see `jaxbox_kernels.backend.Unsuitable`."""
    if not sizes.are_known(*x.shape, boxes):
        return f"all sizes must be known; got the symbolic shape {x.shape}"
    return library.why_missing()


_cpu_only = functools.partial(
    platform_only,
    platform="cpu",
    reason="implementation='native' cannot serve: it must be compiled for CPUs",
)
_not_exported = functools.partial(
    not_exported,
    reason="jax.export accepts no native kernels: export within "
    '`with jaxbox.default_implementation("xla"):`, and with implementation=None.',
)


def forward(x: Array, theta: Array, options: Options) -> Array:
    """Computes the output; see `jaxbox_kernels.backend.Forward`."""
    dtype = sum_dtype(x)

    def of_device(theta: Array, x: Array) -> Array:
        shape = (*x.shape[:2], theta.shape[1], *x.shape[2:])
        call: Any = jax.ffi.ffi_call(library.FORWARD, jax.ShapeDtypeStruct(shape, dtype))
        output: Array = call(
            _not_exported(x), theta, normalize=options.normalize, whole_pixels=options.whole_pixels
        )
        return output

    return planewise(_cpu_only(of_device), theta.astype(dtype), x.astype(dtype)).astype(x.dtype)


@second_order.differentiable
def backward(x: Array | None, theta: Array, g: Array, options: Options) -> Gradients:
    """Computes the gradients; see `jaxbox_kernels.backend.Backward`."""
    dtype = sum_dtype(g)

    def of_device(theta: Array, g: Array, x: Array) -> list[Array]:
        batch, channels, boxes, *size = g.shape
        dx = (batch, channels, *(size if options.needs_dx else [0]))
        dtheta = (batch, channels, *([0] if x.size == 0 else [boxes, 4]))
        call: Any = jax.ffi.ffi_call(
            library.BACKWARD, [jax.ShapeDtypeStruct(shape, dtype) for shape in (dx, dtheta)]
        )
        gradients: list[Array] = call(
            x,
            theta,
            _not_exported(g),
            normalize=options.normalize,
            whole_pixels=options.whole_pixels,
        )
        return gradients

    x_or_nothing = jnp.zeros((*g.shape[:2], 0), dtype) if x is None else x.astype(dtype)
    dx, dtheta = planewise(_cpu_only(of_device), theta.astype(dtype), g.astype(dtype), x_or_nothing)
    return (
        dx.astype(g.dtype) if options.needs_dx else None,
        None if x is None else jnp.sum(dtheta, 0),
    )


BACKEND: Final = Backend("native", forward, backward, unsuitable, maps_images=False)
