"""Box convolution by native kernels for CPUs.

The kernels are C++, beside this file. They sum float32 and float64 pixels in float64; pixels of
other dtypes are converted to float32 for them.
"""

import functools
from collections.abc import Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxbox_kernels.backend import Backend, Gradients, Options
from jaxbox_kernels.common import sizes
from jaxbox_kernels.common.dtypes import sum_dtype
from jaxbox_kernels.common.planewise import planewise
from jaxbox_kernels.common.platform_only import not_exported, platform_only
from jaxbox_kernels.common.strides import output_size
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
        batch, channels, height, width = x.shape
        size = output_size((height, width), options.strides)
        axes = (batch, channels, theta.shape[1], *size)
        if options.channels_last:
            axes = (batch, *size, channels, theta.shape[1])
        call: Any = jax.ffi.ffi_call(library.FORWARD, jax.ShapeDtypeStruct(axes, dtype))
        output = call(
            _not_exported(_in_memory(x, options)), theta, **_attributes((height, width), options)
        )
        return _as_planes(output, options)

    return planewise(_cpu_only(of_device), theta.astype(dtype), x.astype(dtype)).astype(x.dtype)


@second_order.differentiable
def backward(x: Array | None, theta: Array, g: Array, options: Options) -> Gradients:
    """Computes the gradients; see `jaxbox_kernels.backend.Backward`."""
    dtype = sum_dtype(g)
    needs_dtheta = x is not None
    size = options.input_size or g.shape[-2:]

    def of_device(theta: Array, g: Array, x: Array) -> list[Array]:
        batch, channels, boxes = g.shape[:3]
        dx = (batch, *size, channels) if options.channels_last else (batch, channels, *size)
        dtheta = (batch, channels, boxes, 4)
        # Arrays without elements stand for what is not needed.
        shapes = (dx if options.needs_dx else (0,), dtheta if needs_dtheta else (0,))
        call: Any = jax.ffi.ffi_call(
            library.BACKWARD, [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
        )
        g = _not_exported(_in_memory(g, options))
        in_memory, of_boxes = call(_in_memory(x, options), theta, g, **_attributes(size, options))
        empty = jnp.zeros((batch, channels, 0, 0), dtype)
        return [
            _as_planes(in_memory, options) if options.needs_dx else empty,
            of_boxes if needs_dtheta else empty,
        ]

    x_or_nothing = jnp.zeros((*g.shape[:2], 0, 0), dtype) if x is None else x.astype(dtype)
    dx, dtheta = planewise(_cpu_only(of_device), theta.astype(dtype), g.astype(dtype), x_or_nothing)
    return (
        dx.astype(g.dtype) if options.needs_dx else None,
        None if x is None else jnp.sum(dtheta, 0),
    )


def _attributes(size: Sequence[int], options: Options) -> dict[str, bool | np.int64]:
    # FFI takes NumPy's integers for what their dtype says.
    height, width, stride_y, stride_x = map(np.int64, (*size, *options.strides))
    return {
        "height": height,
        "width": width,
        "stride_y": stride_y,
        "stride_x": stride_x,
        "normalize": options.normalize,
        "whole_pixels": options.whole_pixels,
        "channels_last": options.channels_last,
    }


def _in_memory(planes: Array, options: Options) -> Array:
    """Transposes planes `(N, C, ..., H, W)` to the axes that they are views of."""
    return jnp.moveaxis(planes, (-2, -1), (1, 2)) if options.channels_last else planes


def _as_planes(array: Array, options: Options) -> Array:
    """Transposes what lies in memory to planes `(N, C, ..., H, W)`."""
    return jnp.moveaxis(array, (1, 2), (-2, -1)) if options.channels_last else array


BACKEND: Final = Backend(
    "native",
    forward,
    backward,
    unsuitable,
    maps_images=False,
    reads_channels_last=True,
    has_strides=True,
)
