"""Positions of taps in an optimizer: inside the kernel."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxbox import optim
from jaxbox.optim import PositionSpec


def test_small_steps_pass_to_the_bit(rng):
    tx = optim.keep_positions_inside(PositionSpec(((-4, 4), (-1, 1))))
    positions = jnp.asarray(rng.uniform(-0.5, 0.5, (2, 3, 2, 2)), jnp.float32)
    update = positions / 3
    updates, _ = tx.update(update, tx.init(positions), positions)
    np.testing.assert_array_equal(updates, update)


def test_bad_arguments():
    tx = optim.keep_positions_inside(PositionSpec(((-4, 4),)))
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(jnp.zeros((1, 1, 1, 1)), tx.init(None))
    with pytest.raises(ValueError, match="1 axes of limits"):
        tx.update(jnp.zeros((2, 1, 1, 1)), tx.init(None), jnp.zeros((2, 1, 1, 1)))
    with pytest.raises(ValueError, match="the lesser first"):
        PositionSpec(((1, -1),))
    with pytest.raises(ValueError, match="'positions', which none has"):
        optim.find_positions_by_name({"theta": jnp.zeros(3)}, (5,))
