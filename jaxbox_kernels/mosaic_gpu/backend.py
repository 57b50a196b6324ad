"""Box convolution by Pallas Mosaic kernels, for Hopper and Blackwell GPUs.

Inputs and outputs are float32 or bfloat16; sums are in fixed point of
two int32 words along rows, and compensated float32 sums down the rows.

The bounds of a box have the same offsets at all outputs, so that no kernel needs a gather: prefix
sums over columns are read at shifted columns, 128 at a time, and a window slides down the rows.
"""

import functools
import math
from typing import Final

import jax
import jax.numpy as jnp
from jax import Array

from jaxbox_kernels.backend import Backend, Gradients, Options
from jaxbox_kernels.common import powers_of_two, sizes
from jaxbox_kernels.common.planewise import planewise
from jaxbox_kernels.common.platform_only import platform_only
from jaxbox_kernels.mosaic_gpu import (
    box_params,
    grad_theta,
    grad_x,
    lanes,
    magnitudes,
    row_prefix_sums,
    tiles,
)
from jaxbox_kernels.mosaic_gpu import forward as box_filter
from jaxbox_kernels.mosaic_gpu.magnitudes import MeasuredRows
from jaxbox_kernels.xla import second_order

_COMPUTE_CAPABILITIES = (9, 10)
_DTYPES = ("float32", "bfloat16")


def unsuitable(x: jax.ShapeDtypeStruct, boxes: int) -> str | None:
    """Says why the kernels cannot serve an input; see `jaxbox_kernels.backend.Unsuitable`."""
    return _unsuitable_device() or _unsuitable_input(x, boxes)


def _unsuitable_device() -> str | None:
    """Says why the kernels cannot run on the default device; `None` if that is not a GPU."""
    device = jax.local_devices()[0]
    capability = getattr(device, "compute_capability", None)
    if capability is None:
        return None
    major = str(capability).partition(".")[0]  # AMD's are names, as "gfx90a".
    if major in map(str, _COMPUTE_CAPABILITIES):
        return None
    return (
        f"it needs a GPU of compute capability {_COMPUTE_CAPABILITIES[0]} or "
        f"{_COMPUTE_CAPABILITIES[1]} (Hopper, Blackwell); got {capability} ({device.device_kind})"
    )


def _unsuitable_input(x: jax.ShapeDtypeStruct, boxes: int) -> str | None:
    if not sizes.are_known(*x.shape, boxes):
        return f"all sizes must be known; got the symbolic shape {x.shape}"
    if x.dtype.name not in _DTYPES:
        return f"x must be of {' or '.join(_DTYPES)}; got {x.dtype.name}"
    if x.shape[0] == 0:
        return f"the batch of x must not be empty; got the shape {x.shape}"
    width = x.shape[-1]
    memory = tiles.shared_memory(width)
    if memory > tiles.LARGEST_SHARED_MEMORY:
        return f"a row of x must fit into shared memory; got {width} pixels, {memory} bytes"
    rows = math.prod(x.shape[:-1])
    largest = max(row_prefix_sums.size(rows, width), rows * boxes * lanes.padded(width))
    if largest >= 2**31:
        return f"x and the output must have less than 2**31 numbers; got {largest}, padded"
    return None


_cuda_only = functools.partial(
    platform_only,
    platform="cuda",
    reason="implementation='mosaic_gpu' cannot serve: it must be compiled for CUDA, that is, run "
    "on a GPU or exported for one",
)


def forward(x: Array, theta: Array, options: Options) -> Array:
    """Computes the output; see `jaxbox_kernels.backend.Forward`."""
    of_device = functools.partial(_filter, options=options)
    return planewise(_cuda_only(of_device), theta.astype(jnp.float32), x)


@second_order.differentiable
def backward(x: Array | None, theta: Array, g: Array, options: Options) -> Gradients:
    """Computes the gradients; see `jaxbox_kernels.backend.Backward`."""
    theta = theta.astype(jnp.float32)
    dx = dtheta = None
    if options.needs_dx:
        of_device = functools.partial(_filter_back, options=options)
        dx = planewise(_cuda_only(of_device), theta, g)
    if x is not None:
        # The axis of images is kept, so that XLA can add up across devices.
        of_images = functools.partial(_grad_theta, options=options)
        dtheta = jnp.sum(planewise(_cuda_only(of_images), theta, x, g), 0)
    return dx, dtheta


def _filter(theta: Array, x: Array, *, options: Options) -> Array:
    batch, channels, height, width = x.shape
    shape, whole = (batch, channels, theta.shape[1], height, width), options.whole_pixels
    boxes = box_params.of_boxes(theta, shape, normalize=options.normalize, whole_pixels=whole)
    rows = _rows(x)
    sums = row_prefix_sums.sum_rows(rows, width)
    table = box_params.table(boxes)
    output: Array = box_filter.filter_planes(sums, rows, table, shape, x.dtype, whole=whole)
    return output[..., :width].reshape(shape)


def _filter_back(theta: Array, g: Array, *, options: Options) -> Array:
    batch, channels, _, height, width = shape = g.shape
    whole, rows = options.whole_pixels, _rows(g)
    boxes = box_params.of_adjoint(theta, shape, normalize=options.normalize, whole_pixels=whole)
    table = box_params.table(boxes)
    dx: Array = grad_x.filter_back(rows, table, shape, whole=whole)
    return dx[:, :width].reshape(batch, channels, height, width)


def _grad_theta(theta: Array, x: Array, g: Array, *, options: Options) -> Array:
    """The part of each image in the gradient with respect to `theta`: `(N, C, F, 4)`.

    Where a bound lies on a pixel edge, the derivative is that in the direction in which the box
    grows. So bounds are never rounded to pixel edges here.
    """
    shape, normalize = g.shape, options.normalize
    boxes = box_params.of_adjoint(theta, shape, normalize=normalize, whole_pixels=False)
    rows_of_x, rows_of_g = _rows(x), _rows(g)
    products, exponents = grad_theta.inner_products(
        row_prefix_sums.sum_rows(rows_of_x, shape[-1]),
        rows_of_x,
        rows_of_g,
        box_params.table(boxes),
        shape,
    )
    gradient = grad_theta.from_products(products, boxes, theta, shape, normalize=normalize)
    first, second = powers_of_two.product(*exponents)
    gradient = gradient * first[..., None] * second[..., None]
    has_nan_bound = jnp.any(jnp.isnan(theta), -1, keepdims=True)
    return jnp.where(jnp.broadcast_to(has_nan_bound, gradient.shape), jnp.nan, gradient)


def _rows(planes: Array) -> MeasuredRows:
    """The rows of all planes, padded with zeros to whole strips: `(rows, padded(W))`."""
    width = planes.shape[-1]
    rows = planes.reshape(-1, width)
    return magnitudes.measure(jnp.pad(rows, [(0, 0), (0, lanes.padded(width) - width)]))


BACKEND: Final = Backend("mosaic_gpu", forward, backward, unsuitable, maps_images=False)
