"""The sides of boxes on the grid of pixels."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike


class Side(NamedTuple):
    """One side of every box along one axis: at output `j` it cuts pixel `j + shift`."""

    shift: Array  # (P, F), int32, clipped to where it still changes the result
    fraction: Array | None  # (P, F), in [0, 1]: how much of it lies below; None if nothing does


class Interval(NamedTuple):
    """The extent of every box along one axis."""

    low: Side
    high: Side

    @property
    def shifts(self) -> list[Array]:
        """Where a difference of running sums reads them."""
        low, high = self
        if low.fraction is None or high.fraction is None:
            return [low.shift, high.shift]
        return [low.shift, high.shift, low.shift + 1, high.shift + 1]

    @property
    def weights(self) -> list[Array]:
        """By what it multiplies them, `(P, F)` each."""
        low, high = self
        if low.fraction is None or high.fraction is None:
            return [-jnp.ones(()), jnp.ones(())]
        return [low.fraction - 1, 1 - high.fraction, -low.fraction, high.fraction]

    def difference(self, reads: list[Array]) -> tuple[Array, Array | None]:
        """The difference of running sums read at `shifts`, `(P, F, H, W)` each.

        From pixel to pixel, which is exact in whole numbers; and what the sides cut of pixels.
        """
        low, high, *after = reads
        low_fraction, high_fraction = self.low.fraction, self.high.fraction
        if low_fraction is None or high_fraction is None:
            return high - low, None

        def part(fraction: Array, pixel: Array) -> Array:
            return fraction[..., None, None] * pixel.astype(fraction.dtype)

        after_low, after_high = after
        cut = part(high_fraction, after_high - high) - part(low_fraction, after_low - low)
        return high - low, cut

    def integral(self, reads: list[Array]) -> Array:
        """The same as one number; of whole numbers where there are no parts of pixels."""
        whole, part = self.difference(reads)
        return whole if part is None else whole.astype(part.dtype) + part


def intervals(
    theta: Array, height: int, width: int, *, whole_pixels: bool = False
) -> tuple[Interval, Interval]:
    """The boxes' extents along rows (y) and along columns (x); `theta` is `(P, F, 4)`."""

    def interval(low: Array, high: Array, size: int) -> Interval:
        if whole_pixels:
            return Interval(_whole_side(low, size), _whole_side(high, size))
        return Interval(_side(low, size, grows_up=False), _side(high, size, grows_up=True))

    x_min, x_max, y_min, y_max = jnp.moveaxis(theta, -1, 0)
    along_y, along_x = interval(y_min, y_max, height), interval(x_min, x_max, width)
    # XLA would round anew for each pixel that reads them.
    return lax.optimization_barrier((along_y, along_x))


def _side(coordinate: Array, size: int, *, grows_up: bool) -> Side:
    """Splits a coordinate; on a pixel edge it belongs to the pixel into which the box grows."""
    nearest = jnp.round(coordinate)
    rest = coordinate - nearest  # In [-1/2, 1/2], and exact.
    if grows_up:
        on_edge, shift, fraction = rest >= 0.5, nearest + 1, 0.0
    else:
        on_edge, shift, fraction = rest <= -0.5, nearest - 1, 1.0
    shift = jnp.clip(jnp.where(on_edge, shift, nearest), -size, size)
    return Side(shift.astype(jnp.int32), jnp.where(on_edge, fraction, rest + 0.5))


def _whole_side(coordinate: Array, size: int) -> Side:
    """A side that lies on a pixel edge."""
    return Side(jnp.clip(jnp.round(coordinate + 0.5), -size, size).astype(jnp.int32), None)


def mirrored(theta: Array) -> Array:
    """The boxes reflected through the origin: their filter is the adjoint one."""
    x_min, x_max, y_min, y_max = jnp.moveaxis(theta, -1, 0)
    return jnp.stack([-x_max, -x_min, -y_max, -y_min], axis=-1)


def count(shift: Array, size: int, *, before: int = 0, after: int = 0) -> Array:
    """How many pixels lie before pixel `j + shift`: `(P, F, before + size + after)`.

    `j` is every output, and as many positions more on either side.
    """
    position = jnp.arange(-before, size + after, dtype=jnp.int32)[None, None]
    return jnp.clip(position + shift[..., None], 0, size)


def inside(shift: Array, size: int, *, margin: int = 0) -> Array:
    """Whether pixel `j + shift` is one of the image's, for every output `j`: `(P, F, size)`.

    The last `margin` pixels do not count.
    """
    pixel = jnp.arange(size, dtype=jnp.int32)[None, None] + shift[..., None]
    return (pixel >= 0) & (pixel < size - margin)


def covered(interval: Interval, size: int, dtype: DTypeLike) -> Array:
    """Length of every box inside the image at every output: `(P, F, size)`."""

    def part(side: Side) -> Array | float:
        if side.fraction is None:
            return 0.0
        return jnp.where(inside(side.shift, size), side.fraction[..., None], 0)

    low, high = interval
    # Whole pixels and parts apart: their sum would lose the part's last digits.
    whole = count(high.shift, size) - count(low.shift, size)
    return whole.astype(dtype) + (part(high) - part(low))
