"""Weights from the authors' PyTorch code of DCLS (package `dcls`).

There a tap's position along one axis is not always found under the number of that axis, and it
counts from the middle of another: the same here only for square kernels of two versions.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from flax import nnx
from numpy.typing import ArrayLike

from jaxbox.interop.state_dict import assign, check_names, check_shape
from jaxbox.layers.dcls import DclsConv
from jaxbox.ops.dcls import Version

__all__ = ["dcls_from_pytorch"]

# For each spatial axis, under which number the original has its positions: version 0, the others.
_ORIGINAL_ORDER: Final = {
    1: ((0,), (0,)),
    2: ((0, 1), (1, 0)),
    3: ((0, 2, 1), (2, 1, 0)),
}


def dcls_from_pytorch(
    state: Mapping[str, ArrayLike],
    kernel_size: int | Sequence[int],
    version: Version,
    *,
    feature_group_count: int = 1,
    axis_order: Literal["original", "array"] = "original",
    **options: Any,
) -> DclsConv:
    """Builds a layer with the weights of a `Dcls1d`, `Dcls2d` or `Dcls3d`.

    Args:
      state: Its `state_dict`, names to arrays: `weight` `(O, I / groups, K)`, `P`
        `(d, O, I / groups, K)`, for the versions `"max"` and `"gauss"` `SIG` of the same shape, and
        perhaps `bias` `(O,)`.
      kernel_size: Its `dilated_kernel_size`: cells along each spatial axis.
      version: Its version.
      feature_group_count: Its groups.
      axis_order: To which spatial axes `P[0]`, `P[1]`, ... belong. `"original"`: to those of the
        original code, different for each version, measured from half the size of axis 0, 1, ...:
        the layer computes what the original does, of rectangular kernels too. `"array"`: to axes 0,
        1, ... in this order, as here.
      **options: Of :class:`jaxbox.layers.DclsConv`: `strides`, `padding`, `dtype` and others.

    Returns:
      The layer.

    Raises:
      ValueError: Entries are missing, not known or of another shape, or `axis_order` is unknown.

    Example:
      >>> import numpy as np
      >>> from jaxbox.interop import dcls_from_pytorch
      >>> position = np.array([3.0, 0.0]).reshape(2, 1, 1, 1)  # 3 columns to the right.
      >>> state = {"weight": np.ones((1, 1, 1)), "P": position, "SIG": np.zeros_like(position)}
      >>> layer = dcls_from_pytorch(state, (9, 9), "max")
      >>> layer.positions[:, 0, 0, 0].tolist()
      [0.0, 3.0]
    """
    if axis_order not in ("original", "array"):
        raise ValueError(f"axis_order must be 'original' or 'array', got {axis_order!r}.")
    spreads = ["SIG"] if version in ("max", "gauss") else []
    arrays = check_names(state, ["weight", "P", *spreads], ["bias", "SIG"])
    check_shape("weight", arrays["weight"], "(O, I / groups, K)", 3)
    outputs, inputs, taps = arrays["weight"].shape
    layer = DclsConv(
        inputs * feature_group_count,
        outputs,
        kernel_size,
        taps,
        feature_group_count=feature_group_count,
        use_bias="bias" in arrays,
        version=version,
        rngs=nnx.Rngs(0),
        **options,
    )
    size = layer.kernel_size
    order = tuple(range(len(size)))
    if axis_order == "original":
        order = _ORIGINAL_ORDER[len(size)][version != "v0"]
    for name in ("P", *spreads):
        check_shape(name, arrays[name], "(d, O, I / groups, K)", 4)
        if len(arrays[name]) != len(size):
            raise ValueError(f"{name} must have {len(size)} axes first, got {len(arrays[name])}.")
        arrays[name] = arrays[name][list(order)].transpose(0, 3, 2, 1)
    middles = [size[source] // 2 - size[axis] // 2 for axis, source in enumerate(order)]
    places = arrays["P"] + np.reshape(middles, (-1, 1, 1, 1))
    assign(layer.weight, "weight", arrays["weight"].T)
    assign(layer.positions, "P", places / layer.gain)
    if spreads:
        assign(layer.sigma, "SIG", arrays["SIG"])
    if "bias" in arrays:
        assign(layer.bias, "bias", arrays["bias"])
    return layer
