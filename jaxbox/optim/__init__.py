"""Boxes, and the positions of DCLS's taps, in optax optimizers.

Boxes have to stay valid, and the positions of taps inside their kernel. :func:`constrain` makes any
optax optimizer do so. It is composed of transformations that can be used on their own: see
`jaxbox.optim.boxes`, `jaxbox.optim.positions`, and `jaxbox.optim.marks` for how they find boxes and
positions among the parameters. :func:`labels` gives boxes an optimizer of their own,
:func:`non_finite_steps` tells how often a box or a position was not finite and kept its last value,
and :func:`track_boxes` measures how boxes learn. `docs/optimizers.md` lists which of optax's
wrappers belong inside and which outside.
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
    labels,
)
from jaxbox.optim.model import constrain
from jaxbox.optim.non_finite import (
    KeepBoxesValidState,
    KeepPositionsInsideState,
    NonFiniteSteps,
    non_finite_steps,
)
from jaxbox.optim.positions import keep_positions_inside
from jaxbox.optim.tracking import (
    BoxTrack,
    TrackBoxesState,
    box_tracks,
    restart_tracking,
    track_boxes,
)

__all__ = [
    "BoxSpec",
    "BoxTrack",
    "KeepBoxesValidState",
    "KeepPositionsInsideState",
    "NonFiniteSteps",
    "PositionSpec",
    "TrackBoxesState",
    "box_tracks",
    "constrain",
    "constrain_boxes",
    "decay_mask",
    "find_boxes",
    "find_boxes_by_name",
    "find_positions",
    "find_positions_by_name",
    "keep_boxes_valid",
    "keep_positions_inside",
    "labels",
    "non_finite_steps",
    "restart_tracking",
    "steps_in_pixels",
    "track_boxes",
]
