"""Which blocks of a network compute channels first."""

from collections.abc import Sequence

from jaxbox.models.architecture import BlockFactory, bind, block_kind
from jaxbox.models.blocks import BoxBlock, Downsampling, ResidualBlock

__all__ = ["derive_layouts"]


def derive_layouts(blocks: Sequence[BlockFactory]) -> list[BlockFactory]:
    """Sets the layout in which each `Downsampling` returns its features.

    A `Downsampling` returns channels first if a box block follows before the resolution changes
    again. All other layouts follow from this one: bottlenecks and box blocks return the layout that
    they read, and the other blocks return channels last.

    The reason is that box convolutions compute channels first. A stage that is channels first as a
    whole needs no transpositions between its blocks.
    """
    return [
        bind(block, output_axis=-3)
        if issubclass(block_kind(block), Downsampling) and _stage_has_boxes(blocks[index + 1 :])
        else block
        for index, block in enumerate(blocks)
    ]


def _stage_has_boxes(blocks: Sequence[BlockFactory]) -> bool:
    """Returns whether a box block comes before the first block that changes the resolution."""
    for kind in map(block_kind, blocks):
        if issubclass(kind, BoxBlock):
            return True
        if not issubclass(kind, ResidualBlock):
            return False
    return False
