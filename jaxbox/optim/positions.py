"""Positions of DCLS's taps in an optimizer: inside their kernel after each step."""

import jax
import jax.numpy as jnp
import optax

from jaxbox.optim.marks import Positions, PositionSpec, check_marks, map_marked
from jaxbox.optim.non_finite import KeepPositionsInsideState, count_non_finite

__all__ = ["keep_positions_inside"]


def keep_positions_inside(positions: Positions) -> optax.GradientTransformation:
    """Modifies updates such that taps stay inside their kernel: projected gradient descent.

    The updated positions are clipped to their limits, to rounding. An update that leaves a tap
    inside passes unchanged, bit for bit. An update that would make a position infinite or NaN
    leaves it as it is. In a chain this transformation should be last.

    Source: `clamp_parameters` of the authors' code, which their training calls after each step. Its
    limits let taps leave kernels of even size by one cell; these do not.

    Args:
      positions: A tree that marks the positions, from :func:`find_positions` or
        :func:`find_positions_by_name`.

    Returns:
      A `GradientTransformation` whose state is a `KeepPositionsInsideState` with the number of
      steps in which a position was not finite (see :func:`jaxbox.optim.non_finite_steps`), and
      whose `update` needs the parameters.

    Raises:
      TypeError: `positions` are no marks.
      ValueError: When updating, `params` is `None`, or positions and their limits have different
        numbers of spatial axes.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.optim import PositionSpec, keep_positions_inside
      >>> tx = keep_positions_inside(PositionSpec(((-2, 2),)))
      >>> positions = jnp.array([1.0, -1.0]).reshape(1, 2, 1, 1)
      >>> updates, _ = tx.update(3 * positions, tx.init(positions), positions)
      >>> (positions + updates).ravel().tolist()
      [2.0, -2.0]
    """
    check_marks("positions", positions, PositionSpec)

    def keep_inside(spec: PositionSpec, update: jax.Array, positions: jax.Array) -> jax.Array:
        rank, number = positions.ndim, len(spec.limits)
        if not -rank <= spec.axis < rank or positions.shape[spec.axis] != number:
            raise ValueError(
                f"positions must be (d, K, I, O) with d the {number} axes of limits, or stacked "
                f"with d along axis {spec.axis}; got shape {positions.shape}."
            )
        along = [1] * rank
        along[spec.axis] = number
        low, high = jnp.array(spec.limits, positions.dtype).T.reshape(2, *along)
        moved = positions + update
        clipped = jnp.clip(moved, low, high)
        # `clipped - positions` would round updates that need no correction.
        kept = jnp.where(clipped == moved, update, clipped - positions)
        return jnp.where(jnp.isfinite(moved), kept, 0)

    def init_fn(params: optax.Params) -> KeepPositionsInsideState:
        del params
        return KeepPositionsInsideState(jnp.zeros((), jnp.int32))

    def update_fn(
        updates: optax.Updates, state: KeepPositionsInsideState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, KeepPositionsInsideState]:
        if params is None:
            raise ValueError(
                "keep_positions_inside needs the parameters: call `update` with `params`."
            )
        count = count_non_finite(state.non_finite_steps, positions, updates, params)
        kept = map_marked(keep_inside, positions, updates, params)
        return kept, KeepPositionsInsideState(count)

    return optax.GradientTransformation(init_fn, update_fn)
