"""Flax NNX layers, one file each."""

from jaxbox.layers.box import BoxConv
from jaxbox.layers.dcls import DclsConv

__all__ = ["BoxConv", "DclsConv"]
