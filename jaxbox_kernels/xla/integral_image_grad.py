"""The gradients of the box convolution by integral images.

With the axis operators `D_y` and `D_x` that integrate over a box's rows and columns, and the
gradient `g` with respect to the output: `D_y^T g` (`back` below) is used twice. Summed over the
boxes of a channel, it gives `dx` after a prefix sum along rows; multiplied by pixels of `x`, it
gives the gradients of `x_min` and `x_max`. `D_x x` gives those of `y_min` and `y_max`.

Both are computed in fixed point in 64 bits, as in the forward pass, and rounded to the dtype of
`g` afterwards.

In the shapes below, `P` is the number of planes: of all channels of all images.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxbox_kernels.backend import Gradients, Options
from jaxbox_kernels.common import bounds, sizes, xla_hints
from jaxbox_kernels.common.area import grad_through_area, scales
from jaxbox_kernels.common.bounds import Extent
from jaxbox_kernels.common.reductions import add_neighbouring_rows
from jaxbox_kernels.non_finite import finite
from jaxbox_kernels.xla import chunks, fixed_point, prefix_sums, shifted_reads
from jaxbox_kernels.xla.fixed_point import FixedPoint
from jaxbox_kernels.xla.integral_image import merge_batch

# The number of boxes of a channel whose terms are added in one loop. With more, XLA takes longer to
# compile than the loop saves.
_BOXES_TOGETHER = 4


class _Boxes(NamedTuple):
    """Boxes on the grid of pixels.

    Attributes:
      theta: `(P, F, 4)`, float64.
      along_y: the extents along y.
      along_x: the extents along x.
      scale_x: the factors along x that turn integrals into outputs, `(P, F)`.
      scale_y: the factors along y.
    """

    theta: Array
    along_y: Extent
    along_x: Extent
    scale_x: Array
    scale_y: Array


def backward(x: Array | None, theta: Array, g: Array, options: Options) -> Gradients:
    """Computes the gradients; see `jaxbox_kernels.backend.Backward` and `non_finite`."""
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
    x, g = None if x is None else finite(x), finite(g)
    with jax.enable_x64(True):
        wide = theta.astype(jnp.float64)
        extents = bounds.extents(wide, *g.shape[-2:], whole_pixels=options.whole_pixels)
        boxes = _Boxes(wide, *extents, *scales(wide, normalize=options.normalize))
        fixed_g = fixed_point.quantize(g, terms=g.shape[-2])
        back = _transposed_along_y(fixed_g, boxes, options.whole_pixels).astype(g.dtype)
        back = xla_hints.compute_once(back)
        dx = dtheta = None
        if options.needs_dx:
            dx = (fixed_g.unit[:, 0] * _transposed_along_x(back, boxes)).astype(g.dtype)
        if x is not None:
            fixed_x = fixed_point.quantize(x, terms=x.shape[-1])
            unit = fixed_g.unit[:, 0] * fixed_x.unit
            columns = _integrate_columns(fixed_x, boxes).astype(x.dtype)
            columns = xla_hints.compute_once(columns)
            g = fixed_point.in_units(g, fixed_g.unit)
            x = fixed_point.in_units(x, fixed_x.unit)
            dtheta = unit * _grad_theta(x, columns, g, back, boxes, options)
            dtheta = dtheta.astype(theta.dtype)
    return dx, dtheta


def _transposed_along_y(g: FixedPoint, boxes: _Boxes, whole_pixels: bool) -> Array:
    """Computes `D_y^T g`, scaled, in units of `g`, with the margins of `integrate_rows`.

    It integrates each box's own plane over the mirrored box.
    """
    planes, number, height, width = g.numbers.shape
    mirrored = bounds.mirrored(boxes.theta)
    along_y, _ = bounds.extents(mirrored, height, width, whole_pixels=whole_pixels)
    sums = xla_hints.compute_once(prefix_sums.over_rows(g.numbers))
    one_box_a_plane = jax.tree.map(lambda values: lax.collapse(values, 0, 2)[:, None], along_y)
    rows = shifted_reads.integrate_rows(lax.collapse(sums, 0, 2), one_box_a_plane)
    rows = rows.reshape(planes, number, *rows.shape[2:])
    return rows * xla_hints.compute_once(g.step / g.unit * boxes.scale_y[..., None, None])


def _transposed_along_x(back: Array, boxes: _Boxes) -> Array:
    """Computes `D_x^T` of `back`, scaled, and sums over the boxes of each channel: `(P, H, W)`.

    Seen from the right end of a row, each value enters a prefix sum where its box ends and leaves
    it where the box begins. So the result is a prefix sum, from the right, of differences. It is
    in float64, in which the sum over a long row still has the digits of a single value.
    """
    width = back.shape[-1]
    starts, weights, beyond = _places_of_differences(back, boxes)

    def differences(back: Array, box: int | Array) -> list[Array]:
        table = lax.collapse(back, 1)
        return [
            weight[:, box] * shifted_reads.slices(table, start[:, box], width).astype(weight.dtype)
            for start, weight in zip(starts, weights, strict=True)
        ]

    def ends(back: Array, box: int | Array) -> list[Array]:
        return [beyond[:, box] * back[:, box, shifted_reads.IMAGE_ROWS].astype(beyond.dtype)]

    sums = prefix_sums.over_columns(_add_boxes(differences, back))
    total = jnp.sum(_add_boxes(ends, back), -1, keepdims=True) + sums[..., -1:]
    return xla_hints.compute_once(total) - sums


def _places_of_differences(back: Array, boxes: _Boxes) -> tuple[list[Array], list[Array], Array]:
    """Finds where the differences of `dx` along a row are read, and by what they are multiplied.

    Returns:
      For each of the extents' offsets the places at which slices of `back` begin, `(P, F, H)`, and
      the weights of their pixels, `(P, F, 1, W)`; and the weights of the pixels of `back` whose
      boxes end beyond the right border, `(P, F, 1, W)`.
    """
    width = back.shape[-1]
    extent = boxes.along_x
    column = jnp.arange(width, dtype=jnp.int32)[None, None]
    starts, weights = [], []
    for offset, weight in zip(extent.offsets, extent.weights, strict=True):
        scaled = (boxes.scale_x * weight)[..., None]
        limited = bounds.clip(offset, -width, width)
        starts.append(shifted_reads.row_starts(back) - limited[..., None])
        reached = bounds.inside(-offset, width) & (column > 0)
        weights.append(jnp.where(reached, scaled, 0)[:, :, None])

    # Where a box ends beyond the image it has one weight, exactly 0 if it begins there too.
    ends = [
        (column + offset[..., None] >= width).astype(weights[0].dtype) for offset in extent.offsets
    ]
    before, after = ends[:2], ends[2:]
    pixels = [beyond - to for beyond, to in zip(after, before, strict=False)]
    beyond = boxes.scale_x[..., None] * extent.integral(before, after, pixels)
    return xla_hints.compute_once((starts, weights, beyond[:, :, None]))


def _add_boxes(terms: Callable[[Array, int | Array], list[Array]], back: Array) -> Array:
    """Adds up the terms of all boxes of a channel, in groups."""
    boxes, totals = back.shape[1], []
    if not sizes.are_known(boxes):
        each = jax.vmap(lambda box: _sum_of_terms(terms, back, box))(jnp.arange(boxes))
        return jnp.sum(each, axis=0)
    for first in range(0, boxes, _BOXES_TOGETHER):
        table = xla_hints.read_again(back)
        group = range(first, min(first + _BOXES_TOGETHER, boxes))
        total = _sum_of_terms(terms, table, *group)
        totals.append(xla_hints.do_not_fuse(total))
    return functools.reduce(jnp.add, totals)


def _sum_of_terms(
    terms: Callable[[Array, int | Array], list[Array]], back: Array, *boxes: int | Array
) -> Array:
    return functools.reduce(jnp.add, (term for box in boxes for term in terms(back, box)))


def _grad_theta(
    x: Array, columns: Array, g: Array, back: Array, boxes: _Boxes, options: Options
) -> Array:
    """Computes `dtheta`, `(P, F, 4)`, float64; `columns` are `D_x x`, scaled."""
    back = back[:, :, shifted_reads.IMAGE_ROWS]
    image = shifted_reads.with_margins(x)
    low_x, high_x = (
        _inner(back, shifted_reads.read_pixels(image, bound)) for bound in boxes.along_x[:2]
    )
    low_y, high_y = (
        _inner(g, shifted_reads.read_rows(columns, bound)) for bound in boxes.along_y[:2]
    )
    along_x = boxes.scale_x[..., None] * jnp.stack([-low_x, high_x], axis=-1)
    along_y = boxes.scale_y[..., None] * jnp.stack([-low_y, high_y], axis=-1)
    dtheta = jnp.concatenate([along_x, along_y], axis=-1)
    if options.normalize:
        dtheta += grad_through_area(boxes.theta, _inner(back, columns))
    return dtheta


def _integrate_columns(x: FixedPoint, boxes: _Boxes) -> Array:
    """Computes `D_x x`, scaled, in units of `x`, for each box of a channel: `(P, F, H, W)`."""
    sums = shifted_reads.with_margins(prefix_sums.over_columns(x.numbers))
    integrals = shifted_reads.integrate_columns(sums[:, None], boxes.along_x)
    steps = xla_hints.compute_once((x.step / x.unit)[..., 0] * boxes.scale_x)
    return integrals * steps[..., None, None]


def _inner(a: Array, b: Array) -> Array:
    """The inner product of each box's planes: `(P, F, H, W)` twice to `(P, F)`, float64."""
    rows = add_neighbouring_rows(add_neighbouring_rows(a * b, axis=2), axis=2)
    return jnp.sum(rows.astype(jnp.float64), (-1, -2))
