"""Weights from and for BrainCreators' PyTorch code of octave convolution (package `octconv`)."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

import numpy as np
from flax import nnx
from numpy.typing import ArrayLike, NDArray

from jaxbox.arguments import check_count
from jaxbox.interop.state_dict import (
    StateDict,
    assign,
    check_shape,
    open_state_dict,
    read_state_dict,
    restore_unchanged,
)
from jaxbox.layers.octave import OctConv

__all__ = ["octave_from_pytorch", "octave_to_pytorch"]

_PATHS: Final = {
    "conv_h2h": "high_to_high",
    "conv_h2l": "high_to_low",
    "conv_l2h": "low_to_high",
    "conv_l2l": "low_to_low",
}


def octave_from_pytorch(
    state: Mapping[str, ArrayLike], *, feature_group_count: int = 1, **options: Any
) -> OctConv:
    """Builds a layer with the weights of an `OctConv2d`.

    Args:
      state: The module's state dict, names to arrays: `conv_h2h.weight`
        `(O, I / groups, *kernel_size)` and so on, for the paths that there are, and perhaps
        `conv_h2h.bias` and so on. The biases of the two paths to an output are added up. A path
        may have no channels. A checkpoint `{"state_dict": ...}` is opened, and prefixes `module.`
        and `model.` are left out.
      feature_group_count: The number of groups of each of the module's convolutions.
      **options: Other options of :class:`jaxbox.layers.OctConv`, such as `strides`, `padding` and
        `kernel_dilation`. The original's padding is 0 unless set.

    Returns:
      The layer, with the numbers of channels that the state dict has, however they were rounded.

    Raises:
      TypeError: `state` is not a mapping of names to arrays of real numbers, or another argument is
        of the wrong type.
      ValueError: An array is missing, unknown, of the wrong shape, or not finite, or the sum of two
        biases is too large.

    Example:
      >>> import numpy as np
      >>> from jaxbox.interop import octave_from_pytorch
      >>> shapes = {"conv_h2h.weight": (5, 3, 3, 3), "conv_h2l.weight": (2, 3, 3, 3)}
      >>> state = {name: np.ones(shape) for name, shape in shapes.items()}
      >>> layer = octave_from_pytorch(state, padding=1)
      >>> layer.in_features, layer.out_features
      ((3, 0), (5, 2))
    """
    feature_group_count = check_count("feature_group_count", feature_group_count)
    names = [f"{path}.{kind}" for path in _PATHS for kind in ("weight", "bias")]
    arrays = read_state_dict(state, [], names)
    inputs, outputs, kernel_size = _channels(arrays, feature_group_count)
    layer = OctConv(
        sum(inputs.values()),
        sum(outputs.values()),
        kernel_size,
        alpha=(_alpha(inputs), _alpha(outputs)),
        feature_group_count=feature_group_count,
        use_bias=any(name.endswith("bias") for name in arrays),
        rngs=nnx.Rngs(0),
        **options,
    )
    for path, attribute in _PATHS.items():
        parameter = getattr(layer, attribute)
        name = f"{path}.weight"
        if parameter is None:
            continue
        if name not in arrays:
            raise ValueError(f"state does not fit the layer; missing: {name}.")
        assign(parameter, name, arrays[name].transpose(2, 3, 1, 0))
    for octave, bias in (("h", layer.high_bias), ("l", layer.low_bias)):
        given = [array for name, array in arrays.items() if name.endswith(f"2{octave}.bias")]
        if given and outputs[octave]:
            # Wider than the biases, whose sum may exceed their dtype.
            total = sum((array.astype(np.float64) for array in given), start=np.float64(0))
            assign(bias, f"the sum of the biases of the output {octave}", np.asarray(total))
    return layer


def octave_to_pytorch(layer: OctConv, *, like: Mapping[str, ArrayLike] | None = None) -> StateDict:
    """Returns the state dict with which an `OctConv2d` computes the same.

    Args:
      layer: The layer. The original has two spatial axes and no groups.
      like: The state dict that the layer was made from. What has not changed is copied from it, bit
        for bit and in its dtype, and so are prefixes of names and paths without channels.

    Returns:
      The state dict. The bias of an output is that of its path from the high octave, or of the only
      path; where there is another path, its bias is 0.

    Raises:
      TypeError: `layer` is not an `OctConv`.
      ValueError: `like` does not fit the layer.

    Example:
      >>> from flax import nnx
      >>> from jaxbox.interop import octave_to_pytorch
      >>> from jaxbox.layers import OctConv
      >>> state = octave_to_pytorch(OctConv(3, 6, (3, 3), alpha=(0, 0.5), rngs=nnx.Rngs(0)))
      >>> {name: array.shape for name, array in state.items() if name.startswith("conv_h2l")}
      {'conv_h2l.weight': (3, 3, 3, 3), 'conv_h2l.bias': (3,)}
    """
    if not isinstance(layer, OctConv):
        raise TypeError(f"layer must be an OctConv, got {type(layer).__name__}.")
    state = _written(layer)
    if like is None:
        return state
    old = open_state_dict(like)
    before = _written(octave_from_pytorch(like, feature_group_count=layer.feature_group_count))
    for name, array in old.items():
        for written in (state, before):
            if array.size == 0:
                written[name] = array
    # Where the sum of two biases has changed, the second one has to become 0 too.
    for octave in "hl":
        first, second = (f"conv_{path}2{octave}.bias" for path in "hl")
        if first in state and second in state:
            changed = state[first] != before[first]
            before[second] = np.where(changed, np.nan, before[second])
    return restore_unchanged(state, before, like)


def _channels(
    arrays: Mapping[str, NDArray[Any]], groups: int
) -> tuple[dict[str, int], dict[str, int], tuple[int, ...]]:
    """Returns the channels of the octaves of input and of output, and the kernel size."""
    inputs, outputs = {"h": 0, "l": 0}, {"h": 0, "l": 0}
    kernel_size: tuple[int, ...] = ()
    for path in _PATHS:
        weight = arrays.get(f"{path}.weight")
        bias = arrays.get(f"{path}.bias")
        if weight is None:
            if bias is not None:
                raise ValueError(f"state does not fit the layer; missing: {path}.weight.")
            continue
        axes = "(O, I / groups, height, width)"
        check_shape(f"{path}.weight", weight, axes, rank=4, may_be_empty=True)
        if bias is not None:
            check_shape(f"{path}.bias", bias, "(O,)", shape=weight.shape[:1], may_be_empty=True)
        for channels, octave, count in (
            (inputs, path[-3], weight.shape[1] * groups),
            (outputs, path[-1], weight.shape[0]),
        ):
            if count and channels[octave] not in (0, count):
                raise ValueError(
                    f"{path}.weight must have the channels of the other paths, got shape "
                    f"{weight.shape}, and {channels[octave]} channels there."
                )
            channels[octave] = channels[octave] or count
        if weight.size:
            if kernel_size not in ((), weight.shape[2:]):
                raise ValueError(
                    f"{path}.weight must have the kernel size of the other paths, {kernel_size}, "
                    f"got shape {weight.shape}."
                )
            kernel_size = weight.shape[2:]
    if not any(inputs.values()) or not any(outputs.values()) or not kernel_size:
        raise ValueError("state does not fit the layer; missing: the weight of any path.")
    return inputs, outputs, kernel_size


def _written(layer: OctConv) -> StateDict:
    state = {}
    for path, attribute in _PATHS.items():
        kernel = getattr(layer, attribute)
        if kernel is not None:
            state[f"{path}.weight"] = np.asarray(kernel[...]).transpose(3, 2, 0, 1)
    for octave, bias in (("h", layer.high_bias), ("l", layer.low_bias)):
        paths = [path for path in _PATHS if path[-1] == octave and f"{path}.weight" in state]
        if bias is not None and paths:
            value = np.asarray(bias[...])
            biases = (value, np.zeros_like(value))
            state.update({f"{path}.bias": b for path, b in zip(paths, biases, strict=False)})
    return state


def _alpha(channels: Mapping[str, int]) -> Any:
    """Returns the alpha that splits the sum of the channels into exactly these."""
    return Fraction(channels["l"], sum(channels.values()))
