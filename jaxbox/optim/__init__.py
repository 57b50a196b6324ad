"""Boxes, and the positions of DCLS's taps, in optax optimizers.

Boxes have to stay valid, and the positions of taps inside their kernel. :func:`constrain` makes any
optax optimizer do so. It is composed of transformations that can be used on their own: see
`jaxbox.optim.boxes`, `jaxbox.optim.positions`, and `jaxbox.optim.marks` for how they find boxes and
positions among the parameters.
"""

from jaxbox.optim.boxes import constrain_boxes, keep_boxes_valid, steps_in_pixels
from jaxbox.optim.marks import (
    BoxSpec,
    PositionSpec,
    decay_mask,
    find_boxes,
    find_boxes_by_name,
    find_positions,
    find_positions_by_name,
)
from jaxbox.optim.model import constrain
from jaxbox.optim.positions import keep_positions_inside

__all__ = [
    "BoxSpec",
    "PositionSpec",
    "constrain",
    "constrain_boxes",
    "decay_mask",
    "find_boxes",
    "find_boxes_by_name",
    "find_positions",
    "find_positions_by_name",
    "keep_boxes_valid",
    "keep_positions_inside",
    "steps_in_pixels",
]
