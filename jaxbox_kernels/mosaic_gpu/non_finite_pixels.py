"""What NaN and infinite pixels add to outputs.

Sums take such pixels for 0, or one NaN would spread over its whole plane. Kernels add them
afterwards, and only to planes that hold any: the loops of all others have no turns. So no program
has to ask on the host whether there is a NaN. Planes that hold some take much longer.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import MemoryRef
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxbox_kernels.mosaic_gpu import lanes
from jaxbox_kernels.mosaic_gpu.box_params import Axis, Box
from jaxbox_kernels.mosaic_gpu.lanes import LANES

type Pixels = Callable[[Array, Array], Array]
"""Reads the pixels of a plane, given the row and the strip."""


def scratch(width: int) -> MemoryRef:
    """The shared memory for a row of an image with margins on either side."""
    return plgpu.SMEM((lanes.padded(width) + 2 * LANES,), jnp.float32)


class Spread(NamedTuple):
    """Adds the pixels that are not finite to rows of outputs.

    Attributes:
      read: reads the plane that holds the pixels.
      box: the box filter; along x, its adjoint if `mirrored`.
      height: the height of the image.
      row_sums: made by `scratch`.
      mirrored: whether the box is to be mirrored along x.
    """

    read: Pixels
    box: Box
    height: int
    row_sums: Array
    mirrored: bool

    def load(self, row: Array) -> None:
        """Sums up what is not finite in the rows of the box at an output row."""
        first, end = (
            jnp.clip(row + offset, 0, self.height) for offset in touched(self.box.along_y)
        )
        plgpu.commit_smem()  # All lanes have read the sums of the last row.
        for margin in (0, self.row_sums.shape[0] - LANES):
            self.row_sums[margin : margin + LANES] = lanes.zeros()

        def add_strip(strip: Array, _: None) -> None:
            def add(row: Array, total: Array) -> Array:
                values = self.read(row, strip)
                return jnp.where(is_finite(values), total, total + values)

            sums = lax.fori_loop(first, end, add, lanes.zeros())
            self.row_sums[pl.ds(LANES + strip * LANES, LANES)] = sums

        lax.fori_loop(0, self.row_sums.shape[0] // LANES - 2, add_strip, None)
        plgpu.commit_smem()

    def add_to(self, output: Array, strip: Array | int) -> Array:
        """Adds what reaches a strip of the output row that was loaded."""
        last = self.row_sums.shape[0] - LANES

        def add(offset: Array, total: Array) -> Array:
            column = strip * LANES + (-offset if self.mirrored else offset)
            return total + self.row_sums[pl.ds(jnp.clip(LANES + column, 0, last), LANES)]

        total = lax.fori_loop(*touched(self.box.along_x), add, lanes.zeros())
        added = total * _factor(self.box.along_x) * _factor(self.box.along_y)
        return jnp.where(is_finite(total), output, output + added)


def is_finite(values: Array) -> Array:
    """Whether each value is finite."""
    return jnp.abs(values) < jnp.inf


def touched(axis: Axis) -> tuple[Array, Array]:
    """The offsets of the first pixel that a box overlaps by a positive length, and of the end."""
    before = jnp.where(axis.low_weight != 0, 1, 0)
    return axis.first - before, axis.end + jnp.where(axis.high_weight != 0, 1, 0)


def _factor(axis: Axis) -> Array:
    """A number with the sign of all weights along an axis; 0 or NaN if they are."""
    weight = jnp.where(axis.low_weight != 0, axis.low_weight, axis.high_weight)
    return axis.scale * jnp.where(axis.first < axis.end, jnp.float32(1), weight)
