"""What a network costs: parameters and multiply-adds, counted from its own structure."""

from functools import singledispatch
from typing import Any, NamedTuple

import jax
from flax import nnx

from jaxbox.layers import ArrayOctConv
from jaxbox.layers.box import BoxConv
from jaxbox.layers.dcls import DclsConv
from jaxbox.layers.doconv import DOConv
from jaxbox.models.blocks import (
    Bottleneck,
    BoxBlock,
    Downsampling,
    FeatureMap,
    InitialBlock,
    PReLU,
    Upsampling,
)
from jaxbox.models.convolution import PatchConv, PatchConvTranspose, PointwiseConv, UpsamplingConv
from jaxbox.models.erf_blocks import NonBottleneck1D, TransposedUpsampling
from jaxbox.models.network import SegmentationNetwork
from jaxbox.models.normalization import BatchNorm
from jaxbox.models.pruning import Constant, PrunedBoxConv, Spread

__all__ = ["Cost", "cost"]


class Cost(NamedTuple):
    """What a network costs.

    Attributes:
      parameters: All but BatchNorm's, which can be folded away; frozen boxes count.
      multiply_adds: As Table 3 of the paper counts them. A transposed convolution with stride 2
        counts four times over.
      true_multiply_adds: With transposed convolutions counted once.
    """

    parameters: int
    multiply_adds: int
    true_multiply_adds: int

    def __add__(self, other: tuple[int, ...]) -> "Cost":  # type: ignore[override]
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))


_FREE = Cost(0, 0, 0)
_POOL = 4  # operations for each output of a 2x2 max pool


def cost(model: SegmentationNetwork, image_size: tuple[int, int]) -> Cost:
    """Counts what a network costs for one image.

    A convolution costs its kernel's size for each output element, and 1 more with a bias; DCLS and
    DO-Conv what the convolution costs that they become; an octave convolution those of its paths,
    and 1 for each element that pooling reads or that two paths are added up to; a box
    convolution with whole sides 1 for each input and 5 for each output; a 2x2 max pool 4 for each
    output; unpooling, activations and residual sums 1 for each output; BatchNorm and dropout
    nothing. This counting gives every figure of the paper's Table 3.

    Source: Burkov & Lempitsky 2018, Table 3.

    Args:
      model: Any network; shapes in place of its arrays will do.
      image_size: `(H, W)` in pixels.

    Returns:
      The counts.

    Example:
      >>> from flax import nnx
      >>> from jaxbox import models
      >>> from jaxbox.models.cost import cost
      >>> model = nnx.eval_shape(lambda: models.create("enet", 19, (512, 1024), rngs=nnx.Rngs(0)))
      >>> cost(model, (512, 1024)).multiply_adds
      4600627200
    """
    features, total = FeatureMap(*image_size, 3), _FREE
    for layer in (*model.blocks, model.classifier):
        features, added = _count(layer, features)
        total += added
    return total


@singledispatch
def _count(layer: Any, features: FeatureMap) -> tuple[FeatureMap, Cost]:
    """What a layer returns for some features, and its cost."""
    if layer is nnx.relu:
        return features, Cost(0, _elements(features), _elements(features))
    raise TypeError(f"cannot count a {type(layer).__name__}")


@_count.register(BatchNorm)
@_count.register(nnx.Dropout)
def _count_nothing(layer: nnx.Module, features: FeatureMap) -> tuple[FeatureMap, Cost]:
    del layer
    return features, _FREE


@_count.register
def _count_prelu(layer: PReLU, features: FeatureMap) -> tuple[FeatureMap, Cost]:
    operations = _elements(features)
    return features, Cost(layer.slope.size, operations, operations)


@_count.register
def _count_sequence(layer: nnx.Sequential, features: FeatureMap) -> tuple[FeatureMap, Cost]:
    total = _FREE
    for part in layer.layers:
        features, added = _count(part, features)
        total += added
    return features, total


