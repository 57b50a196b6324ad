"""What layers cost: a table of counts, from which blocks and networks count their own cost."""

from collections.abc import Iterable
from functools import singledispatch
from typing import Any, NamedTuple

import jax
from flax import nnx

from jaxbox.layers import ArrayOctConv
from jaxbox.layers.box import BoxConv
from jaxbox.layers.dcls import DclsConv
from jaxbox.layers.doconv import DOConv
from jaxbox.layers.weighted_box import WeightedBoxConv
from jaxbox.models.convolution import PatchConv, PatchConvTranspose, PointwiseConv, UpsamplingConv
from jaxbox.models.features import FeatureMap
from jaxbox.models.folding import Identity
from jaxbox.models.normalization import BatchNorm

__all__ = ["Cost", "chain_cost", "elementwise_cost", "layer_cost", "pooling_cost"]


class Cost(NamedTuple):
    """What a network, or a part of it, costs for one image.

    Attributes:
      parameters: The number of parameters except those of BatchNorm, which can be folded away.
        Frozen boxes count.
      multiply_adds: The number of multiply-adds as Table 3 of the paper counts them: a transposed
        convolution with stride 2 counts four times over.
      true_multiply_adds: The number of multiply-adds with transposed convolutions counted once.
    """

    parameters: int = 0
    multiply_adds: int = 0
    true_multiply_adds: int = 0

    def __add__(self, other: tuple[int, ...]) -> "Cost":  # type: ignore[override]
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))


def chain_cost(layers: Iterable[Any], features: FeatureMap) -> tuple[FeatureMap, Cost]:
    """Counts what layers cost that are applied one after another, as `layer_cost` does for one."""
    total = Cost()
    for layer in layers:
        features, added = layer_cost(layer, features)
        total += added
    return features, total


def elementwise_cost(output: FeatureMap) -> Cost:
    """Counts what an operation costs that takes one multiply-add for each output element."""
    return Cost(0, output.num_elements, output.num_elements)


def pooling_cost(output: FeatureMap) -> Cost:
    """Counts what a 2x2 max pool costs."""
    return Cost(0, 4 * output.num_elements, 4 * output.num_elements)


@singledispatch
def layer_cost(layer: Any, features: FeatureMap) -> tuple[FeatureMap, Cost]:
    """Counts what a layer costs.

    A new kind of layer registers its count here, with `@layer_cost.register`.

    Args:
      layer: The layer, or `nnx.relu`.
      features: The size of the layer's input. Its layout has no influence on the cost.

    Returns:
      The size of the layer's output, and the cost.

    Raises:
      TypeError: No count is registered for layers of this kind.
    """
    if layer is nnx.relu:
        return features, elementwise_cost(features)
    raise TypeError(f"cannot count a {type(layer).__name__}")


@layer_cost.register(BatchNorm)
@layer_cost.register(nnx.Dropout)
@layer_cost.register(Identity)
def _free(layer: nnx.Module, features: FeatureMap) -> tuple[FeatureMap, Cost]:
    del layer
    return features, Cost()


@layer_cost.register
def _sequential(layer: nnx.Sequential, features: FeatureMap) -> tuple[FeatureMap, Cost]:
    return chain_cost(layer.layers, features)


@layer_cost.register(nnx.Conv)
@layer_cost.register(PointwiseConv)
@layer_cost.register(PatchConv)
def _conv(layer: Any, features: FeatureMap) -> tuple[FeatureMap, Cost]:
    stride = layer.strides if isinstance(layer, nnx.Conv) else layer.size
    stride = stride if isinstance(stride, int) else 1
    output = _strided(features, stride, layer.kernel.shape[-1])
    return output, _kernel_cost(layer, output)


@layer_cost.register(PatchConvTranspose)
@layer_cost.register(UpsamplingConv)
def _transposed_conv(layer: Any, features: FeatureMap) -> tuple[FeatureMap, Cost]:
    height, width = 2 * features.height, 2 * features.width
    output = FeatureMap(height, width, layer.kernel.shape[-1])
    # Each input element meets every weight of the kernel once, and there are four times as many
    # output pixels as input pixels.
    return output, _kernel_cost(layer, output, true_share=1 / 4)


@layer_cost.register(DOConv)
@layer_cost.register(DclsConv)
def _folded_conv(layer: Any, features: FeatureMap) -> tuple[FeatureMap, Cost]:
    # Of shapes alone, which is all that an abstract network has.
    conv = nnx.eval_shape(lambda layer: layer.fold(), layer)
    output, folded = layer_cost(conv, features)
    if isinstance(layer, DOConv):
        return output, folded
    learned = sum(p.size for p in jax.tree.leaves(nnx.state(layer, nnx.Param)))
    return output, folded._replace(parameters=learned)


@layer_cost.register
def _octave_conv(layer: ArrayOctConv, features: FeatureMap) -> tuple[FeatureMap, Cost]:
    conv = layer.conv
    high = _strided(features, conv.strides, conv.out_features[0])
    low = _strided(high, 2, conv.out_features[1])
    total = Cost()
    paths = (conv.high_to_high, conv.high_to_low, conv.low_to_high, conv.low_to_low)
    for kernel, size in zip(paths, (high, low, low, low), strict=True):
        if kernel is not None:
            operations = kernel.size * size.height * size.width
            total += Cost(kernel.size, operations, operations)
    for bias, output in zip((conv.high_bias, conv.low_bias), (high, low), strict=True):
        if bias is not None:
            total += Cost(parameters=bias.size) + elementwise_cost(output)
    # Pooling reads the input of the low octave, and that of the high octave for the low output.
    total += elementwise_cost(features._replace(channels=conv.in_features[1]))
    if conv.high_to_low is not None:
        total += elementwise_cost(features._replace(channels=conv.in_features[0]))
    if all(conv.in_features):  # Every output is the sum of two paths.
        total += elementwise_cost(high) + elementwise_cost(low)
    return high._replace(channels=sum(conv.out_features)), total


@layer_cost.register
def _box_conv(layer: BoxConv, features: FeatureMap) -> tuple[FeatureMap, Cost]:
    if layer.num_dims != 2:
        raise ValueError(
            f"costs are of layers for images; a BoxConv has num_dims={layer.num_dims}."
        )
    channels = layer.in_features * layer.num_boxes
    along_y, along_x = layer.strides
    output = features._replace(
        height=-(-features.height // along_y),
        width=-(-features.width // along_x),
        channels=channels,
    )
    operations = features.num_elements + 5 * output.num_elements
    return output, Cost(layer.theta.size, operations, operations)


@layer_cost.register
def _weighted_box_conv(layer: WeightedBoxConv, features: FeatureMap) -> tuple[FeatureMap, Cost]:
    averages, total = layer_cost(layer.boxes, features)
    output = averages._replace(channels=layer.out_features)
    operations = layer.weight.size * output.height * output.width
    total += Cost(layer.weight.size, operations, operations)
    if layer.bias is not None:
        total += Cost(parameters=layer.bias.size) + elementwise_cost(output)
    return output, total


def _strided(features: FeatureMap, stride: int, channels: int) -> FeatureMap:
    return FeatureMap(features.height // stride, features.width // stride, channels)


def _kernel_cost(layer: Any, output: FeatureMap, *, true_share: float = 1) -> Cost:
    """Counts what a kernel and its bias cost, of which `true_share` are true multiply-adds."""
    weights = layer.kernel.size // layer.kernel.shape[-1] * output.num_elements
    total = Cost(layer.kernel.size, weights, int(true_share * weights))
    if layer.bias is None:
        return total
    return total + Cost(parameters=layer.bias.size) + elementwise_cost(output)
