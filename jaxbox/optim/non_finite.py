"""Steps that would make a box or a tap's position infinite or NaN: skipped and counted.

One NaN in a gradient would otherwise stay in the parameter for good, because no later step can move
a NaN, and in the moments of Adam.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxbox.optim.marks import Boxes, Positions, map_marked

__all__ = [
    "KeepBoxesValidState",
    "KeepPositionsInsideState",
    "NonFiniteSteps",
    "count_non_finite",
    "non_finite_steps",
    "shield",
]


class KeepBoxesValidState(NamedTuple):
    """The state of `keep_boxes_valid`.

    Attributes:
      non_finite_steps: The number of steps in which a box kept its place because the moved one was
        not finite, an int32 scalar.
    """

    non_finite_steps: jax.Array


class KeepPositionsInsideState(NamedTuple):
    """The state of `keep_positions_inside`.

    Attributes:
      non_finite_steps: The number of steps in which a position kept its value because the moved one
        was not finite, an int32 scalar.
    """

    non_finite_steps: jax.Array


class NonFiniteSteps(NamedTuple):
    """How often parameters kept their values because the new ones were not finite.

    Attributes:
      boxes: The number of steps in which at least one box kept its place.
      positions: The number of steps in which at least one position of a tap kept its value.
    """

    boxes: jax.Array
    positions: jax.Array


def non_finite_steps(opt_state: optax.OptState) -> NonFiniteSteps:
    """Counts the steps in which a box or a position was not finite and kept its last value.

    Log it: any number but 0 says that gradients were NaN or infinite.

    Args:
      opt_state: The state of an optimizer from :func:`jaxbox.optim.constrain`, such as the
        `opt_state` of an `nnx.Optimizer`, whatever wrappers it is in.

    Returns:
      The numbers of steps. Parts of the optimizer that treat different parameters are added up.

    Raises:
      ValueError: There is no such count in the state.

    Example:
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from jaxbox.optim import BoxSpec, keep_boxes_valid, non_finite_steps
      >>> tx = keep_boxes_valid(BoxSpec())
      >>> theta = jnp.array([-1.0, 1.0, -1.0, 1.0])
      >>> updates, state = tx.update(jnp.array([0.5, jnp.nan, 0.5, 0.5]), tx.init(theta), theta)
      >>> updates.tolist(), non_finite_steps(state).boxes.item()
      ([0.0, 0.0, 0.0, 0.0], 1)
    """
    kinds = (KeepBoxesValidState, KeepPositionsInsideState)
    states = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kinds))
    counts: list[list[jax.Array]] = [
        [jnp.asarray(state.non_finite_steps) for state in states if isinstance(state, kind)]
        for kind in kinds
    ]
    if not any(counts):
        raise ValueError(
            "opt_state must be the state of an optimizer from jaxbox.optim; it has no count of "
            "steps that were not finite."
        )
    return NonFiniteSteps(*(sum(own, start=jnp.zeros((), jnp.int32)) for own in counts))


def count_non_finite(
    count: jax.Array, marks: Boxes | Positions, updates: optax.Updates, params: optax.Params
) -> jax.Array:
    """Adds 1 to a count if an update makes any of the marked parameters infinite or NaN."""
    found: list[jax.Array] = []

    def look(spec: object, update: jax.Array, parameter: jax.Array) -> jax.Array:
        del spec
        found.append(~jnp.isfinite(parameter + update).all())
        return update

    map_marked(look, marks, updates, params)
    bad = jnp.stack(found).any() if found else jnp.zeros((), bool)
    return jnp.where(bad, optax.safe_increment(count), count)


def shield(
    optimizer: optax.GradientTransformation, marks: Boxes | Positions
) -> optax.GradientTransformationExtraArgs:
    """Keeps numbers that are not finite in gradients of marked parameters from an optimizer.

    The optimizer sees a gradient of 0 in their place, so that its moments stay finite, and its
    update for them is replaced by NaN, by which the transformation that keeps boxes valid or
    positions inside knows that they have to keep their place.
    """
    update = optax.with_extra_args_support(optimizer).update

    def update_fn(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        finite = map_marked(functools.partial(_replace, 0.0), marks, updates, updates)
        steps, state = update(finite, state, params, **extra)
        return map_marked(functools.partial(_replace, jnp.nan), marks, steps, updates), state

    return optax.GradientTransformationExtraArgs(optimizer.init, update_fn)


def _replace(value: float, spec: object, array: jax.Array, gradient: jax.Array) -> jax.Array:
    """Replaces the elements of an array for which the gradient is not finite."""
    del spec
    return jnp.where(jnp.isfinite(gradient), array, value)