@_count.register(nnx.Conv)
@_count.register(PointwiseConv)
@_count.register(PatchConv)
def _count_conv(layer: Any, features: FeatureMap) -> tuple[FeatureMap, Cost]:
    stride = layer.strides if isinstance(layer, nnx.Conv) else layer.size
    stride = stride if isinstance(stride, int) else 1
    output = FeatureMap(features.height // stride, features.width // stride, layer.kernel.shape[-1])
    each = layer.kernel.size // layer.kernel.shape[-1]
    return output, _convolution(layer, output, each, each)


@_count.register(DOConv)
@_count.register(DclsConv)
def _count_folded(layer: Any, features: FeatureMap) -> tuple[FeatureMap, Cost]:
    output, folded = _count(layer.fold(), features)
    if isinstance(layer, DOConv):
        return output, folded
    learned = sum(p.size for p in jax.tree.leaves(nnx.state(layer, nnx.Param)))
    return output, folded._replace(parameters=learned)


@_count.register
def _count_octaves(layer: ArrayOctConv, features: FeatureMap) -> tuple[FeatureMap, Cost]:
    conv = layer.conv
    full = FeatureMap(features.height // conv.strides, features.width // conv.strides, 1)
    half = FeatureMap(full.height // 2, full.width // 2, 1)
    octaves = (full, half)
    total = _FREE
    for kernel, size in zip(conv.kernels, (full, half, half, half), strict=True):
        if kernel is not None:
            operations = kernel.size * _elements(size)
            total += Cost(kernel.size, operations, operations)
    for bias, size in zip(conv.bias, octaves, strict=True):
        if bias is not None:
            total += Cost(bias.size, bias.size * _elements(size), bias.size * _elements(size))
    # Pooling adds up what it reads: the low octave, and the high one for the low output.
    pooled = _elements(features._replace(channels=conv.in_features[1]))
    if conv.high_to_low is not None:
        pooled += _elements(features._replace(channels=conv.in_features[0]))
    summed = sum(
        channels * _elements(size)
        for channels, size in zip(conv.out_features, octaves, strict=True)
        if all(conv.in_features)
    )
    return full._replace(channels=sum(conv.out_features)), total + Cost(
        0, pooled + summed, pooled + summed
    )


@_count.register(PatchConvTranspose)
@_count.register(UpsamplingConv)
def _count_transposed(layer: Any, features: FeatureMap) -> tuple[FeatureMap, Cost]:
    height, width, _ = features
    output = FeatureMap(2 * height, 2 * width, layer.kernel.shape[-1])
    each = layer.kernel.size // layer.kernel.shape[-1]
    # Each input element meets every tap once, and there are four times as many outputs.
    return output, _convolution(layer, output, each, each / 4)


def _convolution(layer: Any, output: FeatureMap, each: float, truly_each: float) -> Cost:
    bias = 0 if layer.bias is None else layer.bias.size
    outputs = _elements(output)
    biases = outputs if bias else 0
    return Cost(
        layer.kernel.size + bias, int(each * outputs) + biases, int(truly_each * outputs) + biases
    )


@_count.register
def _count_boxes(layer: BoxConv, features: FeatureMap) -> tuple[FeatureMap, Cost]:
    output = features._replace(channels=layer.in_features * layer.num_boxes)
    operations = _elements(features) + 5 * _elements(output)
    return output, Cost(layer.theta.size, operations, operations)


@_count.register
def _count_pruned_boxes(layer: PrunedBoxConv, features: FeatureMap) -> tuple[FeatureMap, Cost]:
    channels, total = 0, _FREE
    for group in layer.groups:
        output, added = _count(group, features._replace(channels=group.in_features))
        channels += output.channels
        total += added
    return features._replace(channels=channels), total


@_count.register(Spread)
@_count.register(Constant)
def _count_constants(layer: Any, features: FeatureMap) -> tuple[FeatureMap, Cost]:
    # They were BatchNorm's, and a copy is no operation.
    return features._replace(channels=layer.constants.size), _FREE


@_count.register
def _count_initial(block: InitialBlock, features: FeatureMap) -> tuple[FeatureMap, Cost]:
    convolved, total = _count(block.conv, features)
    pooled = _POOL * _elements(convolved._replace(channels=features.channels))
    _, activation = _count(block.activation, block.output)
    return block.output, total + Cost(0, pooled, pooled) + activation


@_count.register(Bottleneck)
@_count.register(BoxBlock)
@_count.register(NonBottleneck1D)
def _count_residual(block: Any, features: FeatureMap) -> tuple[FeatureMap, Cost]:
    output, total = _count(block.branch, features)
    return output, total + _sum_and_activation(block, output)


@_count.register
def _count_downsampling(block: Downsampling, features: FeatureMap) -> tuple[FeatureMap, Cost]:
    output, total = _count(block.branch, features)
    pooled = _POOL * _elements(output._replace(channels=features.channels))
    return output, total + Cost(0, pooled, pooled) + _sum_and_activation(block, output)


@_count.register
def _count_upsampling(block: Upsampling, features: FeatureMap) -> tuple[FeatureMap, Cost]:
    output, total = _count(block.branch, features)
    _, skip = _count(block.skip, features)
    unpooled = _elements(output)
    return output, total + skip + Cost(0, unpooled, unpooled) + _sum_and_activation(block, output)


@_count.register
def _count_transposed_upsampling(
    block: TransposedUpsampling, features: FeatureMap
) -> tuple[FeatureMap, Cost]:
    output, total = _count(block.conv, features)
    _, activation = _count(nnx.relu, output)
    return output, total + activation


def _sum_and_activation(block: Any, output: FeatureMap) -> Cost:
    _, activated = _count(getattr(block, "activation", nnx.relu), output)
    return activated + Cost(0, _elements(output), _elements(output))


def _elements(features: FeatureMap) -> int:
    return features.height * features.width * features.channels
