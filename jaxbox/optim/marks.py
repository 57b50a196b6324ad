"""Marks: which parameters are boxes and which are positions of taps.

The transformations of this package take a tree of marks. It has the structure of the parameters, or
of a prefix of it, with a :class:`BoxSpec` (or :class:`PositionSpec`) for each parameter that holds
boxes (or positions), and `False` for every other parameter.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from flax import nnx

from jaxbox.boxes import check_window
from jaxbox.layers.box import BOX_TAG
from jaxbox.layers.dcls import POSITIONS_TAG, Limits, axes_of_stack, position_limits
from jaxbox.layers.stacking import last_axis_of_size

__all__ = [
    "BoxSpec",
    "Boxes",
    "PositionSpec",
    "Positions",
    "decay_mask",
    "find_boxes",
    "find_boxes_by_name",
    "find_positions",
    "find_positions_by_name",
    "is_marked",
    "map_marked",
]

# A tree of BoxSpec and False, a tree of PositionSpec and False.
type Boxes = Any
type Positions = Any


@dataclasses.dataclass(frozen=True)
class BoxSpec:
    """The mark of a parameter that holds boxes.

    Attributes:
      window: The size `(h, w)` in pixels of the feature map: boxes are kept in
        `[-w, w] x [-h, h]`. With `None` only their minimum size is enforced.
      axis: The axis of the parameter along which a box has its four coordinates. It is not the last
        one if layers are stacked along the last.

    Raises:
      ValueError: `window` is not two positive finite numbers.

    Example:
      >>> from jaxbox.optim import BoxSpec
      >>> boxes = {"conv": {"kernel": False}, "box": {"theta": BoxSpec(window=(64, 128))}}
    """

    window: Sequence[float] | None = None
    axis: int = -1

    def __post_init__(self) -> None:
        if self.window is not None:
            object.__setattr__(self, "window", check_window(self.window))


@dataclasses.dataclass(frozen=True)
class PositionSpec:
    """The mark of a parameter that holds positions of taps.

    Attributes:
      limits: The least and the greatest position along each spatial axis, in the unit of the
        parameter, which is a cell divided by the layer's `gain`.
      axis: The axis of the parameter along which a position has its coordinates. It is not -4 if
        layers are stacked along a later axis than this.

    Raises:
      ValueError: `limits` are not pairs of finite numbers, the lesser first.

    Example:
      >>> from jaxbox.optim import PositionSpec
      >>> positions = {"dcls": {"weight": False, "positions": PositionSpec(((-8, 8), (-8, 8)))}}
    """

    limits: Limits
    axis: int = -4

    def __post_init__(self) -> None:
        for low, high in self.limits:
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ValueError(
                    f"limits must be pairs of finite numbers, the lesser first; got {self.limits}."
                )


def find_boxes(model: nnx.Module, wrt: nnx.filterlib.Filter = nnx.Param) -> Boxes:
    """Marks the boxes of an NNX model by the metadata that its layers give them.

    Args:
      model: An NNX model, concrete or from `nnx.eval_shape`.
      wrt: The filter that selects the parameters among the model's Variables.

    Returns:
      A State of the structure of `nnx.state(model, wrt)` with a `BoxSpec` for each parameter that
      holds boxes and `False` for every other.

    Example:
      >>> from flax import nnx
      >>> from jaxbox import layers, optim
      >>> model = layers.BoxConv(16, 4, window=(64, 128), rngs=nnx.Rngs(0))
      >>> optim.find_boxes(model)["theta"]
      BoxSpec(window=(64, 128), axis=-1)
    """

    def make(theta: nnx.Variable[Any]) -> BoxSpec:
        axis = last_axis_of_size(theta.shape, 4)
        return BoxSpec(theta.get_metadata("window"), axis)

    return _find(model, wrt, BOX_TAG, make)


def find_positions(model: nnx.Module, wrt: nnx.filterlib.Filter = nnx.Param) -> Positions:
    """Marks the positions of an NNX model's DCLS layers by the metadata that the layers give them.

    Args:
      model: An NNX model, concrete or from `nnx.eval_shape`.
      wrt: The filter that selects the parameters among the model's Variables.

    Returns:
      A State of the structure of `nnx.state(model, wrt)` with a `PositionSpec` for each parameter
      that holds positions and `False` for every other.

    Example:
      >>> from flax import nnx
      >>> from jaxbox import layers, optim
      >>> model = layers.DclsConv(2, 2, (17, 9), 5, rngs=nnx.Rngs(0))
      >>> optim.find_positions(model)["positions"]
      PositionSpec(limits=((-8.0, 8.0), (-4.0, 4.0)), axis=-4)
    """

    def make(positions: nnx.Variable[Any]) -> PositionSpec:
        rank = len(positions.shape)
        stacked = axes_of_stack(positions)
        first = next(axis for axis in range(rank) if axis not in stacked)
        return PositionSpec(positions.get_metadata("limits"), first - rank)

    return _find(model, wrt, POSITIONS_TAG, make)


def find_boxes_by_name(
    params: optax.Params,
    window: Sequence[float] | None = None,
    *,
    name: str = "theta",
    axis: int | None = None,
) -> Boxes:
    """Marks boxes in a tree of parameters, such as a Linen model's, by their name.

    Args:
      params: A tree of arrays.
      window: The size `(h, w)` in pixels of the feature maps, or `None` to enforce only the minimum
        size of boxes. If layers see feature maps of different sizes, replace `BoxSpec`s in the
        result.
      name: The last key on the path to the boxes.
      axis: The axis along which a box has its four coordinates. By default it is the last axis of
        size 4. Layers that are stacked along a later axis of size 4 need it.

    Returns:
      A tree of the structure of `params` with a `BoxSpec` for each leaf of that name and `False`
      for every other.

    Raises:
      ValueError: No leaf has that name, or `window` is not two positive finite numbers.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox import optim
      >>> params = {"box": {"theta": jnp.zeros((16, 4, 4))}, "conv": {"kernel": jnp.zeros((3, 3))}}
      >>> optim.find_boxes_by_name(params, window=(64, 128))
      {'box': {'theta': BoxSpec(window=(64, 128), axis=-1)}, 'conv': {'kernel': False}}
    """

    def make(shape: Sequence[int]) -> BoxSpec:
        return BoxSpec(window, last_axis_of_size(shape, 4) if axis is None else axis)

    return _find_by_name(params, name, make)


def find_positions_by_name(
    params: optax.Params,
    kernel_size: Sequence[int],
    *,
    gain: float = 1.0,
    name: str = "positions",
    axis: int | None = None,
) -> Positions:
    """Marks positions of taps in a tree of parameters, such as a Linen model's, by their name.

    Args:
      params: A tree of arrays.
      kernel_size: The number of cells of the kernel along each axis. If kernels differ in size,
        replace `PositionSpec`s in the result.
      gain: The `gain` of the layers.
      name: The last key on the path to the positions.
      axis: The axis along which a position has its coordinates. By default it is the last axis of
        the right size with three or more axes after it. Layers that are stacked along a later axis
        than this, of which another has the same size, need it.

    Returns:
      A tree of the structure of `params` with a `PositionSpec` for each leaf of that name and
      `False` for every other.

    Raises:
      ValueError: No leaf has that name.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox import optim
      >>> params = {"dcls": {"positions": jnp.zeros((1, 3, 2, 2)), "bias": jnp.zeros(2)}}
      >>> optim.find_positions_by_name(params, (5,))
      {'dcls': {'bias': False, 'positions': PositionSpec(limits=((-2.0, 2.0),), axis=-4)}}
    """
    limits = tuple((low / gain, high / gain) for low, high in position_limits(kernel_size))

    def make(shape: Sequence[int]) -> PositionSpec:
        guess = last_axis_of_size(shape, len(limits), followed_by=3)
        return PositionSpec(limits, guess if axis is None else axis)

    return _find_by_name(params, name, make)


def decay_mask(*marks: Boxes | Positions) -> Any:
    """Returns a mask with which weight decay leaves boxes and positions alone.

    Without it `optax.adamw` shrinks boxes on which the loss does not depend: [10, 20] becomes
    [-1, 1].

    Args:
      *marks: One tree or more that mark boxes or positions.

    Returns:
      A tree of the same structure with `False` for each parameter that is marked in any of the
      trees and `True` for every other.

    Example:
      >>> import optax
      >>> from jaxbox.optim import BoxSpec, decay_mask
      >>> mask = decay_mask({"theta": BoxSpec(), "kernel": False})
      >>> mask
      {'kernel': True, 'theta': False}
      >>> optimizer = optax.adamw(1e-3, weight_decay=1e-2, mask=mask)
    """
    return jax.tree.map(lambda *specs: not any(map(is_marked, specs)), *marks)


def is_marked(spec: BoxSpec | PositionSpec | bool) -> bool:
    """Tells whether a leaf of a tree of marks is a mark."""
    return not isinstance(spec, bool)


def map_marked(
    function: Callable[..., jax.Array], marks: Any, updates: optax.Updates, *rest: optax.Params
) -> optax.Updates:
    """Replaces the updates of marked parameters by `function(spec, update, *rest)`."""

    def transform(spec: Any, updates: Any, *rest: Any) -> Any:
        if not is_marked(spec):
            return updates
        # A leaf of `marks` may stand for a Variable, a subtree, or nothing (optax.MaskedNode).
        return jax.tree.map(functools.partial(function, spec), updates, *rest)

    return jax.tree.map(transform, marks, updates, *rest)


def _find(
    model: nnx.Module,
    wrt: nnx.filterlib.Filter,
    tag: str,
    make: Callable[[nnx.Variable[Any]], BoxSpec | PositionSpec],
) -> Any:
    def mark(variable: nnx.Variable[Any]) -> BoxSpec | PositionSpec | bool:
        return make(variable) if variable.get_metadata().get("tag") == tag else False

    return jax.tree.map(mark, nnx.state(model, wrt), is_leaf=lambda x: isinstance(x, nnx.Variable))


def _find_by_name(
    params: optax.Params, name: str, make: Callable[[Sequence[int]], BoxSpec | PositionSpec]
) -> Any:
    def mark(path: tuple[Any, ...], leaf: Any) -> BoxSpec | PositionSpec | bool:
        found = jax.tree_util.keystr(path[-1:], simple=True) == name
        return make(leaf.shape) if found else False

    marks = jax.tree_util.tree_map_with_path(mark, params)
    if not any(map(is_marked, jax.tree.leaves(marks))):
        raise ValueError(f"name must be that of a leaf of params, got {name!r}, which none has.")
    return marks
