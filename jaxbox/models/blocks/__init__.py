"""The blocks that the networks are made of, one kind in each file."""

from jaxbox.models.blocks.activation import PReLU
from jaxbox.models.blocks.block import Block, ResidualBlock, apply_in_order
from jaxbox.models.blocks.bottleneck import Bottleneck
from jaxbox.models.blocks.box import BoxBlock, ChannelsFirstBranch
from jaxbox.models.blocks.downsampling import Downsampling
from jaxbox.models.blocks.initial import InitialBlock
from jaxbox.models.blocks.non_bottleneck import NonBottleneck1D
from jaxbox.models.blocks.pruned_box import EmptyBoxBlock, PrunedBoxBlock, prune_boxes
from jaxbox.models.blocks.transposed_upsampling import TransposedUpsampling
from jaxbox.models.blocks.upsampling import Upsampling
from jaxbox.models.features import FeatureMap, Layer

__all__ = [
    "Block",
    "Bottleneck",
    "BoxBlock",
    "ChannelsFirstBranch",
    "Downsampling",
    "EmptyBoxBlock",
    "FeatureMap",
    "InitialBlock",
    "Layer",
    "NonBottleneck1D",
    "PReLU",
    "PrunedBoxBlock",
    "ResidualBlock",
    "TransposedUpsampling",
    "Upsampling",
    "apply_in_order",
    "prune_boxes",
]
