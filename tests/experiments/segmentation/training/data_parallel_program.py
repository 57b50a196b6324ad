"""Trains a small network with boxes in double precision, for `test_devices`.

A single process trains twice, on its first device and on all of its devices; several processes
train together on all of their devices. Prints JSON with the losses of each training's steps and how
many arrays the devices exchange in a step.

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
from jaxbox import BoxConv
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
    rngs = nnx.Rngs(jax.random.key(0, impl="rbg"))
    model = SegmentationNetwork(ARCHITECTURE, 19, SIZE, dtype=jnp.float64, rngs=rngs)
    results = {"all devices": train(model, steps, data_mesh())}
    if not address:
        results["one device"] = train(model, steps, None)
    if is_first_process():
        print(json.dumps(results))


def train(model, steps, mesh):
    """Trains from the network's initial state, which stays as it is."""
    optimizer = jaxbox.optim.constrain(optax.adam(1e-3), model)
    trainer = Trainer(model, optimizer, np.ones(19), mesh=mesh)
    source = SyntheticStreets("train", SIZE, length=64, seed=0)
    shard = Shard(jax.process_index(), jax.process_count())
    read = read_ahead(training_batches(source, 8, 0, shard=shard))
    batches = trainer.on_devices(map(double_images, read))
    state, losses, step = double(trainer.initial), [], None
    for _ in range(steps):
        state, batch = trainer.begin_epoch(state), next(batches)
        step = step or trainer.step.lower(state, batch).compile()
        state = step(state, batch)
        losses.append(float(state.epoch_loss))
    return {
        "losses": losses,
        "exchanged": exchanged_arrays(step.as_text()),
        "parameters": len(jax.tree.leaves(state.params)),
        "norms": sum(isinstance(m, BatchNorm) for _, m in nnx.iter_modules(model)),
        "box_layers": sum(isinstance(m, BoxConv) for _, m in nnx.iter_modules(model)),
    }


def double_images(batch):
    return {**batch, "image": batch["image"].astype(np.float64)}


def exchanged_arrays(program):
    """The number of arrays that each kind of communication carries."""
    counts = collections.Counter()
    for match in COLLECTIVE.finditer(program):
        counts[match["name"]] += len(re.findall(r"\w+\[", match["result"]))
    return counts


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
