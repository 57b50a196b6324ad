"""The bounds of boxes on the grid of pixels.

In the shapes below, `P` is the number of planes, `F` the number of boxes of each plane and `size`
the number of pixels along the axis in question.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jaxbox_kernels.common import xla_hints


class Bound(NamedTuple):
    """One bound of every box along one axis: at output `j` it lies in pixel `j + offset`.

    Attributes:
      offset: `(P, F)`, int32, from `-(size + 1)` to `size + 1`; beyond, it would change nothing.
      fraction: `(P, F)`, in [0, 1], how much of the pixel lies below the bound; `None` if all
        bounds are lower edges of pixels.
    """

    offset: Array
    fraction: Array | None


class Extent(NamedTuple):
    """The low and the high bound of every box along one axis.

    Attributes:
      low: the low bound.
      high: the high bound.
      excess: `(P, F)`, the length of the box less the number of pixels between the two offsets. It
        equals `high.fraction - low.fraction`, but is accurate for the shortest boxes too. `None` if
        all bounds are lower edges of pixels.
    """

    low: Bound
    high: Bound
    excess: Array | None

    @property
    def offsets(self) -> list[Array]:
        """The offsets at which prefix sums are read, `(P, F)` each: low, high, and one beyond."""
        low, high, excess = self
        if excess is None:
            return [low.offset, high.offset]
        return [low.offset, high.offset, low.offset + 1, high.offset + 1]

    @property
    def within_pixel(self) -> Array:
        """Whether one pixel holds both bounds, `(P, F)`."""
        return self.low.offset == self.high.offset

    @property
    def parts(self) -> tuple[Array, Array] | None:
        """How much of the pixels that hold the low and the high bound the box covers, `(P, F)`.

        A box within one pixel has only the second part. `None` if there are only whole pixels.
        """
        low, high, excess = self
        if low.fraction is None or high.fraction is None or excess is None:
            return None
        low_part = jnp.where(self.within_pixel, 0, 1 - low.fraction)
        return low_part, jnp.where(self.within_pixel, excess, high.fraction)

    @property
    def weights(self) -> list[Array]:
        """The factors of the prefix sums at `offsets` in the integral, `(P, F)` or scalars."""
        parts = self.parts
        if parts is None:
            return [-jnp.ones(()), jnp.ones(())]
        low, high = parts
        # Within one pixel there are no whole pixels, whose ends would cancel only up to rounding.
        whole = jnp.where(self.within_pixel, 0, jnp.ones_like(low))
        return [-low, whole - high, low - whole, high]

    def integral(self, before: list[Array], after: list[Array], pixels: list[Array]) -> Array:
        """Integrates from bound to bound, without a difference of anything but whole pixels.

        Args:
          before: the sums of all pixels before the pixels that hold the low and the high bound,
            `(P, F, ...)` each.
          after: the sums through those pixels; empty if there are only whole pixels.
          pixels: those pixels; empty if there are only whole pixels.
        """
        parts = self.parts
        if parts is None:
            return before[1] - before[0]
        axes = (..., *[None] * (before[0].ndim - 2))
        whole = before[1] - jnp.where(self.within_pixel[axes], before[0], after[0])
        return whole + (parts[0][axes] * pixels[0] + parts[1][axes] * pixels[1])


def extents(
    theta: Array, height: int, width: int, *, whole_pixels: bool = False
) -> tuple[Extent, Extent]:
    """The extents of boxes along y and along x.

    Args:
      theta: the boxes, `(P, F, 4)`.
      height: the number of rows of the image.
      width: the number of columns of the image.
      whole_pixels: whether all bounds are known to lie on pixel edges.
    """
    return xla_hints.compute_once(extents_anew(theta, height, width, whole_pixels=whole_pixels))


def extents_anew(
    theta: Array, height: int, width: int, *, whole_pixels: bool = False
) -> tuple[Extent, Extent]:
    """The same as `extents`, but XLA may compute it as a part of whatever uses it.

    For few uses as small as the extents themselves, as tables of boxes are.
    """

    def extent(low: Array, high: Array, size: int) -> Extent:
        # Beyond these limits a bound lies outside the image at every output.
        low, high = clip(low, -size, size), clip(high, -size, size)
        if whole_pixels:
            return Extent(_bound_on_edge(low), _bound_on_edge(high), None)
        bounds = _bound(low, is_high=False), _bound(high, is_high=True)
        pixels = bounds[1].offset - bounds[0].offset
        return Extent(*bounds, (high - low) - pixels.astype(low.dtype))

    x_min, x_max, y_min, y_max = jnp.moveaxis(theta, -1, 0)
    return extent(y_min, y_max, height), extent(x_min, x_max, width)


def _bound(coordinate: Array, *, is_high: bool) -> Bound:
    """Finds the pixel that holds a bound, and the fraction of that pixel below the bound.

    On a pixel edge it is the pixel into which the box would grow.
    """
    nearest = jnp.round(coordinate)
    rest = coordinate - nearest  # In [-1/2, 1/2], and exact.
    if is_high:
        on_edge, offset, fraction = rest >= 0.5, nearest + 1, 0.0
    else:
        on_edge, offset, fraction = rest <= -0.5, nearest - 1, 1.0
    offset = jnp.where(on_edge, offset, nearest)
    return Bound(_to_int32(offset), jnp.where(on_edge, fraction, rest + 0.5))


def _bound_on_edge(coordinate: Array) -> Bound:
    """The bound at a coordinate that lies on a pixel edge."""
    return Bound(_to_int32(jnp.round(coordinate + 0.5)), None)


def _to_int32(offset: Array) -> Array:
    """Converts offsets; NaN becomes 0, where platforms would differ."""
    return jnp.where(jnp.isnan(offset), 0, offset).astype(jnp.int32)


def touched(theta: Array, height: int, width: int) -> tuple[tuple[Array, Array], ...]:
    """The pixels that boxes overlap, by a positive length along each axis.

    Args:
      theta: the boxes, `(..., 4)`; bounds may be swapped.
      height: the number of rows of the image.
      width: the number of columns of the image.

    Returns:
      Along y and along x the offsets of the first pixel and of the one after the last, `(...)`
      int32; they are equal if the box touches none.
    """

    def along(a: Array, b: Array, size: int) -> tuple[Array, Array]:
        low, high = (clip(f(a, b), -size, size) for f in (jnp.minimum, jnp.maximum))
        pixel_low, pixel_high = jnp.round(low), jnp.round(high)
        first = jnp.where(low - pixel_low >= 0.5, pixel_low + 1, pixel_low)
        end = jnp.where(high - pixel_high > -0.5, pixel_high + 1, pixel_high)
        return _to_int32(first), _to_int32(jnp.where(a == b, first, end))

    x_min, x_max, y_min, y_max = jnp.moveaxis(theta, -1, 0)
    return along(y_min, y_max, height), along(x_min, x_max, width)


def clip(values: Array, low: int, high: int) -> Array:
    """Limits values as `jnp.clip` does, also to limits that are symbolic sizes.

    `jnp.clip` stays a function of its own in a program, to which JAX passes a symbolic limit in the
    wrong dtype if another part of the program enables 64-bit dtypes.
    """
    return jnp.minimum(jnp.maximum(values, low), high)


def boxes_of_derivatives(theta: Array, height: int, width: int) -> list[Array]:
    """The boxes whose integrals are derivatives of an integral with respect to its bounds.

    The derivative with respect to a bound along x is the integral over a box as wide as the pixel
    that holds the bound, and as high as the box; likewise along y. Those of low bounds have the
    opposite sign.

    Args:
      theta: the boxes, `(P, F, 4)`.
      height: the number of rows of the image.
      width: the number of columns of the image.

    Returns:
      Boxes `(P, F, 4)` for each of the four bounds, in the order of theta's last axis.
    """
    along_y, along_x = extents(theta, height, width)
    x_min, x_max, y_min, y_max = jnp.moveaxis(theta, -1, 0)

    def pixel(bound: Bound) -> tuple[Array, Array]:
        centre = bound.offset.astype(theta.dtype)
        return centre - 0.5, centre + 0.5

    boxes = [
        *((*pixel(bound), y_min, y_max) for bound in along_x[:2]),
        *((x_min, x_max, *pixel(bound)) for bound in along_y[:2]),
    ]
    return [jnp.stack(box, -1) for box in boxes]


def mirrored(theta: Array) -> Array:
    """Boxes `(..., 4)` reflected through the origin, whose filter is the adjoint of theirs."""
    x_min, x_max, y_min, y_max = jnp.moveaxis(theta, -1, 0)
    return jnp.stack([-x_max, -x_min, -y_max, -y_min], axis=-1)


def count(offset: Array, size: int, *, stride: int = 1, before: int = 0, after: int = 0) -> Array:
    """The number of pixels of the image that lie before pixel `stride * j + offset`.

    Args:
      offset: `(P, F)`.
      size: the number of pixels along the axis.
      stride: the step between outputs.
      before: the number of positions `j` before the first output for which to count too.
      after: the number of positions `j` after the last output for which to count too.

    Returns:
      `(P, F, before + outputs + after)`.
    """
    outputs = -(-size // stride)
    position = stride * jnp.arange(-before, outputs + after, dtype=jnp.int32)[None, None]
    return clip(position + offset[..., None], 0, size)


def inside(offset: Array, size: int, *, stride: int = 1) -> Array:
    """Whether pixel `stride * j + offset` lies in the image: `(P, F, outputs)`."""
    pixel = _pixels(offset, size, stride)
    return (pixel >= 0) & (pixel < size)


def beyond(offset: Array, size: int, dtype: DTypeLike, *, stride: int = 1) -> Array:
    """1 where pixel `stride * j + offset` lies beyond the image, else 0: `(P, F, outputs)`."""
    return (_pixels(offset, size, stride) > size).astype(dtype)


def _pixels(offset: Array, size: int, stride: int) -> Array:
    """The pixels that lie at an offset from each output, `(P, F, outputs)`."""
    return jnp.arange(0, size, stride, dtype=jnp.int32)[None, None] + offset[..., None]
