"""What a network's boxes have become and how far the network sees: the numbers of section 4.

`jaxbox.plots` draws these numbers. The areas of boxes are in `jaxbox.boxes.area`.
"""

from jaxbox.analysis.boxes import (
    BoxLayer,
    at_minimum,
    box_layers,
    importance,
    share_at_minimum,
    symmetry,
)
from jaxbox.analysis.receptive_field import (
    Layer,
    cumulative_energy,
    energy_curves,
    gradient_response,
    saturation_radius,
)

__all__ = [
    "BoxLayer",
    "Layer",
    "at_minimum",
    "box_layers",
    "cumulative_energy",
    "energy_curves",
    "gradient_response",
    "importance",
    "saturation_radius",
    "share_at_minimum",
    "symmetry",
]
