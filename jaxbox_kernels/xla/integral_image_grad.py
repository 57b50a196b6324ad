"""The gradients of the box convolution by integral images.

With the axis operators `D_y` and `D_x` that integrate over a box's rows and columns, and the
gradient `g` with respect to the output: `D_y^T g` (`back` below) is used twice. Summed over the
boxes of a channel, it gives `dx` after a prefix sum along rows; multiplied by pixels of `x`, it
gives the gradients of `x_min` and `x_max`. `D_x x` gives those of `y_min` and `y_max`.

In the shapes below, `P` is the number of planes: of all channels of all images.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxbox_kernels.backend import Gradients, Options
from jaxbox_kernels.common import bounds, xla_hints
from jaxbox_kernels.common.area import grad_through_area, scale
from jaxbox_kernels.common.bounds import Extent
from jaxbox_kernels.xla import chunks, fixed_point, prefix_sums, shifted_reads
from jaxbox_kernels.xla.integral_image import merge_batch
from jaxbox_kernels.xla.reductions import add_neighbouring_rows

# The number of boxes of a channel whose terms are added in one loop. With more, XLA takes longer to
# compile than the loop saves.
_BOXES_TOGETHER = 4


def backward(x: Array | None, theta: Array, g: Array, options: Options) -> Gradients:
    """Computes the gradients, not differentiably; see `jaxbox_kernels.backend.Backward`."""
    batch, channels, boxes, height, width = g.shape

    def of_planes(theta: Array, g: Array, x: Array | None = None) -> Gradients:
        return _gradients(x, theta, g, options)

    theta, g = merge_batch(theta, g)
    images = () if x is None else (lax.collapse(x, 0, 2),)
    dx, dtheta = chunks.map_planes(of_planes, theta, g, *images)
    if dx is not None:
        dx = dx.reshape(batch, channels, height, width)
    if dtheta is not None:
        dtheta = jnp.sum(dtheta.reshape(batch, channels, boxes, 4), 0)
    return dx, dtheta


def _gradients(x: Array | None, theta: Array, g: Array, options: Options) -> Gradients:
    """Computes `dx`, `(P, H, W)`, and `dtheta`, `(P, F, 4)`, from `g`, `(P, F, H, W)`."""
    along_y, along_x = bounds.extents(theta, *g.shape[-2:], whole_pixels=options.whole_pixels)
    scales = scale(theta, normalize=options.normalize)
    back = _transposed_along_y(g, theta, options.whole_pixels)
    dx = _transposed_along_x(back, along_x, scales) if options.needs_dx else None
    if x is None:
        return dx, None
    inner, inner_bounds = _inner_products(x, g, back, along_y, along_x)
    dtheta = scales[..., None] * inner_bounds
    if options.normalize:
        dtheta += grad_through_area(theta, scales * inner)
    return dx, dtheta


def _transposed_along_y(g: Array, theta: Array, whole_pixels: bool) -> Array:
    """Computes `D_y^T g` with the margins of `shifted_reads.integrate_rows`.

    It integrates each box's own plane over the mirrored box.
    """
    planes, boxes, height, width = g.shape
    along_y, _ = bounds.extents(bounds.mirrored(theta), height, width, whole_pixels=whole_pixels)
    longest = jnp.minimum(jnp.abs(theta[..., 3] - theta[..., 2]) + 2, height)
    largest = jnp.max(jnp.abs(g), (-1, -2)) * longest
    numbers, step = fixed_point.quantize(g, largest[..., None, None])
    sums = xla_hints.compute_once(prefix_sums.over_rows(numbers))
    one_box_a_plane = jax.tree.map(lambda values: lax.collapse(values, 0, 2)[:, None], along_y)
    rows = shifted_reads.integrate_rows(lax.collapse(sums, 0, 2), one_box_a_plane)
    rows = rows.reshape(planes, boxes, *rows.shape[2:])
    return xla_hints.compute_once(rows.astype(g.dtype) * step)


def _transposed_along_x(back: Array, along_x: Extent, scales: Array) -> Array:
    """Computes `D_x^T` of `back`, summed over the boxes of each channel: `(P, H, W)`.

    Seen from the right end of a row, each value enters a prefix sum where its box ends and leaves
    it where the box begins. So the result is a prefix sum, from the right, of differences.
    """
    width = back.shape[-1]
    starts, weights, beyond = _places_of_differences(back, along_x, scales)

    def differences(back: Array, box: int) -> list[Array]:
        table = lax.collapse(back, 1)
        return [
            weight[:, box] * shifted_reads.slices(table, start[:, box], width)
            for start, weight in zip(starts, weights, strict=True)
        ]

    def ends(back: Array, box: int) -> list[Array]:
        return [beyond[:, box] * back[:, box, shifted_reads.IMAGE_ROWS]]

    sums = prefix_sums.over_columns(_add_boxes(differences, back))
    total = jnp.sum(_add_boxes(ends, back), -1, keepdims=True) + sums[..., -1:]
    return xla_hints.compute_once(total) - sums


def _places_of_differences(
    back: Array, along_x: Extent, scales: Array
) -> tuple[list[Array], list[Array], Array]:
    """Finds where the differences of `dx` along a row are read, and by what they are multiplied.

    Returns:
      For each of the extents' offsets the places at which slices of `back` begin, `(P, F, H)`, and
      the weights of their pixels, `(P, F, 1, W)`; and the weights of the pixels of `back` whose
      boxes end beyond the right border, `(P, F, 1, W)`.
    """
    width = back.shape[-1]
    column = jnp.arange(width, dtype=jnp.int32)[None, None]
    starts, weights = [], []
    for offset, weight in zip(along_x.offsets, along_x.weights, strict=True):
        reached = bounds.inside(-offset, width) & (column > 0)
        starts.append(shifted_reads.row_starts(back) - offset[..., None])
        weights.append(jnp.where(reached, (scales * weight)[..., None], 0)[:, :, None])

    # Where a box ends beyond the image it has one weight, exactly 0 if it begins there too.
    ends = [(column + offset[..., None] >= width).astype(back.dtype) for offset in along_x.offsets]
    beyond = scales[..., None, None] * along_x.integral([end[:, :, None] for end in ends])
    return xla_hints.compute_once((starts, weights, beyond))


def _add_boxes(terms: Callable[[Array, int], list[Array]], back: Array) -> Array:
    """Adds up the terms of all boxes of a channel, in groups."""
    boxes, totals = back.shape[1], []
    for first in range(0, boxes, _BOXES_TOGETHER):
        table = xla_hints.read_again(back)
        group = range(first, min(first + _BOXES_TOGETHER, boxes))
        total = functools.reduce(jnp.add, (term for box in group for term in terms(table, box)))
        totals.append(xla_hints.do_not_fuse(total))
    return functools.reduce(jnp.add, totals)


def _inner_products(
    x: Array, g: Array, back: Array, along_y: Extent, along_x: Extent
) -> tuple[Array, Array]:
    """Computes inner products with `g` for each box.

    Returns:
      `<g, integral>`, `(P, F)`; and `<g, derivative of the integral>` for the four bounds in the
      order of `theta`, `(P, F, 4)`.
    """
    back = back[:, :, shifted_reads.IMAGE_ROWS]
    columns = _integrate_columns(x, along_x)
    image = shifted_reads.with_margins(x)
    low_x, high_x = (_inner(back, shifted_reads.read_pixels(image, bound)) for bound in along_x)
    low_y, high_y = (_inner(g, shifted_reads.read_rows(columns, bound)) for bound in along_y)
    return _inner(back, columns), jnp.stack([-low_x, high_x, -low_y, high_y], axis=-1)


def _integrate_columns(x: Array, along_x: Extent) -> Array:
    """Computes `D_x x` for each box of a channel: `(P, F, H, W)`."""
    width = x.shape[-1]
    sums, means = prefix_sums.centred_over_columns(x)
    sums = shifted_reads.with_margins(prefix_sums.join_blocks(sums, width))
    starts = shifted_reads.row_starts(sums[:, None])
    reads = shifted_reads.read_prefix_sums(lax.collapse(sums, 1), starts, along_x.offsets, width)
    centred = along_x.integral(reads)
    covered = xla_hints.compute_once(bounds.covered(along_x, width, x.dtype))
    return xla_hints.compute_once(centred + means[:, None, :, None] * covered[:, :, None])


def _inner(a: Array, b: Array) -> Array:
    """The inner product of each box's planes: `(P, F, H, W)` twice to `(P, F)`."""
    return jnp.sum(add_neighbouring_rows(a * b, axis=2), (-1, -2))
