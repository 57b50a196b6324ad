"""Weights from BrainCreators' PyTorch code of octave convolution (package `octconv`)."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

from flax import nnx
from numpy.typing import ArrayLike

from jaxbox.interop.state_dict import assign, check_rank, read_state_dict
from jaxbox.layers.octave import OctConv

__all__ = ["octave_from_pytorch"]

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
        `conv_h2h.bias` and so on. The biases of the two paths to an output are added up.
      feature_group_count: The number of groups of each of the module's convolutions.
      **options: Other options of :class:`jaxbox.layers.OctConv`, such as `strides`, `padding` and
        `kernel_dilation`. The original's padding is 0 unless set.

    Returns:
      The layer, with the numbers of channels that the state dict has, however they were rounded.

    Raises:
      ValueError: An array is missing, unknown or of the wrong shape.

    Example:
      >>> import numpy as np
      >>> from jaxbox.interop import octave_from_pytorch
      >>> shapes = {"conv_h2h.weight": (5, 3, 3, 3), "conv_h2l.weight": (2, 3, 3, 3)}
      >>> state = {name: np.ones(shape) for name, shape in shapes.items()}
      >>> layer = octave_from_pytorch(state, padding=1)
      >>> layer.in_features, layer.out_features
      ((3, 0), (5, 2))
    """
    names = [f"{path}.{kind}" for path in _PATHS for kind in ("weight", "bias")]
    arrays = read_state_dict(state, [], names)
    # The numbers of channels of high and of low frequency.
    inputs, outputs = {"h": 0, "l": 0}, {"h": 0, "l": 0}
    for path in _PATHS:
        weight = arrays.get(f"{path}.weight")
        if weight is not None:
            check_rank(f"{path}.weight", weight, "(O, I / groups, height, width)", 4)
            inputs[path[-3]] = weight.shape[1] * feature_group_count
            outputs[path[-1]] = weight.shape[0]
            kernel_size = weight.shape[2:]
    if not any(inputs.values()):
        raise ValueError("state does not fit the layer; missing: the weight of any path.")
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
        if name in arrays:
            assign(parameter, name, arrays[name].transpose(2, 3, 1, 0))
        elif parameter is not None:
            raise ValueError(f"state does not fit the layer; missing: {name}.")
    for octave, bias in (("h", layer.high_bias), ("l", layer.low_bias)):
        given = [arrays[name] for name in arrays if name.endswith(f"2{octave}.bias")]
        if given:
            assign(bias, f"the bias of the output {octave}", sum(given[1:], start=given[0]))
    return layer


def _alpha(channels: Mapping[str, int]) -> Any:
    """Returns the alpha that splits the sum of the channels into exactly these."""
    return Fraction(channels["l"], sum(channels.values()))
