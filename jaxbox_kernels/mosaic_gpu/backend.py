"""Box convolution by Pallas Mosaic kernels, for Hopper and Blackwell GPUs.

Works on planes: `x` is `(N, C, H, W)`, `theta` `(C, F, 4)`, the output `(N, C, F, H, W)`, of
float32 or bfloat16; sums are float32.

All outputs of a box shift its sides alike, so that no kernel gathers: running sums along the rows
are read at shifted columns, 128 at a time, and rows are added up on the way down.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jaxbox_kernels.common.area import gradient_through_area, scale
from jaxbox_kernels.mosaic_gpu import box_params, grad_theta, grad_x, lanes, row_prefix_sums
from jaxbox_kernels.mosaic_gpu import forward as box_filter
from jaxbox_kernels.mosaic_gpu.cuda_only import cuda_only
from jaxbox_kernels.mosaic_gpu.partitioning import planewise
from jaxbox_kernels.mosaic_gpu.row_prefix_sums import RowSums
from jaxbox_kernels.xla import second_order as second_derivatives

_COMPUTE_CAPABILITIES = (9, 10)
_DTYPES = ("float32", "bfloat16")


def unsuitable_device() -> str | None:
    """Why the kernels cannot run on the default device, if that is a GPU; `None` if they can."""
    device = jax.local_devices()[0]
    capability = getattr(device, "compute_capability", None)
    if capability is None or int(float(capability)) in _COMPUTE_CAPABILITIES:
        return None
    return (
        f"it needs a GPU of compute capability {_COMPUTE_CAPABILITIES[0]} or "
        f"{_COMPUTE_CAPABILITIES[1]} (Hopper, Blackwell); got {capability} ({device.device_kind})"
    )


def unsuitable_planes(shape: tuple[int, ...], dtype: DTypeLike, boxes: int) -> str | None:
    """Why the kernels cannot serve planes `(N, C, H, W)` with so many boxes; `None` if they can."""
    if jnp.dtype(dtype).name not in _DTYPES:
        return f"x must be of {' or '.join(_DTYPES)}; got {jnp.dtype(dtype).name}"
    if shape[0] == 0:
        return f"the batch of x must not be empty; got the shape {shape}"
    width = shape[-1]
    memory = grad_x.shared_memory(width)
    if memory > grad_x.LARGEST_SHARED_MEMORY:
        return f"a row of x must fit into shared memory; got {width} pixels, {memory} bytes"
    rows = math.prod(shape[:-1])
    largest = max(row_prefix_sums.size(rows, width), rows * boxes * lanes.padded(width))
    if largest >= 2**31:
        return f"x and the output must have less than 2**31 numbers; got {largest}, padded"
    return None


def forward(x: Array, theta: Array, *, normalize: bool, whole_pixels: bool = False) -> Array:
    """Box averages, or integrals without `normalize`; faster where all sides lie on pixel edges."""
    filter_planes = functools.partial(_filter, normalize=normalize, whole_pixels=whole_pixels)
    return planewise(cuda_only(filter_planes), theta.astype(jnp.float32), x)


@second_derivatives.by_matrices
def backward(
    x: Array | None,
    theta: Array,
    g: Array,
    *,
    normalize: bool,
    whole_pixels: bool = False,
    by_x: bool = True,
) -> tuple[Array | None, Array | None]:
    """Gradients by `x` and by `theta`, given `g`, the one by the output.

    That by `theta` is left out where there is no `x`, the other without `by_x`.
    """
    theta = theta.astype(jnp.float32)
    dx = dtheta = None
    if by_x:
        filter_back = functools.partial(
            _filter_back, normalize=normalize, whole_pixels=whole_pixels
        )
        dx = planewise(cuda_only(filter_back), theta, g)
    if x is not None:
        # Of each image: where images are on several devices, XLA adds them up across these.
        products = jnp.sum(planewise(cuda_only(_inner_products), theta, x, g), 0)
        scales = scale(theta, normalize=normalize)
        dtheta = scales[..., None] * products[..., 1:]
        if normalize:
            dtheta += gradient_through_area(theta, scales * products[..., 0])
    return dx, dtheta


def _filter(theta: Array, x: Array, *, normalize: bool, whole_pixels: bool) -> Array:
    batch, channels, *size = x.shape
    shape = (batch, channels, theta.shape[1], *size)
    boxes = box_params.of_boxes(theta, scale(theta, normalize=normalize), shape, whole_pixels)
    output = box_filter.filter_planes(_sums(x), boxes, shape, x.dtype, whole=whole_pixels)
    return output[..., : shape[-1]].reshape(shape)


def _filter_back(theta: Array, g: Array, *, normalize: bool, whole_pixels: bool) -> Array:
    batch, channels, _, height, width = shape = g.shape
    boxes = box_params.of_adjoint(theta, scale(theta, normalize=normalize), shape, whole_pixels)
    entries = grad_x.entries(_rows(g), boxes, shape, whole=whole_pixels)
    dx = row_prefix_sums.sum_rows_back(entries, lanes.padded(width), g.dtype)
    return dx[:, :width].reshape(batch, channels, height, width)


def _inner_products(theta: Array, x: Array, g: Array) -> Array:
    """With the integrals and their derivatives by the sides, as `theta` has them: `(N, C, F, 5)`.

    Where a side lies on a pixel edge, the derivative is that in the direction in which boxes grow:
    so the boxes' sides are never taken for whole pixels here.
    """
    no_scales = jnp.ones(theta.shape[:2], jnp.float32)
    boxes = box_params.of_boxes(theta, no_scales, g.shape, whole_pixels=False)
    return grad_theta.inner_products(_sums(x), _rows(g), boxes, g.shape)


def _sums(x: Array) -> RowSums:
    width = x.shape[-1]
    return row_prefix_sums.sum_rows(_rows(x), width)


def _rows(planes: Array) -> Array:
    """The rows of all planes, `(rows, padded(W))`: with zeros up to a whole strip."""
    width = planes.shape[-1]
    rows = planes.reshape(-1, width)
    return jnp.pad(rows, [(0, 0), (0, lanes.padded(width) - width)])
