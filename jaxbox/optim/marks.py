"""Marks: which parameters are boxes and which are positions of taps.

The transformations of this package take a tree of marks. It has the structure of the parameters, or
of a prefix of it, with a :class:`BoxSpec` (or :class:`PositionSpec`) for each parameter that holds
boxes (or positions), and `False` for every other parameter.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Final, get_args

import flax.core.meta
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxbox import linen
from jaxbox.arguments import check_count, check_number, check_sequence, sizes_per_axis, to_real
from jaxbox.boxes import check_window
from jaxbox.layers.box import BOX_TAG
from jaxbox.layers.checks import check_filter, check_model
from jaxbox.layers.dcls import POSITIONS_TAG, Limits, axes_of_stack, position_limits
from jaxbox.layers.stacking import last_axis_of_size

__all__ = [
    "BoxSpec",
    "Boxes",
    "PositionSpec",
    "Positions",
    "check_marks",
    "check_structure",
    "decay_mask",
    "find_boxes",
    "find_boxes_by_name",
    "find_positions",
    "find_positions_by_name",
    "is_marked",
    "labels",
    "map_marked",
]

_HINT: Final = (
    "For a tree of parameters, such as a Linen model's, use jaxbox.optim.find_boxes_by_name and "
    "constrain_boxes."
)

# No array of JAX has more axes.
_MOST_AXES: Final = 64

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
      symmetric: Whether the parameter holds the three numbers of symmetric boxes; see
        :mod:`jaxbox.symmetric_boxes`.
      causal: Whether boxes are kept in `[-w, 1/2]` along the first axis of the window.

    Raises:
      TypeError: `window` is not a sequence of numbers, or `axis` not an integer.
      ValueError: `window` is not two positive finite numbers.

    Example:
      >>> from jaxbox.optim import BoxSpec
      >>> boxes = {"conv": {"kernel": False}, "box": {"theta": BoxSpec(window=(64, 128))}}
    """

    window: Sequence[float] | None = None
    axis: int = -1
    symmetric: bool = False
    causal: bool = False

    def __post_init__(self) -> None:
        if self.window is not None:
            object.__setattr__(self, "window", check_window(self.window))
        _check_axis(self)


@dataclasses.dataclass(frozen=True)
class PositionSpec:
    """The mark of a parameter that holds positions of taps.

    Attributes:
      limits: The least and the greatest position along each spatial axis, in the unit of the
        parameter, which is a cell divided by the layer's `gain`.
      axis: The axis of the parameter along which a position has its coordinates. It is not -4 if
        layers are stacked along a later axis than this.

    Raises:
      TypeError: `limits` is not a sequence of pairs of numbers, or `axis` not an integer.
      ValueError: `limits` is empty, or a number is not finite or a pair in the wrong order.

    Example:
      >>> from jaxbox.optim import PositionSpec
      >>> positions = {"dcls": {"weight": False, "positions": PositionSpec(((-8, 8), (-8, 8)))}}
    """

    limits: Limits
    axis: int = -4

    def __post_init__(self) -> None:
        message = f"limits must be pairs of finite numbers, the lesser first; got {self.limits!r}."
        try:
            check_sequence("limits", self.limits, "pairs of numbers")
            for pair in self.limits:
                check_sequence("limits", pair, "pairs of numbers")
            limits = tuple((to_real(low), to_real(high)) for low, high in self.limits)
        except (TypeError, ValueError):
            raise TypeError(message) from None
        if not limits or not all(-math.inf < low <= high < math.inf for low, high in limits):
            raise ValueError(message)
        object.__setattr__(self, "limits", limits)
        _check_axis(self)


def _check_axis(spec: "BoxSpec | PositionSpec") -> None:
    """Checks the axis of a mark and makes it an `int`."""
    object.__setattr__(spec, "axis", check_count("axis", spec.axis, minimum=-_MOST_AXES))


def find_boxes(model: nnx.Module, wrt: nnx.filterlib.Filter = nnx.Param) -> Boxes:
    """Marks the boxes of an NNX model by the metadata that its layers give them.

    Args:
      model: An NNX model, concrete or from `nnx.eval_shape`.
      wrt: The filter that selects the parameters among the model's Variables.

    Returns:
      A State of the structure of `nnx.state(model, wrt)` with a `BoxSpec` for each parameter that
      holds boxes and `False` for every other.

    Raises:
      TypeError: `model` is no NNX model.
      ValueError: A Linen model in `nnx.bridge.ToNNX` has some, whose metadata are not known. Those
        of a single layer of :mod:`jaxbox.linen` in the bridge are.

    Example:
      >>> from flax import nnx
      >>> from jaxbox import layers, optim
      >>> model = layers.BoxConv(16, 4, window=(64, 128), rngs=nnx.Rngs(0))
      >>> optim.find_boxes(model)["theta"]
      BoxSpec(window=(64, 128), axis=-1, symmetric=False, causal=False)
    """

    def make(theta: nnx.Variable[Any]) -> BoxSpec:
        symmetric = theta.get_metadata("symmetric", False)
        numbers = _numbers_of_box(theta.get_metadata("num_dims", 2), symmetric)
        axis = last_axis_of_size(theta.shape, numbers)
        causal = theta.get_metadata("causal", False)
        return BoxSpec(theta.get_metadata("window"), axis, symmetric, causal)

    return _find(model, wrt, BOX_TAG, make)


