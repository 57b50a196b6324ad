"""A checkpoint of an older program, which numbered layers and counted nothing, still opens."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from experiments.segmentation.training.checkpoints import Checkpoints
from experiments.segmentation.training.trainer import Trainer
from jaxbox import optim
from jaxbox.models.blocks import Bottleneck, BoxBlock, NonBottleneck1D
from tests.cases.networks import draw
from tests.experiments.segmentation.training.test_checkpoints import assert_same

# The numbers that the layers of each kind of block had, before layers had names.
BRANCH = [
    "reduce",
    "norm1",
    "activation1",
    "conv",
    "norm2",
    "activation2",
    "expand",
    "norm3",
    "dropout",
]
ASYMMETRIC = [
    "reduce",
    "norm1",
    "activation1",
    "column",
    "conv",
    "norm2",
    "activation2",
    "expand",
    "norm3",
    "dropout",
]
BOXES = ["conv", "norm1", "relu", "boxes", "norm2", "dropout"]
BOXES_WITHOUT_RELU = ["conv", "norm1", "boxes", "norm2", "dropout"]
NON_BOTTLENECK = [
    "column1",
    "relu",
    "row1",
    "norm1",
    "relu",
    "column2",
    "relu",
    "row2",
    "norm2",
    "dropout",
]
SKIP = ["skip_conv", "skip_norm"]
# The states of transformations that had none.
COUNTS = (optim.KeepBoxesValidState, optim.KeepPositionsInsideState)


def branch_of(block):
    if isinstance(block, BoxBlock):
        return BOXES if block.relu else BOXES_WITHOUT_RELU
    if isinstance(block, NonBottleneck1D):
        return NON_BOTTLENECK
    return ASYMMETRIC if isinstance(block, Bottleneck) and block.column is not None else BRANCH


def older_form(tree, model):
    """The same state with numbers in place of the names of layers, and without counts."""

    def older_path(path):
        if path[0] != "blocks" or not hasattr(model.blocks[path[1]], "branch"):
            return path
        for sequence, names in ("branch", branch_of(model.blocks[path[1]])), ("skip", SKIP):
            if path[2] in names:
                return (*path[:2], sequence, "layers", names.index(path[2]), *path[3:])
        return path

    def convert(state):
        if isinstance(state, COUNTS):
            return optax.EmptyState()
        if not isinstance(state, nnx.State):
            return state
        flat = nnx.to_flat_state(state)
        return nnx.from_flat_state([(older_path(path), leaf) for path, leaf in flat])

    return jax.tree.map(convert, tree, is_leaf=lambda x: isinstance(x, (nnx.State, *COUNTS)))


def state_of(model):
    optimizer = optim.constrain(optax.adamw(1e-3), model)
    return Trainer(model, optimizer, np.ones(5)).initial


@pytest.mark.usefixtures("relaxed_promotion")
@pytest.mark.parametrize("name", ["boxenet", "boxerfnet-frozen"])
def test_every_kind_of_block(tmp_path, rng, name):
    model = draw(name, rng)
    saved = state_of(model)._replace(step=jnp.int32(7))
    parts = older_form(saved._asdict(), model)
    assert "reduce" not in parts["params"]["blocks"][1]
    parts["rest"] = parts.pop("model_state")
    parts["optimizer"] = parts.pop("opt_state")
    with ocp.CheckpointManager(tmp_path / "checkpoints") as manager:
        manager.save(7, args=ocp.args.StandardSave(parts))
    with Checkpoints(tmp_path) as checkpoints:
        assert_same(checkpoints.latest(state_of(draw(name, rng))), saved)
