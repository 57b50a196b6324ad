"""Weights from the authors' PyTorch code of DO-Conv."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx
from numpy.typing import ArrayLike

from jaxbox.arguments import sizes_per_axis
from jaxbox.interop.state_dict import assign, check_rank, read_state_dict
from jaxbox.layers.doconv import DOConv
from jaxbox.ops.doconv import identity

__all__ = ["doconv_from_pytorch"]


def doconv_from_pytorch(
    state: Mapping[str, ArrayLike],
    kernel_size: int | Sequence[int],
    *,
    feature_group_count: int = 1,
    legacy_torch_grouping: bool = True,
    **options: Any,
) -> DOConv:
    """Builds a layer with the weights of a `DOConv2d`.

    Args:
      state: The module's state dict, names to arrays: `W` `(O, I / groups, D_mul)`, for kernels of
        more than one tap `D` `(I, taps, D_mul)` and perhaps `D_diag`, the identity there, of the
        same shape; perhaps `bias` `(O,)`.
      kernel_size: The number of taps along each spatial axis, which the state dict does not tell.
      feature_group_count: The module's number of groups.
      legacy_torch_grouping: Whether groups are mixed up as in the original code, which does so
        unless there is one group or as many as channels. Turn it off for weights trained by code
        that does not mix them up.
      **options: Other options of :class:`jaxbox.layers.DOConv`, such as `strides`, `padding` and
        `kernel_dilation`. The original's padding is 0 unless set.

    Returns:
      The layer.

    Raises:
      ValueError: An array is missing, unknown or of the wrong shape.

    Example:
      >>> import numpy as np
      >>> from jaxbox.interop import doconv_from_pytorch
      >>> state = {"W": np.ones((6, 4, 9)), "D": np.zeros((4, 9, 9)), "bias": np.zeros(6)}
      >>> doconv_from_pytorch(state, (3, 3), padding=1).kernel.shape
      (3, 3, 4, 6)
    """
    kernel_size = sizes_per_axis("kernel_size", kernel_size)
    taps = math.prod(kernel_size)
    arrays = read_state_dict(state, ["W", *(["D"] if taps > 1 else [])], ["D_diag", "bias"])
    check_rank("W", arrays["W"], "(O, I / groups, D_mul)", 3)
    outputs, inputs, multiplier = arrays["W"].shape
    layer = DOConv(
        inputs * feature_group_count,
        outputs,
        kernel_size,
        depth_multiplier=multiplier,
        feature_group_count=feature_group_count,
        use_bias="bias" in arrays,
        legacy_torch_grouping=legacy_torch_grouping,
        rngs=nnx.Rngs(0),
        **options,
    )
    assign(layer.weight, "W", arrays["W"].transpose(2, 1, 0))
    if layer.deviation is not None:
        shape = (inputs * feature_group_count, taps, multiplier)
        for name in {"D", "D_diag"} & arrays.keys():
            if arrays[name].shape != shape:
                raise ValueError(f"{name} must have the shape {shape}, got {arrays[name].shape}.")
        eye = identity(taps, multiplier)
        deviation = arrays["D"] + (arrays.get("D_diag", eye) - eye)
        assign(layer.deviation, "D", np.moveaxis(deviation, 0, -1).reshape(layer.deviation.shape))
    if "bias" in arrays:
        assign(layer.bias, "bias", arrays["bias"])
    return layer
