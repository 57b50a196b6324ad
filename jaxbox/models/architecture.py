"""What a network is made of: its blocks in order and its classifier."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from flax import nnx
from jax.typing import DTypeLike

from jaxbox.models.blocks import Block, BoxBlock, FeatureMap

__all__ = ["Architecture", "BlockFactory", "ClassifierFactory", "bind", "block_kind"]


class BlockFactory(Protocol):
    """A class of blocks, or a `functools.partial` of one that binds its options."""

    def __call__(self, features: FeatureMap, *, dtype: DTypeLike, rngs: nnx.Rngs) -> Block:
        """Builds a block that reads these features."""


class ClassifierFactory(Protocol):
    """A class of transposed convolutions, or a `functools.partial` of one."""

    def __call__(
        self, in_features: int, out_features: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> nnx.Module:
        """Builds the layer that doubles the resolution and returns the logits."""


@dataclass(frozen=True)
class Architecture:
    """What a network is made of.

    Attributes:
      blocks: The blocks, from the image to features at half its resolution.
      classifier: The layer from those features to the logits.
    """

    blocks: tuple[BlockFactory, ...]
    classifier: ClassifierFactory

    def with_frozen_boxes(self) -> "Architecture":
        """Returns the same network with boxes that are not trained."""
        blocks = (
            bind(block, trainable=False) if issubclass(block_kind(block), BoxBlock) else block
            for block in self.blocks
        )
        return replace(self, blocks=tuple(blocks))


def bind(factory: Callable[..., Block], **options: Any) -> BlockFactory:
    """Returns a factory with further options bound."""
    return partial(factory, **options)


def block_kind(factory: BlockFactory) -> type[Block]:
    """Returns the class that a factory builds blocks of, or `Block` if it cannot be known."""
    kind = factory.func if isinstance(factory, partial) else factory
    return kind if isinstance(kind, type) else Block
