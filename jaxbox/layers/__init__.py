"""Flax NNX layers, one file each."""

from jaxbox.layers.box import BoxConv
from jaxbox.layers.dcls import DclsConv
from jaxbox.layers.doconv import DOConv
from jaxbox.layers.octave import OctConv, OctConvTranspose

__all__ = ["BoxConv", "DOConv", "DclsConv", "OctConv", "OctConvTranspose"]