def find_positions(model: nnx.Module, wrt: nnx.filterlib.Filter = nnx.Param) -> Positions:
    """Marks the positions of an NNX model's DCLS layers by the metadata that the layers give them.

    Args:
      model: An NNX model, concrete or from `nnx.eval_shape`.
      wrt: The filter that selects the parameters among the model's Variables.

    Returns:
      A State of the structure of `nnx.state(model, wrt)` with a `PositionSpec` for each parameter
      that holds positions and `False` for every other.

    Raises:
      TypeError: `model` is no NNX model.
      ValueError: A Linen model in `nnx.bridge.ToNNX` has some, whose metadata are not known. Those
        of a single layer of :mod:`jaxbox.linen` in the bridge are.

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
    symmetric: bool = False,
    causal: bool = False,
) -> Boxes:
    """Marks boxes in a tree of parameters, such as a Linen model's, by their name.

    Args:
      params: A tree of arrays, of Linen's boxed arrays, or of NNX Variables.
      window: The size `(h, w)` in pixels of the feature maps, or `None` to enforce only the minimum
        size of boxes, or the windows that parameters from `nnx.bridge.to_linen` carry. If layers
        see feature maps of different sizes, replace each `BoxSpec` in the result.
      name: The last key on the path to the boxes.
      axis: The axis along which a box has its four coordinates. By default it is the last axis of
        size 4, or of twice the length of `window`. Layers that are stacked along a later axis of
        this size need it, and boxes of signals or volumes without a window.
      symmetric: Whether boxes are the three numbers of :mod:`jaxbox.symmetric_boxes`.
      causal: Whether boxes are kept in `[-w, 1/2]` along the first axis of the window.

    Returns:
      A tree of the structure of `params`, or of a prefix of it where arrays are boxed, with a
      `BoxSpec` for each leaf of that name and `False` for every other.

    Raises:
      TypeError: `name` is not a string, or `window` is not a sequence of numbers.
      ValueError: No leaf has that name, or `window` is not two positive finite numbers.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox import optim
      >>> params = {"box": {"theta": jnp.zeros((16, 4, 4))}, "conv": {"kernel": jnp.zeros((3, 3))}}
      >>> optim.find_boxes_by_name(params, window=(64, 128))["box"]
      {'theta': BoxSpec(window=(64, 128), axis=-1, symmetric=False, causal=False)}
    """

    def make(leaf: Any) -> BoxSpec:
        # `nnx.bridge.to_linen` keeps the metadata of NNX layers.
        metadata = leaf.metadata if isinstance(leaf, nnx.bridge.NNXMeta) else {}
        shape = _shape(leaf)
        num_dims = metadata.get("num_dims", 2) if window is None else len(window)
        mirrored = symmetric or metadata.get("symmetric", False)
        numbers = _numbers_of_box(num_dims, mirrored)
        return BoxSpec(
            metadata.get("window") if window is None else window,
            last_axis_of_size(shape, numbers) if axis is None else axis,
            mirrored,
            causal or metadata.get("causal", False),
        )

    BoxSpec(window)  # Raises before a name is looked for.
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
        replace each `PositionSpec` in the result.
      gain: The `gain` of the layers.
      name: The last key on the path to the positions.
      axis: The axis along which a position has its coordinates. By default it is the last axis of
        the right size with three or more axes after it. Layers that are stacked along a later axis
        than this, of which another has the same size, need it.

    Returns:
      A tree of the structure of `params` with a `PositionSpec` for each leaf of that name and
      `False` for every other.

    Raises:
      TypeError: `name` is not a string, or `kernel_size` or `gain` is not made of numbers.
      ValueError: No leaf has that name, or `kernel_size` or `gain` is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox import optim
      >>> params = {"dcls": {"positions": jnp.zeros((1, 3, 2, 2)), "bias": jnp.zeros(2)}}
      >>> optim.find_positions_by_name(params, (5,))
      {'dcls': {'bias': False, 'positions': PositionSpec(limits=((-2.0, 2.0),), axis=-4)}}
    """
    gain = check_number("gain", gain)
    sizes = sizes_per_axis("kernel_size", kernel_size)
    limits = tuple((low / gain, high / gain) for low, high in position_limits(sizes))

    def make(leaf: Any) -> PositionSpec:
        guess = last_axis_of_size(_shape(leaf), len(limits), followed_by=3)
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

    Raises:
      TypeError: There is no tree, or a tree of something else.

    Example:
      >>> import optax
      >>> from jaxbox.optim import BoxSpec, decay_mask
      >>> mask = decay_mask({"theta": BoxSpec(), "kernel": False})
      >>> mask
      {'kernel': True, 'theta': False}
      >>> optimizer = optax.adamw(1e-3, weight_decay=1e-2, mask=mask)
    """
    _check_trees("decay_mask", marks)
    return jax.tree.map(lambda *specs: not any(map(is_marked, specs)), *marks)


def labels(*marks: Boxes | Positions) -> Any:
    """Labels parameters for `optax.partition`, so that boxes get an optimizer of their own.

    Put :func:`jaxbox.optim.constrain` around the partition.

    Args:
      *marks: One tree or more that mark boxes or positions.

    Returns:
      A tree of the same structure with `"boxes"` for each parameter that is marked as boxes,
      `"positions"` for each that is marked as positions of taps, and `"others"` for every other.

    Raises:
      TypeError: There is no tree, or a tree of something else.

    Example:
      >>> import optax
      >>> from flax import nnx
      >>> from jaxbox import layers, optim
      >>> model = nnx.Sequential(
      ...     nnx.Linear(3, 8, rngs=nnx.Rngs(0)), layers.BoxConv(8, 4, rngs=nnx.Rngs(1))
      ... )
      >>> each = {"boxes": optax.adam(1e-2), "others": optax.sgd(1e-1, momentum=0.9)}
      >>> own = optax.partition(each, optim.labels(optim.find_boxes(model)))
      >>> optimizer = nnx.Optimizer(model, optim.constrain(own, model), wrt=nnx.Param)
    """
    _check_trees("labels", marks)

    def label(*specs: BoxSpec | PositionSpec | bool) -> str:
        if any(isinstance(spec, BoxSpec) for spec in specs):
            return "boxes"
        return "positions" if any(map(is_marked, specs)) else "others"

    return jax.tree.map(label, *marks)


def _check_trees(function: str, marks: Sequence[Any]) -> None:
    """Checks the trees of marks that a function takes.

    Raises:
      TypeError: There is none, or a tree of something else.
    """
    if not marks:
        raise TypeError(f"{function} needs at least one tree of marks, got none.")
    for tree in marks:
        check_marks("marks", tree, BoxSpec | PositionSpec)


def is_marked(spec: BoxSpec | PositionSpec | bool) -> bool:
    """Tells whether a leaf of a tree of marks is a mark."""
    return not isinstance(spec, bool)


def map_marked(
    function: Callable[..., jax.Array], marks: Any, updates: optax.Updates, *rest: optax.Params
) -> optax.Updates:
    """Replaces the updates of marked parameters by `function(spec, update, *rest)`.

    Raises:
      ValueError: The updates have another structure than the marks.
    """
    check_structure(marks, updates)

    def transform(spec: Any, updates: Any, *rest: Any) -> Any:
        if not is_marked(spec):
            return updates
        # A leaf of `marks` may stand for a Variable, a subtree, or nothing (optax.MaskedNode).
        return jax.tree.map(functools.partial(function, spec), updates, *rest)

    return jax.tree.map(transform, marks, updates, *rest)


def check_marks(name: str, marks: Any, kind: Any) -> None:
    """Checks that a tree has only marks of a kind and `False` as its leaves.

    Raises:
      TypeError: It has other leaves, as a tree of parameters has.
    """
    for leaf in jax.tree.leaves(marks):
        if leaf is not False and not isinstance(leaf, kind):
            kinds = " or ".join(k.__name__ for k in (get_args(kind) or (kind,)))
            found = "find_boxes or find_positions" if name == "marks" else f"find_{name}"
            raise TypeError(
                f"{name} must be a tree of {kinds} and False, as from {found}, or that ending in "
                f"_by_name; it has a leaf of type {type(leaf).__name__}."
            )


def check_structure(marks: Boxes | Positions, params: optax.Params) -> None:
    """Checks that marks are of the structure of parameters, or of a prefix of it.

    Raises:
      ValueError: They are not.
    """
    try:
        jax.tree.map(lambda *_: None, marks, params)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            "the marks of boxes and positions must have the structure of the optimizer's "
            "parameters. Give jaxbox.optim.constrain (or find_boxes, find_positions) the same "
            "`wrt` as nnx.Optimizer, or make the marks from the parameters that the optimizer "
            f"gets. {error}"
        ) from error


def _find(
    model: nnx.Module,
    wrt: nnx.filterlib.Filter,
    tag: str,
    make: Callable[[nnx.Variable[Any]], BoxSpec | PositionSpec],
) -> Any:
    check_model(model, _HINT)
    check_filter("wrt", wrt)
    bridged = _marks_in_bridges(model, tag)

    def mark(variable: nnx.Variable[Any]) -> BoxSpec | PositionSpec | bool:
        tagged = variable.get_metadata().get("tag") == tag
        return make(variable) if tagged else bridged.get(id(variable), False)

    variables = nnx.state(model, wrt)
    return jax.tree.map(mark, variables, is_leaf=lambda x: isinstance(x, nnx.Variable))


def _marks_in_bridges(model: nnx.Module, tag: str) -> dict[int, BoxSpec | PositionSpec]:
    """Marks parameters of Linen layers in `nnx.bridge.ToNNX`, by the identity of their Variables.

    They carry no metadata. What they hold is known only of a layer that is bridged by itself.

    Raises:
      ValueError: A larger Linen model has parameters that look like boxes or positions.
    """
    is_box = tag == BOX_TAG
    name, rank = ("theta", 3) if is_box else ("positions", 4)
    marks: dict[int, BoxSpec | PositionSpec] = {}
    for path, bridge in nnx.iter_modules(model):
        if not isinstance(bridge, nnx.bridge.ToNNX):
            continue
        layer = bridge.to_nnx__module
        for inner, variable in nnx.to_flat_state(nnx.state(bridge, nnx.Param)):
            if inner[-1] != name or variable.ndim < rank:
                continue
            if isinstance(layer, linen.BoxConv | linen.WeightedBoxConv):
                numbers = _numbers_of_box(layer.spatial_axes, layer.symmetric)
                axis = last_axis_of_size(variable.shape, numbers)
                marks[id(variable)] = BoxSpec(layer.window, axis, layer.symmetric, layer.causal)
            elif isinstance(layer, linen.DclsConv):
                limits = position_limits(_cells(layer))
                axis = last_axis_of_size(variable.shape, len(limits), followed_by=3)
                marks[id(variable)] = PositionSpec(
                    tuple((low / layer.gain, high / layer.gain) for low, high in limits), axis
                )
            else:
                place = ".".join(map(str, path)) or "the top"
                raise ValueError(
                    f"the Linen model in nnx.bridge.ToNNX at {place} has parameters {name!r}, "
                    "which carry no metadata. Mark them by jaxbox.optim.find_"
                    f"{'boxes' if is_box else 'positions'}_by_name, and use constrain_boxes and "
                    "keep_positions_inside in place of constrain."
                )
    return marks


def _numbers_of_box(num_dims: int, symmetric: bool) -> int:
    return 3 if symmetric else 2 * num_dims


def _cells(layer: linen.DclsConv) -> tuple[int, ...]:
    """Returns the size of the kernel of a Linen DCLS layer."""
    size = sizes_per_axis("kernel_size", layer.kernel_size)
    dilation = sizes_per_axis(
        "dilation", 1 if layer.dilation is None else layer.dilation, len(size)
    )
    return tuple(n * d for n, d in zip(size, dilation, strict=True))


def _shape(leaf: Any) -> tuple[int, ...]:
    """Returns the shape of an array, or of the array that a box of Linen holds."""
    array = leaf.unbox() if isinstance(leaf, flax.core.meta.AxisMetadata) else leaf
    shape: tuple[int, ...] | None = getattr(array, "shape", None)
    if shape is None or not jnp.issubdtype(array.dtype, jnp.number):
        raise TypeError(f"params must be a tree of arrays of numbers, got a leaf {array!r}.")
    return shape


def _find_by_name(
    params: optax.Params, name: str, make: Callable[[Any], BoxSpec | PositionSpec]
) -> Any:
    if not isinstance(name, str):
        raise TypeError(f"name must be a string, got {name!r}.")

    def mark(path: tuple[Any, ...], leaf: Any) -> BoxSpec | PositionSpec | bool:
        found = jax.tree_util.keystr(path[-1:], simple=True) == name
        return make(leaf) if found else False

    # Some libraries wrap each array with metadata; its name is that of the wrapper.
    wrappers = (nnx.Variable, flax.core.meta.AxisMetadata)
    marks = jax.tree_util.tree_map_with_path(
        mark, params, is_leaf=lambda node: isinstance(node, wrappers)
    )
    if not any(map(is_marked, jax.tree.leaves(marks))):
        raise ValueError(f"name must be that of a leaf of params, got {name!r}, which none has.")
    return marks
