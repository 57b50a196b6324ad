"""Other layers in place of a network's convolutions."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxbox.layers.box import BoxConv
from jaxbox.layers.dcls import DclsConv, regular_positions
from jaxbox.layers.doconv import DOConv
from jaxbox.layers.octave import DropInOctConv, split_channels
from jaxbox.layers.plain_conv import positive_sizes
from jaxbox.models.blocks import Bottleneck, BoxBlock

__all__ = ["Variant", "is_dilated", "replace_convs"]

Variant = Literal["box", "dcls", "octave", "doconv"]


def is_dilated(conv: nnx.Conv) -> bool:
    """Tells whether a convolution is dilated, as those of ENet's context blocks are.

    Example:
      >>> from flax import nnx
      >>> from jaxbox.surgery import is_dilated
      >>> is_dilated(nnx.Conv(2, 2, (3, 3), kernel_dilation=4, rngs=nnx.Rngs(0)))
      True
    """
    return max(_per_axis(conv, conv.kernel_dilation)) > 1


def replace_convs[Model: nnx.Module](
    model: Model,
    variant: Variant,
    where: Callable[[nnx.Conv], bool] = is_dilated,
    *,
    rngs: nnx.Rngs,
    **options: Any,
) -> Model:
    """Copies a model with other layers in place of some of its convolutions.

    - `"doconv"`: `DOConv`, which starts as the same function.
    - `"dcls"`: `DclsConv`, with the taps where the convolution has its own, in a kernel just large
      enough. It starts as the same function with version `"v0"`, the default, and `"max"`; with
      `"gauss"` near it. With `"v1"` positions would never leave whole cells: the derivative there
      is 0. Further options are `kernel_size`, for room to move, and those of `DclsConv`.
    - `"octave"`: `DropInOctConv`, with the parts of the kernel that the paths have: with `alpha` 0
      the same function. Options: `alpha` and `pooling`. Groups must be 1.
    - `"box"`: there is no box convolution that is the same. A whole `Bottleneck` of ENet becomes
      the paper's `BoxBlock`, with the same dropout; any other convolution a 1x1 convolution and a
      `BoxConv` of its outputs. Options: `num_boxes` (default 4), `window` for the latter.

    Source: Burkov & Lempitsky 2018, section 4, for the box blocks.

    Args:
      model: An NNX model; a single `nnx.Conv` too.
      variant: What takes the place.
      where: Which convolutions go. Default: the dilated ones, as in ENet's context blocks.
      rngs: The random keys for what starts at random; the streams `params` and `dropout` are used.
      **options: See above.

    Returns:
      A copy; other layers keep their parameters.

    Raises:
      ValueError: `variant` is unknown, no convolution was selected, or one has what its variant
        lacks: a mask or input dilation; for `"dcls"` a smaller `kernel_size` than its extent; for
        `"octave"` groups or uneven strides; for `"box"` strides, groups, another number of spatial
        axes than two, or a number of outputs that `num_boxes` does not divide.

    Example:
      >>> from flax import nnx
      >>> from jaxbox import models
      >>> from jaxbox.surgery import replace_convs
      >>> def enet_with_boxes():
      ...     model = models.create("enet", 3, (16, 24), rngs=nnx.Rngs(0))
      ...     return replace_convs(model, "box", rngs=nnx.Rngs(1))
      >>> model = nnx.eval_shape(enet_with_boxes)  # Its shapes will do here.
      >>> [type(block).__name__ for block in model.blocks[7:11]]
      ['Bottleneck', 'BoxBlock', 'Bottleneck', 'BoxBlock']
    """
    if variant not in _MAKERS:
        raise ValueError(f"variant must be one of {', '.join(_MAKERS)}, got {variant!r}.")
    copy = nnx.clone(model)
    replaced: dict[tuple[Any, ...], nnx.Module] = {}
    modules = dict(nnx.iter_modules(copy))
    for path, conv in modules.items():
        if not isinstance(conv, nnx.Conv) or not where(conv):
            continue
        _check(conv)
        owners = {path[:n]: modules.get(path[:n]) for n in range(len(path))}
        blocks = {p: b for p, b in owners.items() if isinstance(b, Bottleneck)}
        if variant == "box" and blocks:
            place, block = blocks.popitem()
            replaced[place] = _box_block(block, rngs=rngs, **options)
        else:
            replaced[path] = _MAKERS[variant](conv, rngs=rngs, **options)
    if not replaced:
        raise ValueError("where must select a convolution of the model; it selects none.")
    for path, layer in replaced.items():
        if not path:
            return layer  # type: ignore[return-value]
        _put(copy, path, layer)
    return copy


def _check(conv: nnx.Conv) -> None:
    if conv.mask is not None or max(_per_axis(conv, conv.input_dilation)) > 1:
        raise ValueError("a convolution with a mask or input dilation has no counterpart.")


def _put(model: Any, path: tuple[Any, ...], layer: nnx.Module) -> None:
    *owners, name = path
    for owner in owners:
        model = model[owner] if isinstance(owner, int) else getattr(model, owner)
    if isinstance(name, int):
        model[name] = layer
    else:
        setattr(model, name, layer)


def _per_axis(conv: nnx.Conv, sizes: Any) -> tuple[int, ...]:
    return positive_sizes("sizes", 1 if sizes is None else sizes, len(conv.kernel_size))


def _common(conv: nnx.Conv, *names: str) -> dict[str, Any]:
    names = ("padding", "use_bias", "dtype", "param_dtype", "precision", *names)
    return {name: getattr(conv, name) for name in names}


def _copy_bias(conv: nnx.Conv, bias: nnx.Variable | None) -> None:
    if conv.bias is not None and bias is not None:
        bias[...] = conv.bias[...]


def _doconv(conv: nnx.Conv, **options: Any) -> DOConv:
    names = ("kernel_dilation", "feature_group_count", "conv_general_dilated")
    shape = (conv.in_features, conv.out_features, conv.kernel_size, _per_axis(conv, conv.strides))
    layer = DOConv(*shape, **{**_common(conv, *names), **options})
    kernel = conv.kernel[...]
    taps = kernel.reshape(-1, *kernel.shape[-2:])
    # The taps behind the first identity, if the depth multiplier leaves any, add nothing.
    layer.weight[...] = jnp.pad(taps, [(0, layer.depth_multiplier - len(taps)), (0, 0), (0, 0)])
    _copy_bias(conv, layer.bias)
    return layer


def _dcls(
    conv: nnx.Conv, *, kernel_size: tuple[int, ...] | None = None, **options: Any
) -> DclsConv:
    dilation = _per_axis(conv, conv.kernel_dilation)
    extent = tuple((n - 1) * d + 1 for n, d in zip(conv.kernel_size, dilation, strict=True))
    size = extent if kernel_size is None else positive_sizes("kernel_size", kernel_size)
    if len(size) != len(extent) or any(n < m for n, m in zip(size, extent, strict=True)):
        raise ValueError(f"kernel_size must be at least the extent {extent}, got {size}.")
    places = regular_positions(conv.kernel_size, dilation, size)
    layer = DclsConv(
        conv.in_features,
        conv.out_features,
        size,
        math.prod(conv.kernel_size),
        _per_axis(conv, conv.strides),
        positions_init=lambda _, shape, dtype: jnp.broadcast_to(
            jnp.asarray(places[..., np.newaxis, np.newaxis], dtype), shape
        ),
        **{"version": "v0", **_common(conv, "feature_group_count"), **options},
    )
    layer.weight[...] = conv.kernel[...].reshape(layer.weight.shape)
    _copy_bias(conv, layer.bias)
    return layer


def _octave(conv: nnx.Conv, **options: Any) -> DropInOctConv:
    strides = set(_per_axis(conv, conv.strides))
    if conv.feature_group_count > 1 or len(strides) > 1:
        raise ValueError(
            "an octave convolution needs one group and the same stride along each axis, got "
            f"{conv.feature_group_count} and {conv.strides}."
        )
    layer = DropInOctConv(
        conv.in_features,
        conv.out_features,
        conv.kernel_size,
        strides.pop(),
        **{**_common(conv, "kernel_dilation", "conv_general_dilated"), **options},
    )
    inputs, outputs = (
        split_channels(channels, alpha)[0]
        for channels, alpha in zip(
            (conv.in_features, conv.out_features), layer.conv.alpha, strict=True
        )
    )
    high, low = jnp.split(conv.kernel[...], [inputs], axis=-2)
    octaves = layer.conv
    for kernel, to_high, to_low in (
        (high, octaves.high_to_high, octaves.high_to_low),
        (low, octaves.low_to_high, octaves.low_to_low),
    ):
        for path, part in zip((to_high, to_low), jnp.split(kernel, [outputs], -1), strict=True):
            if path is not None:
                path[...] = part
    if conv.bias is not None:
        for own, part in zip(
            (octaves.high_bias, octaves.low_bias), jnp.split(conv.bias[...], [outputs]), strict=True
        ):
            if own is not None:
                own[...] = part
    return layer


def _box(
    conv: nnx.Conv,
    *,
    num_boxes: int = 4,
    window: tuple[int, int] | None = None,
    rngs: nnx.Rngs,
    **options: Any,
) -> nnx.Sequential:
    if (
        max(_per_axis(conv, conv.strides)) > 1
        or conv.feature_group_count > 1
        or len(conv.kernel_size) != 2
        or conv.out_features % num_boxes
    ):
        raise ValueError(
            "boxes can replace a convolution of two spatial axes with stride 1, one group and a "
            f"multiple of num_boxes = {num_boxes} outputs; got {conv.out_features} outputs, a "
            f"kernel of {conv.kernel_size}, strides {conv.strides} and {conv.feature_group_count} "
            "groups."
        )
    inner = conv.out_features // num_boxes
    pointwise = nnx.Conv(
        conv.in_features, inner, (1, 1), use_bias=conv.use_bias, dtype=conv.dtype, rngs=rngs
    )
    return nnx.Sequential(pointwise, BoxConv(inner, num_boxes, window, rngs=rngs, **options))


def _box_block(block: Bottleneck, *, rngs: nnx.Rngs, **options: Any) -> BoxBlock:
    rates = [layer.rate for _, layer in nnx.iter_modules(block) if isinstance(layer, nnx.Dropout)]
    given = {"dropout": max(rates, default=0.0), **options}
    layers = (layer for _, layer in nnx.iter_modules(block) if isinstance(layer, nnx.Conv))
    return BoxBlock(block.output, dtype=next(layers).dtype or jnp.float32, rngs=rngs, **given)


_MAKERS: Final[Mapping[Variant, Callable[..., nnx.Module]]] = MappingProxyType(
    {"box": _box, "dcls": _dcls, "octave": _octave, "doconv": _doconv}
)
