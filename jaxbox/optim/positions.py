"""Positions of DCLS's taps in an optimizer: inside their kernel after each step."""

import jax
import jax.numpy as jnp
import optax

from jaxbox.optim.marks import Positions, PositionSpec, map_marked

__all__ = ["keep_positions_inside"]


def keep_positions_inside(positions: Positions) -> optax.GradientTransformation:
    """Modifies updates such that taps stay inside their kernel: projected gradient descent.

    The updated positions are clipped to their limits, to rounding. An update that leaves a tap
    inside passes unchanged, bit for bit. In a chain this transformation should be last.

    Source: `clamp_parameters` of the authors' code, which their training calls after each step. Its
    limits let taps leave kernels of even size by one cell; these do not.

    Args:
      positions: A tree that marks the positions, from :func:`find_positions` or
        :func:`find_positions_by_name`.

    Returns:
      A stateless `GradientTransformation` whose `update` needs the parameters.

    Raises:
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
        return jnp.where(clipped == moved, update, clipped - positions)

    def update_fn(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        if params is None:
            raise ValueError(
                "keep_positions_inside needs the parameters: call `update` with `params`."
            )
        return map_marked(keep_inside, positions, updates, params)

    return optax.stateless(update_fn)
