"""Boxes in an optimizer: valid after each step, with steps in pixels, decayed on their own."""

from typing import Any, Final

import jax
import jax.numpy as jnp
import optax

from jaxbox import symmetric_boxes
from jaxbox.arguments import check_number
from jaxbox.boxes import check_min_size
from jaxbox.boxes import project as project_boxes
from jaxbox.layers.box import DEFAULT_WINDOW
from jaxbox.optim.marks import (
    Boxes,
    BoxSpec,
    check_marks,
    check_structure,
    is_marked,
    map_marked,
)
from jaxbox.optim.non_finite import KeepBoxesValidState, count_non_finite, shield

__all__ = ["constrain_boxes", "keep_boxes_valid", "steps_in_pixels"]

# The mark stands for a whole tree of parameters.
_WITHOUT_WINDOW: Final = BoxSpec()


def constrain_boxes(
    optimizer: optax.GradientTransformation,
    boxes: Boxes,
    *,
    box_l2: float | jax.Array = 0.0,
    step_scale: float | jax.Array = 1.0,
    min_size: float | jax.Array = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer such that the boxes among its parameters move in pixels and stay valid.

    It adds the gradient of the boxes' L2 penalty, applies `optimizer`, turns the boxes' steps into
    pixels (:func:`steps_in_pixels`), and keeps the boxes valid (:func:`keep_boxes_valid`). A box
    whose gradient or moved place is not finite keeps its place in that step, `optimizer` sees a
    gradient of 0 there, and :func:`jaxbox.optim.non_finite_steps` counts the step. Other
    parameters get exactly `optimizer`'s updates, unless it couples parameters: the penalty then
    counts, for instance, in the norm of `optax.clip_by_global_norm`.

    Weight decay inside `optimizer`, such as adamw's, shrinks boxes too, and the step scale
    multiplies it. Exclude boxes with `optax.adamw(..., mask=decay_mask(boxes))`, and give them a
    `box_l2` of their own.

    Source: Burkov & Lempitsky 2018, section 3.1, "Initialization and regularization".

    Args:
      optimizer: An optax optimizer for all the parameters.
      boxes: A tree that marks the boxes, from :func:`find_boxes` or :func:`find_boxes_by_name`.
      box_l2: The strength `lambda` of the penalty `lambda / 2 * sum(theta ** 2)`, with theta in
        pixels. The authors' code decays `theta / (step_scale * window)`, where `window` is the
        window's height or width; its strength `l` corresponds to `l / (step_scale * window) ** 2`.
      step_scale: The factor of the boxes' steps, as in :func:`steps_in_pixels`.
      min_size: The least width and height of a box, in pixels. A :class:`jaxbox.layers.BoxConv`
        computes with boxes of at least its own `min_size` in any case.

    The three numbers may be arrays, so that `optax.inject_hyperparams` can schedule them. A traced
    number is taken to be valid.

    Returns:
      A `GradientTransformationExtraArgs` whose `update` needs the parameters. Keep it last in a
      chain: what comes after it can make boxes invalid again. `docs/optimizers.md` lists which
      wrappers of optax belong inside and which outside.

    Raises:
      TypeError: `optimizer` is no optax optimizer, `boxes` are no marks, or a number is none.
      ValueError: A number is out of range, or `min_size` does not fit in a window; when
        initializing or updating, `boxes` has another structure than the parameters; when updating,
        `params` is `None`.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from jaxbox import linen, optim
      >>> params = linen.BoxConv(4).init(jax.random.key(0), jnp.ones((1, 64, 128, 16)))
      >>> boxes = optim.find_boxes_by_name(params, window=(64, 128))
      >>> adamw = optax.adamw(1e-3, mask=optim.decay_mask(boxes))
      >>> tx = optim.constrain_boxes(adamw, boxes)
      >>> state = tx.init(params)
    """
    check_optimizer(optimizer)
    box_l2 = check_number("box_l2", box_l2, may_be_zero=True)
    step_scale = check_number("step_scale", step_scale)
    check_marks("boxes", boxes, BoxSpec)
    chained = optax.chain(
        optax.add_decayed_weights(box_l2, mask=jax.tree.map(is_marked, boxes)),
        shield(optimizer, boxes),
        steps_in_pixels(step_scale, boxes),
        keep_boxes_valid(boxes, min_size=min_size),
    )

    def init_fn(params: optax.Params) -> optax.OptState:
        check_structure(boxes, params)
        return chained.init(params)

    return optax.GradientTransformationExtraArgs(init_fn, chained.update)


def check_optimizer(optimizer: Any) -> None:
    """Checks that an argument is an optimizer of optax, or like one.

    Raises:
      TypeError: It is not.
    """
    if not all(callable(getattr(optimizer, name, None)) for name in ("init", "update")):
        raise TypeError(
            "optimizer must be an optax optimizer, such as optax.adam(1e-3), and comes first; got "
            f"{optimizer if optimizer is None else type(optimizer).__name__}."
        )


def keep_boxes_valid(
    boxes: Boxes = _WITHOUT_WINDOW, *, min_size: float | jax.Array = 1.0
) -> optax.GradientTransformation:
    """Modifies updates such that boxes stay valid: projected gradient descent.

    The updated boxes are `jaxbox.boxes.project(theta + update)`, to rounding. An update that leaves
    a box valid passes unchanged, bit for bit. An update that would make any bound of a box infinite
    or NaN leaves the whole box where it is. In a chain this transformation should be last.

    Source: Burkov & Lempitsky 2018, section 3.1, "Initialization and regularization".

    Args:
      boxes: A tree that marks the boxes. By default all parameters are boxes without a window.
      min_size: The least width and height of a box, in pixels, a number or a scalar array.

    Returns:
      A `GradientTransformation` whose state is a `KeepBoxesValidState` with the number of steps in
      which a box was not finite (see :func:`jaxbox.optim.non_finite_steps`), and whose `update`
      needs the parameters. Keep boxes in float32: in bfloat16 `theta + (projected - theta)` is off
      by up to 0.06 pixels.

    Raises:
      TypeError: `boxes` are no marks, or `min_size` is not a real number.
      ValueError: `min_size` is not positive and finite, or does not fit in a window; when updating,
        `params` is `None`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.optim import BoxSpec, keep_boxes_valid
      >>> tx = keep_boxes_valid(BoxSpec(window=(8, 8)))
      >>> theta = jnp.array([-4.0, 4.0, -1.0, 1.0])
      >>> updates, _ = tx.update(jnp.array([-9.0, 0.0, 1.0, 0.0]), tx.init(theta), theta)
      >>> (theta + updates).tolist()
      [-8.0, 4.0, 0.0, 1.0]
    """
    check_marks("boxes", boxes, BoxSpec)
    for spec in jax.tree.leaves(boxes):
        if is_marked(spec):
            check_min_size(min_size, spec.window, causal=spec.causal)
    min_size = check_number("min_size", min_size)

    def keep_valid(spec: BoxSpec, update: jax.Array, theta: jax.Array) -> jax.Array:
        moved = theta + update
        last = jnp.moveaxis(moved, spec.axis, -1)
        if spec.symmetric:
            projected = symmetric_boxes.project(last, spec.window, min_size=min_size)
        else:
            projected = project_boxes(last, spec.window, min_size=min_size, causal=spec.causal)
        projected = jnp.moveaxis(projected, -1, spec.axis)
        # `projected - theta` would round updates that need no correction.
        kept = jnp.where(projected == moved, update, projected - theta)
        return jnp.where(jnp.isfinite(moved).all(spec.axis, keepdims=True), kept, 0)

    def init_fn(params: optax.Params) -> KeepBoxesValidState:
        del params
        return KeepBoxesValidState(jnp.zeros((), jnp.int32))

    def update_fn(
        updates: optax.Updates, state: KeepBoxesValidState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, KeepBoxesValidState]:
        if params is None:
            raise ValueError("keep_boxes_valid needs the parameters: call `update` with `params`.")
        count = count_non_finite(state.non_finite_steps, boxes, updates, params)
        return map_marked(keep_valid, boxes, updates, params), KeepBoxesValidState(count)

    return optax.GradientTransformation(init_fn, update_fn)


def steps_in_pixels(
    scale: float | jax.Array = 1.0, boxes: Boxes = _WITHOUT_WINDOW
) -> optax.GradientTransformation:
    """Scales the steps of boxes from fractions of the window to pixels.

    The steps of Adam and similar optimizers have the size of the learning rate whatever the
    gradients are, and a thousandth of a pixel would leave boxes where they are. Here a step of 1
    becomes `scale * w` pixels for `x_min` and `x_max`, and `scale * h` pixels for `y_min` and
    `y_max`. Place this transformation after the optimizer and before :func:`keep_boxes_valid`.

    Source: `reparametrization_factor` of the authors' code, which stores
    `theta / (scale * window)`: 8 unless set, 0.860 in BoxENet, 0.510 in BoxOnlyENet, 1.5625 in
    BoxERFNet. With Adam scaling the steps is the same except for the effect of `eps`.

    Args:
      scale: The factor of the steps, a number or a scalar array.
      boxes: A tree that marks the boxes. By default all parameters are boxes without a window. A
        box without a window is treated as one in a 32 x 32 window, as in its initialization.

    Returns:
      A stateless `GradientTransformation`. The width of a symmetric box moves twice as far, since
      both its sides move.

    Raises:
      TypeError: `boxes` are no marks, or `scale` is not a real number.
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
    scale = check_number("scale", scale)
    check_marks("boxes", boxes, BoxSpec)

    def to_pixels(spec: BoxSpec, update: jax.Array) -> jax.Array:
        last = jnp.moveaxis(update, spec.axis, -1)
        sizes = jnp.array(_sizes_of_steps(spec, last.shape[-1]), update.dtype)
        pixels = sizes * jnp.asarray(scale, update.dtype)
        return jnp.moveaxis(last * jnp.broadcast_to(pixels, last.shape), -1, spec.axis)

    def update_fn(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        del params
        return map_marked(to_pixels, boxes, updates)

    return optax.stateless(update_fn)


def _sizes_of_steps(spec: BoxSpec, numbers: int) -> list[float]:
    """Returns what a step of 1 is in pixels, for each number of a box."""
    if spec.symmetric:
        h, w = spec.window or DEFAULT_WINDOW
        return [h, h, 2 * w]
    window = spec.window or DEFAULT_WINDOW[:1] * (numbers // 2)
    # Boxes begin with the last axis of the feature map.
    return [size for size in reversed(window) for _ in range(2)]
