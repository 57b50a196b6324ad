"""Optimizing boxes: keeping them valid, stepping in pixels, decaying them or not.

Boxes are in pixels and have to stay valid, which asks three things of an optimizer that other
parameters do not. The positions of DCLS's taps have to stay inside their kernel. :func:`for_model`
adds all that to any optax optimizer.

The transforms that it is made of take `boxes`, a tree that says which parameters are boxes. It has
the structure of the parameters, or of a prefix of it, with a :class:`BoxSpec` for each parameter
that holds boxes and `False` for every other. :func:`find_boxes` makes one from an NNX model,
:func:`find_boxes_by_name` from the parameters of a Linen model. Likewise for positions:
:class:`PositionSpec`, :func:`find_positions`, :func:`find_positions_by_name`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxbox.boxes import check_window, project
from jaxbox.layers.box import BOX_TAG, DEFAULT_WINDOW
from jaxbox.layers.dcls import POSITIONS_TAG, Limits, position_limits

# Trees of BoxSpec and False, or PositionSpec and False; see the module's docstring.
type Boxes = Any
type Positions = Any


@dataclasses.dataclass(frozen=True)
class BoxSpec:
    """Marks a parameter as boxes, and says where they live.

    Attributes:
      window: `(h, w)`, the size in pixels of the feature map: boxes stay in `[-w, w] x [-h, h]`.
        With `None` only their minimum size is enforced.

    Raises:
      ValueError: `window` is not two positive finite numbers.

    Example:
      >>> from jaxbox.optim import BoxSpec
      >>> boxes = {"conv": {"kernel": False}, "box": {"theta": BoxSpec(window=(64, 128))}}
    """

    window: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.window is not None:
            object.__setattr__(self, "window", check_window(self.window))


@dataclasses.dataclass(frozen=True)
class PositionSpec:
    """Marks a parameter as positions of taps, and says where they may lie.

    Attributes:
      limits: The least and the greatest position along each spatial axis, in the unit of the
        parameter: cells over the layer's `gain`.

    Raises:
      ValueError: `limits` are not pairs of finite numbers, the lesser first.

    Example:
      >>> from jaxbox.optim import PositionSpec
      >>> positions = {"dcls": {"weight": False, "positions": PositionSpec(((-8, 8), (-8, 8)))}}
    """

    limits: Limits

    def __post_init__(self) -> None:
        for low, high in self.limits:
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ValueError(
                    f"limits must be pairs of finite numbers, the lesser first; got {self.limits}."
                )


def for_model(
    model: nnx.Module,
    optimizer: optax.GradientTransformation,
    *,
    box_l2: float = 0.0,
    step_scale: float = 1.0,
    min_size: float = 1.0,
    wrt: nnx.filterlib.Filter = nnx.Param,
) -> optax.GradientTransformationExtraArgs:
    """Makes an optimizer fit for a model with box convolutions or DCLS.

    It is `for_boxes`, and then `keep_positions_inside`.

    Args:
      model: An NNX model. One with neither gets `optimizer`'s updates unchanged.
      optimizer: Any optax optimizer, for all the parameters.
      box_l2: As in `for_boxes`.
      step_scale: As in `for_boxes`.
      min_size: As in `for_boxes`.
      wrt: The filter that `nnx.Optimizer` is given, or by which `nnx.state` selects the
        parameters.

    Returns:
      A transformation for `nnx.Optimizer(model, ..., wrt=wrt)`, or for `nnx.state(model, wrt)`
      with or without Variables as its leaves.

    Raises:
      ValueError: A number is out of range.

    Example:
      >>> import optax
      >>> from flax import nnx
      >>> from jaxbox import layers, optim
      >>> model = layers.BoxConv(16, 4, window=(64, 128), rngs=nnx.Rngs(0))
      >>> tx = optim.for_model(model, optax.adam(1e-3), box_l2=1e-8)
      >>> optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    """
    return optax.chain(
        for_boxes(
            find_boxes(model, wrt),
            optimizer,
            box_l2=box_l2,
            step_scale=step_scale,
            min_size=min_size,
        ),
        keep_positions_inside(find_positions(model, wrt)),
    )


def for_boxes(
    boxes: Boxes,
    optimizer: optax.GradientTransformation,
    *,
    box_l2: float = 0.0,
    step_scale: float = 1.0,
    min_size: float = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """Makes an optimizer fit for parameters of which some are boxes.

    Adds the gradient of the boxes' L2 penalty, applies `optimizer`, turns the boxes' steps into
    pixels (`steps_in_pixels`), and keeps the boxes valid (`keep_boxes_valid`). Other parameters
    get exactly `optimizer`'s updates, unless it couples parameters: the penalty then counts, for
    instance, in the norm of `optax.clip_by_global_norm`.

    Weight decay inside `optimizer`, such as adamw's, shrinks boxes too, and the step scale
    multiplies it. Exclude them with `optax.adamw(..., mask=decay_mask(boxes))`, and give boxes
    their own `box_l2`.

    Source: section 3.1, "Initialization and regularization".

    Args:
      boxes: Which parameters are boxes.
      optimizer: Any optax optimizer, for all the parameters.
      box_l2: The strength `lambda` of the penalty `lambda / 2 * sum(theta ** 2)`, theta in pixels.
        The authors' code decays `theta / (step_scale * window)`, where the window's height or
        width is meant; its strength `l` is `l / (step_scale * window) ** 2` here.
      step_scale: As in `steps_in_pixels`.
      min_size: The least width and height of a box, in pixels.

    Returns:
      A transformation whose `update` needs the parameters. Keep it last: what comes after it can
      make boxes invalid again. Wrapping it whole, in `optax.MultiSteps` or `optax.apply_if_finite`,
      is fine.

    Raises:
      ValueError: A number is out of range; when updating, there are no parameters, or `min_size`
        does not fit in a window.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from jaxbox import linen, optim
      >>> params = linen.BoxConv(4).init(jax.random.key(0), jnp.ones((1, 64, 128, 16)))
      >>> boxes = optim.find_boxes_by_name(params, window=(64, 128))
      >>> tx = optim.for_boxes(boxes, optax.adamw(1e-3, mask=optim.decay_mask(boxes)))
      >>> state = tx.init(params)
    """
    if not (math.isfinite(box_l2) and box_l2 >= 0):
        raise ValueError(f"box_l2 must be finite and not negative, got {box_l2}.")
    return optax.chain(
        optax.add_decayed_weights(box_l2, mask=jax.tree.map(_is_marked, boxes)),
        optimizer,
        steps_in_pixels(step_scale, boxes),
        keep_boxes_valid(boxes, min_size=min_size),
    )


def keep_boxes_valid(
    boxes: Boxes = BoxSpec(),
    *,
    min_size: float = 1.0,
) -> optax.GradientTransformation:
    """Modifies the updates so that boxes stay valid: projected gradient descent.

    The updated parameters are `jaxbox.boxes.project(theta + update)`, to rounding. An update that
    leaves a box valid passes unchanged, bit for bit. In a chain of transformations, this should be
    the last one.

    Source: section 3.1, "Initialization and regularization".

    Args:
      boxes: Which parameters are boxes. Default: all of them, without a window.
      min_size: The least width and height of a box, in pixels.

    Returns:
      A stateless transformation whose `update` needs the parameters. Keep boxes in float32:
      `theta + (projected - theta)` in bfloat16 is off by up to 0.06 pixels.

    Raises:
      ValueError: `min_size` is not positive and finite; when updating, there are no parameters, or
        `min_size` does not fit in a window.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.optim import BoxSpec, keep_boxes_valid
      >>> tx = keep_boxes_valid(BoxSpec(window=(8, 8)))
      >>> theta = jnp.array([-4.0, 4.0, -1.0, 1.0])
      >>> updates, _ = tx.update(jnp.array([-9.0, 0.0, 1.0, 0.0]), tx.init(theta), theta)
      >>> (theta + updates).tolist()
      [-8.0, 4.0, 0.0, 1.0]
    """
    _check_positive("min_size", min_size)

    def keep_valid(spec: BoxSpec, update: jax.Array, theta: jax.Array) -> jax.Array:
        moved = theta + update
        projected = project(moved, spec.window, min_size=min_size)
        # `projected - theta` would round updates that need no correction.
        return jnp.where(projected == moved, update, projected - theta)

    def update_fn(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        if params is None:
            raise ValueError("keep_boxes_valid needs the parameters: call `update` with `params`.")
        return _map_marked(keep_valid, boxes, updates, params)

    return optax.stateless(update_fn)


def keep_positions_inside(positions: Positions) -> optax.GradientTransformation:
    """Modifies the updates so that taps stay inside their kernel: projected gradient descent.

    The updated positions are clipped to their limits, to rounding; an update that leaves a tap
    inside passes unchanged, bit for bit. In a chain of transformations, this should be last.

    Source: `clamp_parameters` of the authors' code, which their training calls after each step. Its
    limits let taps out of kernels of even size, by a cell; these do not.

    Args:
      positions: Which parameters are positions.

    Returns:
      A stateless transformation whose `update` needs the parameters.

    Raises:
      ValueError: When updating, there are no parameters, or positions have another number of axes
        than limits.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.optim import PositionSpec, keep_positions_inside
      >>> tx = keep_positions_inside(PositionSpec(((-2, 2),)))
      >>> positions = jnp.array([1.0, -1.0]).reshape(1, 2, 1, 1)
      >>> updates, _ = tx.update(3 * positions, tx.init(positions), positions)
      >>> (positions + updates).ravel().tolist()
      [2.0, -2.0]
    """

    def keep_inside(spec: PositionSpec, update: jax.Array, places: jax.Array) -> jax.Array:
        if places.ndim != 4 or len(places) != len(spec.limits):
            raise ValueError(
                f"positions must be (d, K, I, O) with d the {len(spec.limits)} axes of limits, got "
                f"shape {places.shape}."
            )
        low, high = jnp.array(spec.limits, places.dtype).T.reshape(2, -1, 1, 1, 1)
        moved = places + update
        clipped = jnp.clip(moved, low, high)
        return jnp.where(clipped == moved, update, clipped - places)

    def update_fn(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        if params is None:
            raise ValueError(
                "keep_positions_inside needs the parameters: call `update` with `params`."
            )
        return _map_marked(keep_inside, positions, updates, params)

    return optax.stateless(update_fn)


def steps_in_pixels(
    scale: float = 1.0,
    boxes: Boxes = BoxSpec(),
) -> optax.GradientTransformation:
    """Scales the steps of boxes from fractions of the window to pixels.

    The steps of Adam and its kin have the size of the learning rate whatever the gradients are; a
    thousandth of a pixel would leave boxes where they are. A step of 1 becomes `scale * w` pixels
    for `x_min` and `x_max`, and `scale * h` for `y_min` and `y_max`. Place it after the optimizer
    and before `keep_boxes_valid`.

    Source: `reparametrization_factor` of the authors' code, which stores
    `theta / (scale * window)`: 8 unless set, 0.860 in BoxENet, 0.510 in BoxOnlyENet, 1.5625 in
    BoxERFNet. Under Adam scaling the steps is the same but for `eps`.

    Args:
      scale: Windows per unit of step.
      boxes: Which parameters are boxes. Default: all of them, without a window. A box without a
        window counts as one in a 32 x 32 window, as where it was initialized.

    Returns:
      A stateless transformation.

    Raises:
      ValueError: `scale` is not positive and finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.optim import BoxSpec, steps_in_pixels
      >>> tx = steps_in_pixels(0.5, BoxSpec(window=(64, 128)))
      >>> theta = jnp.array([-1.0, 1.0, -1.0, 1.0])
      >>> steps, _ = tx.update(jnp.array([1.0, 0.0, 1.0, 0.0]), tx.init(theta))
      >>> steps.tolist()
      [64.0, 0.0, 32.0, 0.0]
    """
    _check_positive("scale", scale)

    def to_pixels(spec: BoxSpec, update: jax.Array) -> jax.Array:
        h, w = spec.window or DEFAULT_WINDOW
        pixels = jnp.array([w, w, h, h], update.dtype) * scale
        return update * jnp.broadcast_to(pixels, update.shape)

    def update_fn(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        del params
        return _map_marked(to_pixels, boxes, updates)

    return optax.stateless(update_fn)


def find_boxes(model: nnx.Module, wrt: nnx.filterlib.Filter = nnx.Param) -> Boxes:
    """Finds the boxes of an NNX model by the metadata that its layers leave on them.

    Args:
      model: An NNX model, concrete or from `nnx.eval_shape`.
      wrt: Which of its Variables are the parameters.

    Returns:
      A State of the structure of `nnx.state(model, wrt)` with a `BoxSpec` for each parameter that
      holds boxes and `False` for every other.

    Example:
      >>> from flax import nnx
      >>> from jaxbox import layers, optim
      >>> model = layers.BoxConv(16, 4, window=(64, 128), rngs=nnx.Rngs(0))
      >>> optim.find_boxes(model)["theta"]
      BoxSpec(window=(64, 128))
    """
    return _find(model, wrt, BOX_TAG, lambda metadata: BoxSpec(metadata["window"]))


def find_positions(model: nnx.Module, wrt: nnx.filterlib.Filter = nnx.Param) -> Positions:
    """Finds the positions of DCLS layers in an NNX model, as `find_boxes` finds boxes.

    Args:
      model: An NNX model, concrete or from `nnx.eval_shape`.
      wrt: Which of its Variables are the parameters.

    Returns:
      A State of the structure of `nnx.state(model, wrt)` with a `PositionSpec` for each parameter
      that holds positions and `False` for every other.

    Example:
      >>> from flax import nnx
      >>> from jaxbox import layers, optim
      >>> model = layers.DclsConv(2, 2, (17, 9), 5, rngs=nnx.Rngs(0))
      >>> optim.find_positions(model)["positions"]
      PositionSpec(limits=((-8.0, 8.0), (-4.0, 4.0)))
    """
    return _find(model, wrt, POSITIONS_TAG, lambda metadata: PositionSpec(metadata["limits"]))


def find_boxes_by_name(
    params: optax.Params, window: Sequence[float] | None = None, *, name: str = "theta"
) -> Boxes:
    """Finds boxes among the parameters of a Linen model by the name of the leaf.

    Args:
      params: A tree of arrays.
      window: `(h, w)` in pixels, or `None` to enforce only the minimum size. Where layers see
        feature maps of different sizes, put other `BoxSpec`s in the result.
      name: The last key on the path to the boxes.

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
      {'box': {'theta': BoxSpec(window=(64, 128))}, 'conv': {'kernel': False}}
    """
    return _find_by_name(params, name, BoxSpec(window))


def find_positions_by_name(
    params: optax.Params,
    kernel_size: Sequence[int],
    *,
    gain: float = 1.0,
    name: str = "positions",
) -> Positions:
    """Finds positions among the parameters of a Linen model by the name of the leaf.

    Args:
      params: A tree of arrays.
      kernel_size: The cells of the kernel along each axis. Where kernels differ in size, put other
        `PositionSpec`s in the result.
      gain: Of the layers.
      name: The last key on the path to the positions.

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
      {'dcls': {'bias': False, 'positions': PositionSpec(limits=((-2.0, 2.0),))}}
    """
    limits = tuple((low / gain, high / gain) for low, high in position_limits(kernel_size))
    return _find_by_name(params, name, PositionSpec(limits))


def _find(
    model: nnx.Module,
    wrt: nnx.filterlib.Filter,
    tag: str,
    make: Callable[[Mapping[str, Any]], BoxSpec | PositionSpec],
) -> Any:
    def mark(variable: nnx.Variable) -> BoxSpec | PositionSpec | bool:
        metadata = variable.get_metadata()
        return metadata.get("tag") == tag and make(metadata)

    return jax.tree.map(mark, nnx.state(model, wrt), is_leaf=lambda x: isinstance(x, nnx.Variable))


def _find_by_name(params: optax.Params, name: str, found: BoxSpec | PositionSpec) -> Any:
    def mark(path: tuple[Any, ...], leaf: Any) -> BoxSpec | PositionSpec | bool:
        del leaf
        return jax.tree_util.keystr(path[-1:], simple=True) == name and found

    marked = jax.tree_util.tree_map_with_path(mark, params)
    if not any(map(_is_marked, jax.tree.leaves(marked))):
        raise ValueError(f"name must be that of a leaf of params, got {name!r}, which none has.")
    return marked


def decay_mask(*marked: Boxes | Positions) -> Any:
    """Returns the mask by which an optimizer's weight decay leaves boxes and positions alone.

    Unmasked, `optax.adamw` shrinks boxes that the loss does not hold: [10, 20] becomes [-1, 1].

    Args:
      *marked: Which parameters are boxes, which are positions: a tree each.

    Returns:
      A tree of the same structure, `False` for what is marked in any and `True` for every other
      parameter.

    Example:
      >>> import optax
      >>> from jaxbox.optim import BoxSpec, decay_mask
      >>> mask = decay_mask({"theta": BoxSpec(), "kernel": False})
      >>> mask
      {'kernel': True, 'theta': False}
      >>> optimizer = optax.adamw(1e-3, weight_decay=1e-2, mask=mask)
    """
    return jax.tree.map(lambda *specs: not any(map(_is_marked, specs)), *marked)


def _is_marked(spec: BoxSpec | PositionSpec | bool) -> bool:
    return not isinstance(spec, bool)


def _map_marked(
    function: Callable[..., jax.Array], marked: Any, updates: optax.Updates, *rest: optax.Params
) -> optax.Updates:
    """Replaces the updates of marked parameters by `function(spec, update, *rest)`."""

    def transform(spec: Any, updates: Any, *rest: Any) -> Any:
        if not _is_marked(spec):
            return updates
        # A leaf of `marked` may stand for a Variable, a subtree, or nothing (optax.MaskedNode).
        return jax.tree.map(functools.partial(function, spec), updates, *rest)

    return jax.tree.map(transform, marked, updates, *rest)


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite, got {value}.")
