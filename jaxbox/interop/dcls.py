"""Weights from and for the authors' PyTorch code of DCLS (package `dcls`).

In that code `P[i]` is not always the position along spatial axis `i`, and it is measured from half
the size of axis `i` all the same. For rectangular kernels that is rarely what was meant.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, get_args

import numpy as np
from flax import nnx
from numpy.typing import ArrayLike, NDArray

from jaxbox.arguments import check_choice, check_count, sizes_per_axis
from jaxbox.interop.state_dict import (
    StateDict,
    assign,
    check_shape,
    open_state_dict,
    read_state_dict,
    restore_unchanged,
)
from jaxbox.layers.dcls import DclsConv
from jaxbox.ops.dcls import Version

__all__ = ["AxisOrder", "dcls_from_pytorch", "dcls_to_pytorch"]

AxisOrder = Literal["original", "array"]
"""The order of the axes of positions: as in the original code, or as in the array."""

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
    axis_order: AxisOrder = "original",
    **options: Any,
) -> DclsConv:
    """Builds a layer with the weights of a `Dcls1d`, `Dcls2d` or `Dcls3d`.

    Args:
      state: The module's state dict, names to arrays: `weight` `(O, I / groups, K)`, `P`
        `(d, O, I / groups, K)`, for the versions `"max"` and `"gauss"` `SIG` of the same shape, and
        perhaps `bias` `(O,)`. A checkpoint `{"state_dict": ...}` is opened, and prefixes `module.`
        and `model.` are left out.
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
      TypeError: `state` is not a mapping of names to arrays of real numbers, or another argument is
        of the wrong type.
      ValueError: An array is missing, unknown, of the wrong shape, or not finite; a position is
        more than a cell outside the range that the original keeps positions in; `version` or
        `axis_order` is unknown.

    Example:
      >>> import numpy as np
      >>> from jaxbox.interop import dcls_from_pytorch
      >>> position = np.array([3.0, 0.0]).reshape(2, 1, 1, 1)  # 3 columns to the right.
      >>> state = {"weight": np.ones((1, 1, 1)), "P": position, "SIG": np.zeros_like(position)}
      >>> layer = dcls_from_pytorch(state, (9, 9), "max")
      >>> layer.positions[:, 0, 0, 0].tolist()
      [0.0, 3.0]
    """
    check_choice("axis_order", axis_order, get_args(AxisOrder))
    check_choice("version", version, get_args(Version))
    size = sizes_per_axis("kernel_size", kernel_size)
    feature_group_count = check_count("feature_group_count", feature_group_count)
    widths = ["SIG"] if version in ("max", "gauss") else []
    arrays = read_state_dict(state, ["weight", "P", *widths], ["bias", "SIG"])
    check_shape("weight", arrays["weight"], "(O, I / groups, K)", rank=3)
    outputs, inputs, taps = arrays["weight"].shape
    for name in ("P", "SIG"):
        if name in arrays:
            shape = (len(size), *arrays["weight"].shape)
            check_shape(name, arrays[name], "(d, O, I / groups, K)", shape=shape)
    if "bias" in arrays:
        check_shape("bias", arrays["bias"], "(O,)", shape=(outputs,))
    _check_positions(arrays["P"], size)
    layer = DclsConv(
        inputs * feature_group_count,
        outputs,
        size,
        taps,
        feature_group_count=feature_group_count,
        use_bias="bias" in arrays,
        version=version,
        rngs=nnx.Rngs(0),
        **options,
    )
    order, shifts = _axes(size, version, axis_order)
    positions = _reordered(arrays["P"], order) + shifts
    assign(layer.weight, "weight", arrays["weight"].T)
    assign(layer.positions, "P", positions / layer.gain)
    if widths:
        assign(layer.sigma, "SIG", _reordered(arrays["SIG"], order))
    if "bias" in arrays:
        assign(layer.bias, "bias", arrays["bias"])
    return layer


def dcls_to_pytorch(
    layer: DclsConv,
    *,
    axis_order: AxisOrder = "original",
    like: Mapping[str, ArrayLike] | None = None,
) -> StateDict:
    """Returns the state dict with which a `Dcls1d`, `Dcls2d` or `Dcls3d` computes the same.

    Args:
      layer: The layer. The original has no positions that output channels share.
      axis_order: The spatial axes that `P[0]`, `P[1]`, ... belong to, as in
        :func:`dcls_from_pytorch`.
      like: The state dict that the layer was made from. What has not changed is copied from it, bit
        for bit and in its dtype, and so are prefixes of names.

    Returns:
      The state dict, names to arrays.

    Raises:
      TypeError: `layer` is not a `DclsConv`.
      ValueError: `like` does not fit the layer, output channels share positions, or `axis_order` is
        unknown.

    Example:
      >>> from flax import nnx
      >>> from jaxbox.interop import dcls_to_pytorch
      >>> from jaxbox.layers import DclsConv
      >>> state = dcls_to_pytorch(DclsConv(4, 6, (9, 9), 5, rngs=nnx.Rngs(0)))
      >>> {name: array.shape for name, array in state.items()}
      {'weight': (6, 4, 5), 'P': (2, 6, 4, 5), 'SIG': (2, 6, 4, 5), 'bias': (6,)}
    """
    if not isinstance(layer, DclsConv):
        raise TypeError(f"layer must be a DclsConv, got {type(layer).__name__}.")
    check_choice("axis_order", axis_order, get_args(AxisOrder))
    if layer.positions.shape[-1] != layer.out_features:
        raise ValueError(
            "layer must have positions for each output channel, as the original has; it was made "
            "with share_positions=True."
        )
    state = _written(layer, axis_order)
    if like is None:
        return state
    before = dcls_from_pytorch(
        like,
        layer.kernel_size,
        layer.version,
        feature_group_count=layer.feature_group_count,
        axis_order=axis_order,
        gain=layer.gain,
    )
    written = _written(before, axis_order)
    if "SIG" in open_state_dict(like) and "SIG" not in state:
        # The versions "v0" and "v1" have widths in their state dict and do not use them.
        state["SIG"] = written["SIG"] = np.zeros_like(state["P"])
    return restore_unchanged(state, written, like)


def _written(layer: DclsConv, axis_order: AxisOrder) -> StateDict:
    order, shifts = _axes(layer.kernel_size, layer.version, axis_order)
    back = np.argsort(order).tolist()
    positions = np.asarray(layer.positions[...])
    cells = (positions.astype(np.float64) * layer.gain - shifts).astype(positions.dtype)
    state = {"weight": np.asarray(layer.weight[...]).T, "P": _reordered(cells, back)}
    if layer.sigma is not None:
        state["SIG"] = _reordered(np.asarray(layer.sigma[...]), back)
    if layer.bias is not None:
        state["bias"] = np.asarray(layer.bias[...])
    return state


def _axes(
    size: tuple[int, ...], version: Version, axis_order: AxisOrder
) -> tuple[list[int], NDArray[np.int64]]:
    """Returns the index in `P` of each axis' positions, and what to add to them.

    The second is `(d, 1, 1, 1)`, the distance between the middles from which the original and
    `DclsConv` measure.
    """
    order = list(range(len(size)))
    if axis_order == "original":
        order = list(_ORIGINAL_ORDER[len(size)][version != "v0"])
    shifts = [size[source] // 2 - size[axis] // 2 for axis, source in enumerate(order)]
    return order, np.reshape(np.asarray(shifts, np.int64), (-1, 1, 1, 1))


def _reordered(array: NDArray[Any], order: Sequence[int]) -> NDArray[Any]:
    """Reorders the first axis and reverses the others: from PyTorch's order, or back to it."""
    return array[list(order)].transpose(0, 3, 2, 1)


def _check_positions(positions: NDArray[Any], size: tuple[int, ...]) -> None:
    """Checks that taps lie in the original's range, or up to a cell outside of it."""
    for index, (row, cells) in enumerate(zip(positions, size, strict=True)):
        farthest = np.abs(row.astype(np.float64)).max()
        if farthest > cells // 2 + 1:
            raise ValueError(
                f"P[{index}] must be in [-{cells // 2}, {cells // 2}] for a kernel of {size}, the "
                f"range in which the original keeps positions; the farthest is {farthest:g}. If "
                "training did not keep them there, clip P first."
            )
