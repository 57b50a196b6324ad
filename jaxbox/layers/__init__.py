"""Flax NNX layers, and what is needed to use them in a model."""

from jaxbox.layers.box import BoxConv, FrozenBoxes
from jaxbox.layers.box_matrices import BoxMatrices
from jaxbox.layers.dcls import DclsConv, repulsive_loss
from jaxbox.layers.doconv import DOConv
from jaxbox.layers.octave import ArrayOctConv, OctConv, OctConvTranspose, PerOctave
from jaxbox.layers.weighted_box import WeightedBoxConv
from jaxbox.ops.octave_features import (
    Octaves,
    from_octaves,
    map_octaves,
    split_channels,
    to_octaves,
)

__all__ = [
    "ArrayOctConv",
    "BoxConv",
    "BoxMatrices",
    "DOConv",
    "DclsConv",
    "FrozenBoxes",
    "OctConv",
    "OctConvTranspose",
    "Octaves",
    "PerOctave",
    "WeightedBoxConv",
    "from_octaves",
    "map_octaves",
    "repulsive_loss",
    "split_channels",
    "to_octaves",
]
