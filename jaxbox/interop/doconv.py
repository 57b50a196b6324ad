"""Weights from and for the authors' PyTorch code of DO-Conv."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from flax import nnx
from numpy.typing import ArrayLike, NDArray

from jaxbox.arguments import check_count, sizes_per_axis
from jaxbox.interop.state_dict import (
    StateDict,
    assign,
    check_shape,
    open_state_dict,
    read_state_dict,
    restore_unchanged,
)
from jaxbox.layers.doconv import DOConv
from jaxbox.ops.doconv import identity

__all__ = ["doconv_from_pytorch", "doconv_to_pytorch"]

# The identity's names: in the code for PyTorch 1.10 and later, and in that before it.
_DIAGONALS: Final = ("d_diag", "D_diag")


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
        more than one tap `D` `(I, taps, D_mul)` and perhaps `d_diag` (`D_diag` in older code), the
        identity there, of the same shape; perhaps `bias` `(O,)`. A checkpoint
        `{"state_dict": ...}` is opened, and prefixes `module.` and `model.` are left out.
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
      TypeError: `state` is not a mapping of names to arrays of real numbers, or another argument is
        of the wrong type.
      ValueError: An array is missing, unknown, of the wrong shape, or not finite.

    Example:
      >>> import numpy as np
      >>> from jaxbox.interop import doconv_from_pytorch
      >>> state = {"W": np.ones((6, 4, 9)), "D": np.zeros((4, 9, 9)), "bias": np.zeros(6)}
      >>> doconv_from_pytorch(state, (3, 3), padding=1).kernel.shape
      (3, 3, 4, 6)
    """
    kernel_size = sizes_per_axis("kernel_size", kernel_size)
    feature_group_count = check_count("feature_group_count", feature_group_count)
    taps = math.prod(kernel_size)
    diagonals = _DIAGONALS if taps > 1 else ()
    arrays = read_state_dict(state, ["W", *(["D"] if taps > 1 else [])], [*diagonals, "bias"])
    if all(name in arrays for name in _DIAGONALS):
        raise ValueError("state has both d_diag and D_diag, which are names of the same array.")
    check_shape("W", arrays["W"], "(O, I / groups, D_mul)", rank=3)
    outputs, inputs, multiplier = arrays["W"].shape
    if multiplier < taps or (taps == 1 and multiplier > 1):
        raise ValueError(
            f"W must have the shape (O, I / groups, D_mul) with D_mul at least the {taps} taps of "
            f"a kernel of {kernel_size} (and 1 for one tap), got {arrays['W'].shape}."
        )
    # In a fixed order, for the same message each time.
    for name in ("D", *_DIAGONALS):
        if name in arrays:
            shape = (inputs * feature_group_count, taps, multiplier)
            check_shape(name, arrays[name], "(I, taps, D_mul)", shape=shape)
    if "bias" in arrays:
        check_shape("bias", arrays["bias"], "(O,)", shape=(outputs,))
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
        eye = identity(taps, multiplier)
        deviation = arrays["D"] + (_diagonal(arrays, eye) - eye)
        assign(layer.deviation, "D", np.moveaxis(deviation, 0, -1).reshape(layer.deviation.shape))
    if "bias" in arrays:
        assign(layer.bias, "bias", arrays["bias"])
    return layer


def doconv_to_pytorch(layer: DOConv, *, like: Mapping[str, ArrayLike] | None = None) -> StateDict:
    """Returns the state dict with which a `DOConv2d` computes the same.

    Args:
      layer: The layer. The original has two spatial axes.
      like: The state dict that the layer was made from. What has not changed is copied from it, bit
        for bit and in its dtype, and so are its name of the identity and prefixes of names.

    Returns:
      The state dict, with the identity under the name `d_diag` unless `like` names it otherwise.

    Raises:
      TypeError: `layer` is not a `DOConv`.
      ValueError: `like` does not fit the layer.

    Example:
      >>> from flax import nnx
      >>> from jaxbox.interop import doconv_to_pytorch
      >>> from jaxbox.layers import DOConv
      >>> state = doconv_to_pytorch(DOConv(4, 6, (3, 3), rngs=nnx.Rngs(0)))
      >>> {name: array.shape for name, array in state.items()}
      {'W': (6, 4, 9), 'D': (4, 9, 9), 'd_diag': (4, 9, 9), 'bias': (6,)}
    """
    if not isinstance(layer, DOConv):
        raise TypeError(f"layer must be a DOConv, got {type(layer).__name__}.")
    state = _written(layer)
    if like is None:
        return state
    old = open_state_dict(like)
    before = doconv_from_pytorch(
        like,
        layer.kernel_size,
        feature_group_count=layer.feature_group_count,
        legacy_torch_grouping=layer.legacy_torch_grouping,
    )
    states = state, _written(before)
    for written in states:
        eye = written.pop("d_diag", None)
        if eye is not None:
            # Deviations are measured from the identity, `D` from what `like` has in its place.
            written["D"] = written["D"] - (_diagonal(old, eye) - eye).astype(eye.dtype)
            written.update({name: eye for name in _DIAGONALS if name in old})
    return restore_unchanged(*states, like)


def _written(layer: DOConv) -> StateDict:
    """Returns the state dict of a layer in the names of newer code."""
    state = {"W": np.asarray(layer.weight[...]).transpose(2, 1, 0)}
    if layer.deviation is not None:
        *_, multiplier, inputs = layer.deviation.shape
        deviation = np.asarray(layer.deviation[...]).reshape(-1, multiplier, inputs)
        state["D"] = np.moveaxis(deviation, -1, 0)
        eye = identity(deviation.shape[0], multiplier).astype(deviation.dtype)
        state["d_diag"] = np.broadcast_to(eye, state["D"].shape)
    if layer.bias is not None:
        state["bias"] = np.asarray(layer.bias[...])
    return state


def _diagonal(arrays: Mapping[str, NDArray[Any]], eye: NDArray[Any]) -> NDArray[Any]:
    """Returns the array that a state dict has for the identity, or the identity itself."""
    return next((arrays[name] for name in _DIAGONALS if name in arrays), eye)
