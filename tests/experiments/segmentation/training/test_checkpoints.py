"""Checkpoints: the state comes back, also from a checkpoint with the names of older programs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from experiments.common.program import UserError
from experiments.segmentation.training.checkpoints import Checkpoints
from experiments.segmentation.training.trainer import Trainer


class Small(nnx.Module):
    """A network with parameters, statistics and random state."""

    def __init__(self, rngs):
        self.inner = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)


def state_of(seed=0, step=0, make_optimizer=optax.adam):
    state = Trainer(Small(nnx.Rngs(seed)), make_optimizer(1e-3), np.ones(4)).initial
    return state._replace(step=jnp.int32(step))


def assert_same(state, other):
    def values(tree):
        return [
            jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
            for leaf in jax.tree.leaves(tree)
        ]

    assert jax.tree.structure(state) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, values(state), values(other))


def test_the_newest_state_comes_back(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest(state_of()) is None
        for step in (3, 5):
            checkpoints.save(state_of(seed=step, step=step))
    with Checkpoints(tmp_path) as checkpoints:
        assert_same(checkpoints.latest(state_of()), state_of(seed=5, step=5))
        kept = checkpoints.all(state_of())
    assert list(kept) == [3, 5]
    assert_same(kept[3], state_of(seed=3, step=3))


def test_a_checkpoint_with_the_names_of_older_programs_opens(tmp_path):
    saved = state_of(seed=1, step=9)
    parts = saved._asdict()
    parts["rest"] = parts.pop("model_state")
    parts["optimizer"] = parts.pop("opt_state")
    with ocp.CheckpointManager(tmp_path / "checkpoints") as manager:
        manager.save(9, args=ocp.args.StandardSave(parts))
    with Checkpoints(tmp_path) as checkpoints:
        assert_same(checkpoints.latest(state_of()), saved)


def test_a_state_of_another_optimizer_is_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_of(step=2))
        with pytest.raises(UserError, match=r"^checkpoint 2 in .* does not fit this network"):
            checkpoints.latest(state_of(make_optimizer=optax.adagrad))
