"""The loss and the training step."""

import flax.nnx as nnx
import jax
import numpy as np
import optax
import pytest

import jaxbox
from experiments.segmentation.data.classes import VOID
from experiments.segmentation.training.trainer import Trainer, class_weights, weighted_cross_entropy
from jaxbox import models
from jaxbox.layers.box import FrozenBoxes


def test_the_loss_is_that_of_a_loop_over_the_pixels(rng):
    logits = rng.normal(size=(2, 3, 5, 4)).astype(np.float32)
    labels = rng.integers(0, 4, (2, 3, 5)).astype(np.int32)
    labels[rng.random(labels.shape) < 0.3] = VOID
    weights = rng.uniform(0.5, 2, 4).astype(np.float32)
    total, norm = 0.0, 0.0
    for index in np.ndindex(labels.shape):
        if labels[index] == VOID:
            continue
        row = logits[index].astype(np.float64)
        weight = float(weights[labels[index]])
        total += weight * (np.log(np.exp(row).sum()) - row[labels[index]])
        norm += weight
    loss = weighted_cross_entropy(jax.numpy.asarray(logits), jax.numpy.asarray(labels), weights)
    np.testing.assert_allclose(loss, total / norm, rtol=1e-5)


def test_loss_of_void_alone_is_zero_and_has_no_gradient():
    logits, labels = jax.numpy.ones((1, 2, 2, 3)), jax.numpy.full((1, 2, 2), VOID)

    def loss(logits: jax.Array) -> jax.Array:
        return weighted_cross_entropy(logits, labels, jax.numpy.ones(3))

    value, gradient = jax.value_and_grad(loss)(logits)
    assert value == 0
    assert not np.any(gradient)


def test_class_weights_fall_with_frequency_as_enet_s():
    np.testing.assert_allclose(
        class_weights(np.array([0.0, 0.9])), [1 / np.log(1.1), 1 / np.log(2)]
    )


class _Tiny(nnx.Module):
    """One of each thing that training changes: weights, boxes, statistics and dropout."""

    def __init__(self, rngs: nnx.Rngs):
        self.inner = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.boxes = jaxbox.BoxConv(4, 2, window=(6, 8), rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.outer = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.outer(self.dropout(self.boxes(self.norm(self.inner(x)))))


@pytest.mark.usefixtures("relaxed_promotion")
def test_a_step_changes_everything_and_leaves_its_argument_alone(rng):
    model = _Tiny(nnx.Rngs(0))
    trainer = Trainer(model, jaxbox.optim.constrain(optax.adam(1e-2), model), np.ones(3))
    batch = {
        "image": rng.normal(size=(2, 6, 8, 3)).astype(np.float32),
        "label": rng.integers(0, 3, (2, 6, 8)).astype(np.int32),
    }
    before = jax.tree.map(np.array, nnx.to_pure_dict(trainer.initial.params))
    state = trainer.step(trainer.initial, batch)
    again = trainer.step(trainer.initial, batch)
    assert int(state.step) == 1
    jax.tree.map(np.testing.assert_array_equal, before, nnx.to_pure_dict(trainer.initial.params))
    jax.tree.map(
        np.testing.assert_array_equal,
        nnx.to_pure_dict(state.params),
        nnx.to_pure_dict(again.params),
    )
    for old, new in zip(
        jax.tree.leaves(before), jax.tree.leaves(nnx.to_pure_dict(state.params)), strict=True
    ):
        assert np.any(old != new)
    assert np.any(trainer.model(state).norm.mean[...] != 0)
    assert int(trainer.model(state).dropout.rngs.count[...]) == 1

    losses = []
    for _ in range(30):
        state = trainer.step(state._replace(epoch_loss=jax.numpy.zeros(())), batch)
        losses.append(float(state.epoch_loss))
    assert losses[-1] < losses[0]
    predicted = trainer.predict(state, batch["image"])
    scores = trainer.evaluate(state, [batch])
    assert scores.pixel_accuracy == pytest.approx(np.mean(predicted == batch["label"]))


@pytest.mark.usefixtures("relaxed_promotion")
@pytest.mark.parametrize(
    "name", [pytest.param("boxenet-frozen", marks=pytest.mark.slow), "boxerfnet-frozen"]
)
def test_frozen_boxes_stay_as_they_were_drawn(name, rng):
    """BoxENet† and BoxERFNet†: to the bit, while everything else trains."""
    model = models.create(name, 3, (16, 24), rngs=nnx.Rngs(0))
    trainer = Trainer(model, jaxbox.optim.constrain(optax.adamw(1e-2), model), np.ones(3))
    batch = {
        "image": rng.normal(size=(2, 16, 24, 3)).astype(np.float32),
        "label": rng.integers(0, 3, (2, 16, 24)).astype(np.int32),
    }
    state = trainer.initial
    for _ in range(50):
        state = trainer.step(state, batch)

    def frozen(state):
        return jax.tree.leaves(nnx.filter_state(state.model_state, FrozenBoxes))

    boxes = frozen(trainer.initial)
    assert len(boxes) == {"boxenet-frozen": 12, "boxerfnet-frozen": 5}[name]
    jax.tree.map(np.testing.assert_array_equal, boxes, frozen(state))
    before, after = map(jax.tree.leaves, (trainer.initial.params, state.params))
    assert all(np.any(old != new) for old, new in zip(before, after, strict=True))
