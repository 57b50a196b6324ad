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
      offset: `(P, F)`, int32, clipped to the range within which it changes the result.
      fraction: `(P, F)`, in [0, 1], how much of the pixel lies below the bound; `None` if all
        bounds are lower edges of pixels.
    """

    offset: Array
    fraction: Array | None


class Extent(NamedTuple):
    """The low and the high bound of every box along one axis."""

    low: Bound
    high: Bound

    @property
    def offsets(self) -> list[Array]:
        """The offsets at which `integral` needs prefix sums, `(P, F)` each."""
        low, high = self
        if low.fraction is None or high.fraction is None:
            return [low.offset, high.offset]
        return [low.offset, high.offset, low.offset + 1, high.offset + 1]

    @property
    def weights(self) -> list[Array]:
        """The factors of those prefix sums in the integral, `(P, F)` or scalars."""
        low, high = self
        if low.fraction is None or high.fraction is None:
            return [-jnp.ones(()), jnp.ones(())]
        return [low.fraction - 1, 1 - high.fraction, -low.fraction, high.fraction]

    def difference(self, reads: list[Array]) -> tuple[Array, Array | None]:
        """Integrates from bound to bound, whole pixels and fractions of pixels apart.

        Args:
          reads: the sums before pixel `j + offset` for each of `offsets`, `(P, F, H, W)` each.

        Returns:
          The integral over whole pixels, which is exact in fixed point, and what the fractions add
          to it; `None` if there are no fractions.
        """
        low, high, *after = reads
        low_fraction, high_fraction = self.low.fraction, self.high.fraction
        if low_fraction is None or high_fraction is None:
            return high - low, None

        def part(fraction: Array, pixel: Array) -> Array:
            return fraction[..., None, None] * pixel.astype(fraction.dtype)

        after_low, after_high = after
        parts = part(high_fraction, after_high - high) - part(low_fraction, after_low - low)
        return high - low, parts

    def integral(self, reads: list[Array]) -> Array:
        """The sum of both results of `difference`; in fixed point if there are no fractions."""
        whole, parts = self.difference(reads)
        return whole if parts is None else whole.astype(parts.dtype) + parts


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

    def extent(low: Array, high: Array, size: int) -> Extent:
        if whole_pixels:
            return Extent(_bound_on_edge(low, size), _bound_on_edge(high, size))
        return Extent(_bound(low, size, is_high=False), _bound(high, size, is_high=True))

    x_min, x_max, y_min, y_max = jnp.moveaxis(theta, -1, 0)
    along_y, along_x = extent(y_min, y_max, height), extent(x_min, x_max, width)
    return xla_hints.compute_once((along_y, along_x))


def _bound(coordinate: Array, size: int, *, is_high: bool) -> Bound:
    """Finds the pixel that holds a bound, and the fraction of that pixel below the bound.

    On a pixel edge it is the pixel into which the box would grow.
    """
    nearest = jnp.round(coordinate)
    rest = coordinate - nearest  # In [-1/2, 1/2], and exact.
    if is_high:
        on_edge, offset, fraction = rest >= 0.5, nearest + 1, 0.0
    else:
        on_edge, offset, fraction = rest <= -0.5, nearest - 1, 1.0
    offset = jnp.clip(jnp.where(on_edge, offset, nearest), -size, size)
    return Bound(offset.astype(jnp.int32), jnp.where(on_edge, fraction, rest + 0.5))


def _bound_on_edge(coordinate: Array, size: int) -> Bound:
    """The bound at a coordinate that lies on a pixel edge."""
    return Bound(jnp.clip(jnp.round(coordinate + 0.5), -size, size).astype(jnp.int32), None)


def mirrored(theta: Array) -> Array:
    """Boxes `(..., 4)` reflected through the origin, whose filter is the adjoint of theirs."""
    x_min, x_max, y_min, y_max = jnp.moveaxis(theta, -1, 0)
    return jnp.stack([-x_max, -x_min, -y_max, -y_min], axis=-1)


def count(offset: Array, size: int, *, before: int = 0, after: int = 0) -> Array:
    """The number of pixels of the image that lie before pixel `j + offset`.

    Args:
      offset: `(P, F)`.
      size: the number of pixels along the axis.
      before: the number of positions `j` before the first output for which to count too.
      after: the number of positions `j` after the last output for which to count too.

    Returns:
      `(P, F, before + size + after)`.
    """
    position = jnp.arange(-before, size + after, dtype=jnp.int32)[None, None]
    return jnp.clip(position + offset[..., None], 0, size)


def inside(offset: Array, size: int, *, margin: int = 0) -> Array:
    """Whether pixel `j + offset` lies in the image and is none of its last `margin` pixels.

    Returns:
      `(P, F, size)`, for every output `j`.
    """
    pixel = jnp.arange(size, dtype=jnp.int32)[None, None] + offset[..., None]
    return (pixel >= 0) & (pixel < size - margin)


def covered(extent: Extent, size: int, dtype: DTypeLike) -> Array:
    """The length inside the image of every box at every output: `(P, F, size)`."""

    def part(bound: Bound) -> Array | float:
        if bound.fraction is None:
            return 0.0
        return jnp.where(inside(bound.offset, size), bound.fraction[..., None], 0)

    low, high = extent
    # Whole pixels and fractions apart: their sum would lose the last digits of the fraction.
    whole = count(high.offset, size) - count(low.offset, size)
    return whole.astype(dtype) + (part(high) - part(low))
