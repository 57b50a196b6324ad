"""Flax NNX layers, one file each."""

from jaxbox.layers.box import BoxConv

__all__ = ["BoxConv"]
