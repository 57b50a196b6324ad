"""Trains a small network with boxes in double precision; `test_devices` runs it in many ways.

Prints the losses of its steps and what the devices tell each other in a step.

Usage: data_parallel_program.py STEPS [HOST:PORT,INDEX/COUNT]
"""

import collections
import json
import re
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jaxbox
from experiments.segmentation.data.synthetic import SyntheticStreets
from experiments.segmentation.input.pipeline import Shard, read_ahead, training_batches
from experiments.segmentation.training.devices import data_mesh, is_first_process, join_processes
from experiments.segmentation.training.trainer import Trainer
from jaxbox.models import Architecture, SegmentationNetwork
from jaxbox.models.blocks import BoxBlock, Downsampling, InitialBlock, Upsampling
from jaxbox.models.convolution import PatchConvTranspose
from jaxbox.models.normalization import BatchNorm

SIZE = (16, 32)
ARCHITECTURE = Architecture(
    (
        partial(InitialBlock, channels=8),
        partial(Downsampling, channels=16, dropout=0.1),
        partial(BoxBlock, num_boxes=2, dropout=0.1),
        partial(Upsampling, channels=8),
    ),
    PatchConvTranspose,
)
COLLECTIVE = re.compile(
    r" = (?P<result>.*?) (?P<name>all-gather|all-reduce|all-to-all|collective-permute|"
    r"reduce-scatter)(-start)?\("
)


def double(tree):
    def convert(leaf):
        return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.jit(partial(jax.tree.map, convert))(tree)


def main(steps, address=None):
    jax.config.update("jax_enable_x64", True)
    if address:
        join_processes(address)
    source = SyntheticStreets("train", SIZE, length=64, seed=0)
    rngs = nnx.Rngs(jax.random.key(0, impl="rbg"))
    model = SegmentationNetwork(ARCHITECTURE, 19, SIZE, dtype=jnp.float64, rngs=rngs)
    trainer = Trainer(
        model, jaxbox.optim.constrain(optax.adam(1e-3), model), np.ones(19), mesh=data_mesh()
    )
    shard = Shard(jax.process_index(), jax.process_count())
    read = read_ahead(training_batches(source, 8, 0, shard=shard))
    batches = trainer.on_devices(map(double_images, read))
    state, losses, step = double(trainer.initial), [], None
    for _ in range(steps):
        state, batch = trainer.begin_epoch(state), next(batches)
        step = step or trainer.step.lower(state, batch).compile()
        state = step(state, batch)
        losses.append(float(state.epoch_loss))
    if is_first_process():
        sizes = {
            "parameters": len(jax.tree.leaves(state.params)),
            "norms": sum(isinstance(m, BatchNorm) for _, m in nnx.iter_modules(model)),
        }
        print(json.dumps({"losses": losses, "told": collectives(step.as_text()), **sizes}))


def double_images(batch):
    return {**batch, "image": batch["image"].astype(np.float64)}


def collectives(program):
    """How many arrays each kind of communication carries."""
    counts = collections.Counter()
    for match in COLLECTIVE.finditer(program):
        counts[match["name"]] += len(re.findall(r"\w+\[", match["result"]))
    return counts


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
