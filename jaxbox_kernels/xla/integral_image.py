"""Box convolution by integral images: the cost does not depend on the sizes of the boxes.

The integral over a box is, along each axis, the difference of two prefix sums at the box's bounds,
linear between pixel edges. All boxes of a channel share one integral image, which holds prefix sums
over both axes.

In float32, prefix sums over a whole image are too coarse for a small box. So they are in fixed
point, in 64 bits, where sums and differences are exact: what a box sees is rounded once, when the
pixels are converted, and nothing outside the box changes the result.

In the shapes below, `P` is the number of planes: of all channels of all images.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxbox_kernels.backend import Options
from jaxbox_kernels.common import bounds, xla_hints
from jaxbox_kernels.common.area import scales
from jaxbox_kernels.common.bounds import Extent
from jaxbox_kernels.common.strides import Strides
from jaxbox_kernels.non_finite import finite
from jaxbox_kernels.xla import chunks, fixed_point, prefix_sums, shifted_reads
from jaxbox_kernels.xla.fixed_point import FixedPoint


def forward(x: Array, theta: Array, options: Options) -> Array:
    """Computes the output; see `jaxbox_kernels.backend.Forward` and `non_finite`."""
    filter_planes = functools.partial(_filter, options=options)
    output = chunks.map_planes(filter_planes, *merge_batch(theta, x))
    return output.reshape(*x.shape[:2], *output.shape[1:])


def merge_batch(theta: Array, x: Array) -> tuple[Array, Array]:
    """Merges images and channels of `x`, and repeats the boxes `(C, F, 4)` for each image."""
    batch = x.shape[0]
    planes = lax.collapse(x, 0, 2)
    return jnp.tile(theta, (batch, 1, 1)), planes


def _filter(theta: Array, x: Array, *, options: Options) -> Array:
    """Computes the output `(P, F, H, W)` for boxes `(P, F, 4)` and planes `(P, H, W)`."""
    x = finite(x)
    with jax.enable_x64(True):
        wide = theta.astype(jnp.float64)
        along_y, along_x = bounds.extents(wide, *x.shape[-2:], whole_pixels=options.whole_pixels)
        image = _integral_image(x)
        integrate = _integrate_whole_pixels if options.whole_pixels else _integrate
        integrals = integrate(image.numbers, along_y, along_x, options.strides)
        scale_x, scale_y = scales(wide, normalize=options.normalize)
        steps = xla_hints.compute_once(image.step[..., 0] * scale_x * scale_y)
        return (integrals * steps[..., None, None]).astype(x.dtype)


def _integral_image(x: Array) -> FixedPoint:
    """Prefix sums over both axes of planes `(P, H, W)`, in fixed point."""
    image = fixed_point.quantize(x, terms=x.shape[-2] * x.shape[-1])
    along_rows = xla_hints.compute_once(prefix_sums.over_columns(image.numbers))
    sums = xla_hints.compute_once(prefix_sums.over_rows(along_rows))
    return image._replace(numbers=sums)


def _integrate(sums: Array, along_y: Extent, along_x: Extent, strides: Strides) -> Array:
    """Integrates an integral image over boxes: `(P, H, W)` to `(P, F, H, W)`, or less by strides.

    It integrates over rows first and then over columns: 8 reads, where both at once would take 16.
    """
    rows = shifted_reads.integrate_rows(sums, along_y, strides[0])
    return shifted_reads.integrate_columns(xla_hints.compute_once(rows), along_x, strides[1])


def _integrate_whole_pixels(
    sums: Array, along_y: Extent, along_x: Extent, strides: Strides
) -> Array:
    """Integrates as `_integrate` does, over boxes with all bounds on pixel edges.

    It takes 4 reads, and no integrals over rows between them.
    """
    height, width = sums.shape[1:]
    stride_y, stride_x = strides
    rows = shifted_reads.with_margins(shifted_reads.split_phases(sums, stride_x))
    low, high = (
        bounds.count(offset, height, stride=stride_y) * rows.shape[-1] for offset in along_y.offsets
    )
    read = functools.partial(
        shifted_reads.integrate_slices,
        lax.collapse(rows, 1),
        extent=along_x,
        width=width,
        stride=stride_x,
    )
    return read(high) - read(low)
