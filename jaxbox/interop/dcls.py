"""Weights from the authors' PyTorch code of DCLS (package `dcls`).

In that code `P[i]` is not always the position along spatial axis `i`, and it is measured from half
the size of axis `i` all the same. For rectangular kernels that is rarely what was meant.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from flax import nnx
from numpy.typing import ArrayLike

from jaxbox.interop.state_dict import assign, check_rank, read_state_dict
from jaxbox.layers.dcls import DclsConv
from jaxbox.ops.dcls import Version

__all__ = ["dcls_from_pytorch"]

# For each number of spatial axes: the index in `P` of each axis' positions, in version "v0" and in
# the others.
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
      state: The module's state dict, names to arrays: `weight` `(O, I / groups, K)`, `P`
        `(d, O, I / groups, K)`, for the versions `"max"` and `"gauss"` `SIG` of the same shape, and
        perhaps `bias` `(O,)`.
      kernel_size: The module's `dilated_kernel_size`, the number of cells along each spatial axis.
      version: The module's version.
      feature_group_count: The module's number of groups.
      axis_order: The spatial axes that `P[0]`, `P[1]`, ... belong to. With `"original"` they are
        those of the original code, which differ between versions, and positions are measured from
        half the size of axis 0, 1, ...: the layer computes what the original does, for rectangular
        kernels too. With `"array"` they are the axes 0, 1, ..., as in `DclsConv`.
      **options: Other options of :class:`jaxbox.layers.DclsConv`, such as `strides`, `padding` and
        `dtype`.

    Returns:
      The layer.

    Raises:
      ValueError: An array is missing, unknown or of the wrong shape, or `axis_order` is unknown.

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
    widths = ["SIG"] if version in ("max", "gauss") else []
    arrays = read_state_dict(state, ["weight", "P", *widths], ["bias", "SIG"])
    check_rank("weight", arrays["weight"], "(O, I / groups, K)", 3)
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
    for name in ("P", *widths):
        check_rank(name, arrays[name], "(d, O, I / groups, K)", 4)
        if len(arrays[name]) != len(size):
            raise ValueError(f"{name} must have {len(size)} axes first, got {len(arrays[name])}.")
        arrays[name] = arrays[name][list(order)].transpose(0, 3, 2, 1)
    shifts = [size[source] // 2 - size[axis] // 2 for axis, source in enumerate(order)]
    positions = arrays["P"] + np.reshape(shifts, (-1, 1, 1, 1))
    assign(layer.weight, "weight", arrays["weight"].T)
    assign(layer.positions, "P", positions / layer.gain)
    if widths:
        assign(layer.sigma, "SIG", arrays["SIG"])
    if "bias" in arrays:
        assign(layer.bias, "bias", arrays["bias"])
    return layer
