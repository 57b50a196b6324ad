"""Box convolution by integral images: the cost does not depend on the sizes of the boxes.

The integral over a box is, along each axis, the difference of two prefix sums at the box's bounds,
linear between pixel edges. All boxes of a channel share one integral image, which holds prefix sums
over both axes.

In float32, prefix sums over a whole image are too coarse for a small box. So prefix sums over rows
are in fixed point, where differences are exact, and only prefix sums over the columns of one row
are rounded. The mean of each row is subtracted first: the remaining sums are smaller, and they are
zero at the right border as they are at the left one.

In the shapes below, `P` is the number of planes: of all channels of all images.
"""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxbox_kernels.backend import Options
from jaxbox_kernels.common import bounds, xla_hints
from jaxbox_kernels.common.area import scale
from jaxbox_kernels.common.bounds import Extent
from jaxbox_kernels.xla import chunks, fixed_point, prefix_sums, shifted_reads
from jaxbox_kernels.xla.reductions import add_neighbouring_rows


class _IntegralImage(NamedTuple):
    """Prefix sums over both axes of an image less the mean of each row, in fixed point.

    Attributes:
      sums: integers, `(P, H, W)`. The last column would always be 0, so it stores something
        else: the prefix sums over rows of (the row's mean - the image's mean) * W / 8. The factor
        makes their rounding errors small enough.
      step: what `sums` are multiples of, `(P, 1, 1)`.
      mean: the mean of the image, `(P, 1)`.
    """

    sums: Array
    step: Array
    mean: Array


def forward(x: Array, theta: Array, options: Options) -> Array:
    """Computes the output; see `jaxbox_kernels.backend.Forward`."""
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
    height, width = x.shape[-2:]
    whole = options.whole_pixels
    along_y, along_x = bounds.extents(theta, height, width, whole_pixels=whole)
    scales = scale(theta, normalize=options.normalize)
    image = _integral_image(x)
    integrate = _integrate_whole_pixels if whole else _integrate
    sums, sums_of_means = integrate(image.sums, along_y, along_x)

    means = sums_of_means.astype(x.dtype) * (image.step * (8 / width))
    means += image.mean[..., None] * bounds.covered(along_y, height, x.dtype)
    columns = bounds.covered(along_x, width, x.dtype) * scales[..., None]
    steps = image.step[..., 0] * scales
    means, columns, steps = xla_hints.compute_once((means, columns, steps))
    return sums.astype(x.dtype) * steps[..., None, None] + means[..., None] * columns[:, :, None]


def _integral_image(x: Array) -> _IntegralImage:
    width = x.shape[-1]
    sums, means = prefix_sums.centred_over_columns(x)
    mean = jnp.mean(means, -1, keepdims=True)
    last = np.zeros((1, 1, *sums.shape[-2:]), x.dtype)
    last.flat[width - 1] = width / 8
    sums += xla_hints.compute_once(means - mean)[..., None, None] * last
    # No sum over a box is larger than twice the largest of the columns' sums.
    magnitudes = add_neighbouring_rows(jnp.abs(sums), axis=1)
    largest = jnp.max(jnp.sum(magnitudes, 1), (-1, -2))
    numbers, step = fixed_point.quantize(sums, largest[:, None, None, None])
    numbers = xla_hints.compute_once(prefix_sums.join_blocks(numbers, width))
    integral = xla_hints.compute_once(prefix_sums.over_rows(numbers))
    return _IntegralImage(integral, step[..., 0], mean)


def _integrate(sums: Array, along_y: Extent, along_x: Extent) -> tuple[Array, Array]:
    """Integrates an integral image over boxes, and its last column over their rows.

    It integrates over rows first and then over columns: 8 reads, where both at once would take 16.

    Returns:
      `(P, F, H, W)` and `(P, F, H)`.
    """
    width = sums.shape[-1]
    rows = xla_hints.compute_once(shifted_reads.integrate_rows(sums, along_y))
    reads = shifted_reads.read_prefix_sums(
        lax.collapse(rows, 1), shifted_reads.row_starts(rows), along_x.offsets, width
    )
    return along_x.integral(reads), rows[:, :, shifted_reads.IMAGE_ROWS, -1]


def _integrate_whole_pixels(sums: Array, along_y: Extent, along_x: Extent) -> tuple[Array, Array]:
    """Integrates as `_integrate` does, over boxes with all bounds on pixel edges.

    It takes 4 reads, and no integrals over rows between them.
    """
    height, width = sums.shape[1:]
    table = lax.collapse(shifted_reads.with_margins(sums), 1)
    starts = [bounds.count(offset, height) * width for offset in along_y.offsets]
    reads = [
        shifted_reads.read_prefix_sums(table, start, along_x.offsets, width) for start in starts
    ]
    columns = [right - left for left, right in reads]
    last = [shifted_reads.slices(table, start + width - 1, 1)[..., 0] for start in starts]
    return columns[1] - columns[0], last[1] - last[0]
