"""What all blocks have in common: their features, their cost and their form for inference."""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import jax
from flax import nnx
from jax.typing import DTypeLike

from jaxbox.arguments import (
    check_dtype,
    check_flag,
    check_fraction,
    check_number,
    check_rngs,
)
from jaxbox.models.features import FeatureMap, Layer, check_features
from jaxbox.models.folding import Identity, fold_norm, to_plain_conv
from jaxbox.models.layer_costs import Cost, chain_cost, elementwise_cost, layer_cost

__all__ = ["Block", "ResidualBlock", "apply_in_order", "check_block", "residual_cost"]


def check_block(
    features: FeatureMap,
    *,
    dropout: float = 0.0,
    has_dropout: bool = True,
    epsilon: float = 1e-5,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
    **flags: bool,
) -> FeatureMap:
    """Checks the arguments that blocks have in common; `flags` are those that are on or off.

    Blocks with dropout need its random keys at a rate of 0 too.

    Returns:
      `features`, of Python's numbers.

    Raises:
      TypeError: An argument is of the wrong type.
      ValueError: A number is out of range.
    """
    check_number("epsilon", epsilon)
    check_dtype("dtype", dtype)
    check_fraction("dropout", dropout)
    check_rngs(rngs, *(["dropout"] if has_dropout else []))
    for name, flag in flags.items():
        check_flag(name, flag)
    return check_features(features)


class Block(nnx.Module):
    """A part of a network.

    A block is built from the `FeatureMap` that the block before it returns, so that a network can
    be a plain sequence of blocks. Its layers are attributes. Whatever depends on how these are
    connected, such as the block's cost, is a method of the block.

    Attributes:
      input: The size and layout of the features that the block reads.
      output: The size and layout of the features that it returns.
    """

    input: FeatureMap
    output: FeatureMap

    @property
    @abstractmethod
    def input_convs(self) -> tuple[Any, ...]:
        """The convolutions that read the block's input."""

    @abstractmethod
    def cost(self, features: FeatureMap) -> tuple[FeatureMap, Cost]:
        """Counts what the block costs.

        Args:
          features: The size of the block's input, which may differ from that of `input`.

        Returns:
          The size of the block's output, and the cost.
        """

    @abstractmethod
    def fold(self) -> None:
        """Removes in place what only training needs: folds BatchNorms, removes dropout."""


class ResidualBlock(Block):
    """A block that adds its input to what a branch makes of it, and applies an activation.

    Attributes:
      activation: The activation after the sum.
    """

    activation: Layer

    @property
    @abstractmethod
    def branch(self) -> tuple[Layer, ...]:
        """The layers of the branch, in the order in which they are applied."""

    def cost(self, features: FeatureMap) -> tuple[FeatureMap, Cost]:
        """Counts what the branch, the sum and the activation cost."""
        output, branch = chain_cost(self.branch, features)
        return output, branch + residual_cost(self.activation, output)


class BottleneckBranch(Block):
    """A block with ENet's branch of three convolutions, the middle one on fewer channels.

    Attributes:
      reduce: The convolution that reduces the channels.
      norm1: The BatchNorm after it.
      activation1: The activation after that.
      column: The first of two asymmetric convolutions in the middle, or `None`.
      conv: The convolution in the middle.
      norm2: The BatchNorm after it.
      activation2: The activation after that.
      expand: The 1x1 convolution that expands the channels.
      norm3: The BatchNorm after it.
      dropout: The dropout at the end of the branch.
    """

    reduce: Layer
    norm1: Layer
    activation1: Layer
    column: Layer | None = None
    conv: Layer
    norm2: Layer
    activation2: Layer
    expand: Layer
    norm3: Layer
    dropout: Layer

    @property
    def branch(self) -> tuple[Layer, ...]:
        """The layers of the branch, in the order in which they are applied."""
        return (
            *(self.reduce, self.norm1, self.activation1),
            *(() if self.column is None else (self.column,)),
            *(self.conv, self.norm2, self.activation2),
            *(self.expand, self.norm3, self.dropout),
        )

    @property
    def input_convs(self) -> tuple[Any, ...]:
        """The convolution that reduces the channels."""
        return (self.reduce,)

    def fold(self) -> None:
        """Folds each BatchNorm into the convolution before it and removes dropout."""
        self.reduce, self.norm1 = fold_norm(self.reduce, self.norm1)
        if self.column is not None:
            self.column = to_plain_conv(self.column)
        self.conv, self.norm2 = fold_norm(self.conv, self.norm2)
        self.expand, self.norm3 = fold_norm(self.expand, self.norm3)
        self.dropout = Identity()


def apply_in_order(layers: Iterable[Layer], x: jax.Array) -> jax.Array:
    """Applies layers one after another."""
    for layer in layers:
        x = layer(x)
    return x


def residual_cost(activation: Layer, output: FeatureMap) -> Cost:
    """Counts what a sum and the activation after it cost."""
    _, activated = layer_cost(activation, output)
    return elementwise_cost(output) + activated
