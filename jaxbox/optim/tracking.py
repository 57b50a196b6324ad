"""How boxes learn, measured in the optimizer: how far they move and how noisy their gradients are.

Boxes that do not move while their gradients are mostly noise need more images in a batch or a
longer training; boxes that do not move although their gradients agree need longer steps.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxbox.optim.marks import Boxes, BoxSpec, check_marks, check_structure, is_marked

__all__ = ["BoxTrack", "TrackBoxesState", "box_tracks", "restart_tracking", "track_boxes"]


class TrackBoxesState(NamedTuple):
    """The state of `track_boxes`: sums over the steps since tracking began.

    The trees have the structure of the parameters, with `optax.MaskedNode` for those that are not
    boxes.

    Attributes:
      steps: The number of steps, an int32 scalar.
      start: The boxes before the first of these steps.
      gradients: The sums of the gradients.
      squares: The sums of the squared gradients.
    """

    steps: jax.Array
    start: Any
    gradients: Any
    squares: Any


class BoxTrack(NamedTuple):
    """How the boxes of one parameter learnt; both arrays have its shape, `(C, F, 4)` for a layer.

    Attributes:
      moved: How far each side is from where it was when tracking began, in pixels.
      gradient_to_noise: The absolute mean of each side's gradient over the steps, divided by its
        standard deviation. It is about `0.8 / sqrt(steps)` where gradients are noise alone, and 0
        after fewer than two steps.
    """

    moved: jax.Array
    gradient_to_noise: jax.Array


def track_boxes(boxes: Boxes) -> optax.GradientTransformation:
    """Tracks how far boxes move and how noisy their gradients are; passes updates unchanged.

    Place it first in a chain, where updates are gradients. It keeps three numbers for each side of
    a box. Read them with :func:`box_tracks`, and start anew, after each epoch for instance, with
    :func:`restart_tracking`.

    Args:
      boxes: A tree that marks the boxes, from :func:`find_boxes` or :func:`find_boxes_by_name`.

    Returns:
      A `GradientTransformation` whose state is a `TrackBoxesState` and whose `update` needs the
      parameters.

    Raises:
      TypeError: `boxes` are no marks.
      ValueError: When initializing or updating, `boxes` has another structure than the parameters;
        when updating, `params` is `None`.

    Example:
      >>> import optax
      >>> from flax import nnx
      >>> from jaxbox import layers, optim
      >>> model = layers.BoxConv(16, 4, window=(64, 128), rngs=nnx.Rngs(0))
      >>> tracked = optax.chain(optim.track_boxes(optim.find_boxes(model)), optax.adam(1e-3))
      >>> tx = optim.constrain(tracked, model)
    """
    check_marks("boxes", boxes, BoxSpec)

    def init_fn(params: optax.Params) -> TrackBoxesState:
        check_structure(boxes, params)
        zeros = _of_boxes(jnp.zeros_like, boxes, params)
        return TrackBoxesState(jnp.zeros((), jnp.int32), zeros, zeros, zeros)

    def update_fn(
        updates: optax.Updates, state: TrackBoxesState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, TrackBoxesState]:
        if params is None:
            raise ValueError("track_boxes needs the parameters: call `update` with `params`.")
        first = state.steps == 0

        def begun(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(first, new, old)

        def added(new: jax.Array, old: jax.Array) -> jax.Array:
            return jnp.where(first, new, old + new)

        gradients = _of_boxes(jnp.asarray, boxes, updates)
        squares = _of_boxes(jnp.square, boxes, updates)
        return updates, TrackBoxesState(
            optax.safe_increment(state.steps),
            jax.tree.map(begun, _of_boxes(jnp.asarray, boxes, params), state.start),
            jax.tree.map(added, gradients, state.gradients),
            jax.tree.map(added, squares, state.squares),
        )

    return optax.GradientTransformation(init_fn, update_fn)


def box_tracks(opt_state: optax.OptState, params: optax.Params) -> dict[str, BoxTrack]:
    """Returns how boxes learnt since tracking began.

    Args:
      opt_state: The state of an optimizer with :func:`track_boxes`, whatever wrappers it is in.
      params: The parameters after the last update.

    Returns:
      A `BoxTrack` for each parameter that holds boxes, by its path in the parameters, in their
      order.

    Raises:
      ValueError: `opt_state` has no state of `track_boxes`, or several.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.optim import BoxSpec, box_tracks, track_boxes
      >>> tx = track_boxes({"theta": BoxSpec()})
      >>> params = {"theta": jnp.array([-1.0, 1.0, -1.0, 1.0])}
      >>> state = tx.init(params)
      >>> for g in (2.0, 4.0):
      ...     _, state = tx.update({"theta": jnp.array([g, -g, 0.0, 1.0])}, state, params)
      >>> params = {"theta": params["theta"] + 0.5}
      >>> track = box_tracks(state, params)["theta"]
      >>> track.moved.tolist(), track.gradient_to_noise.tolist()
      ([0.5, 0.5, 0.5, 0.5], [3.0, 3.0, 0.0, inf])
    """
    # `nnx.Optimizer` keeps each array of a state in a Variable.
    opt_state, params = nnx.as_pure(opt_state), nnx.as_pure(params)
    states = [each for each in _leaves(opt_state) if isinstance(each, TrackBoxesState)]
    if len(states) != 1:
        raise ValueError(
            "opt_state must be the state of an optimizer with one track_boxes in it; it has "
            f"{len(states)}."
        )
    (state,) = states
    leaves = jax.tree_util.tree_leaves_with_path(params)
    current = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    tracks: dict[str, BoxTrack] = {}
    for (path, start), total, square in zip(
        jax.tree_util.tree_leaves_with_path(state.start),
        jax.tree.leaves(state.gradients),
        jax.tree.leaves(state.squares),
        strict=True,
    ):
        distance = jnp.abs(current[jax.tree_util.keystr(path)] - start)
        moved = jnp.where(state.steps == 0, jnp.zeros_like(distance), distance)
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        tracks[name] = BoxTrack(moved, _ratio(state.steps, total, square))
    return tracks


def restart_tracking(opt_state: optax.OptState) -> optax.OptState:
    """Returns the state of an optimizer in which each `track_boxes` starts anew.

    Args:
      opt_state: The state of an optimizer, with :func:`track_boxes` in it or without.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.optim import BoxSpec, restart_tracking, track_boxes
      >>> params = jnp.array([-1.0, 1.0, -1.0, 1.0])
      >>> tx = track_boxes(BoxSpec())
      >>> _, state = tx.update(params, tx.init(params), params)
      >>> state.steps.item(), restart_tracking(state).steps.item()
      (1, 0)
    """
    return jax.tree.map(
        lambda each: (
            each._replace(steps=jax.tree.map(jnp.zeros_like, each.steps))
            if isinstance(each, TrackBoxesState)
            else each
        ),
        opt_state,
        is_leaf=lambda each: isinstance(each, TrackBoxesState),
    )


def _leaves(opt_state: optax.OptState) -> list[Any]:
    return jax.tree.leaves(opt_state, is_leaf=lambda each: isinstance(each, TrackBoxesState))


def _of_boxes(function: Any, boxes: Boxes, tree: Any) -> Any:
    """Applies a function to the parameters that are boxes; masks the others."""
    return jax.tree.map(
        lambda spec, part: jax.tree.map(function, part) if is_marked(spec) else optax.MaskedNode(),
        boxes,
        tree,
    )


def _ratio(steps: jax.Array, total: jax.Array, square: jax.Array) -> jax.Array:
    """The absolute mean divided by the deviation, of numbers with these sums."""
    count = jnp.maximum(steps, 1).astype(total.dtype)
    mean = total / count
    deviation = jnp.sqrt(jnp.maximum(square / count - jnp.square(mean), 0))
    # Gradients that are all 0 have no direction; equal ones have no noise.
    ratio = jnp.where(mean == 0, 0.0, jnp.abs(mean) / deviation)
    return jnp.where(steps < 2, 0.0, ratio)
