"""One step of training and one pass of evaluation, as pure functions of a training state."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from experiments.segmentation.data.classes import VOID
from experiments.segmentation.input.pipeline import Batch
from experiments.segmentation.input.prefetch import to_device
from experiments.segmentation.training.devices import replicated, spread
from experiments.segmentation.training.iou import ConfusionMatrix, Scores


class TrainState(NamedTuple):
    """All that training changes; saving and restoring it goes on exactly.

    Attributes:
      step: how many batches were trained on.
      params: the network's parameters.
      rest: its other state: BatchNorm's statistics and the generators of dropout.
      optimizer: the optimizer's state.
      epoch_loss: sum of the losses since the epoch began.
    """

    step: jax.Array
    params: nnx.State
    rest: nnx.State
    optimizer: optax.OptState
    epoch_loss: jax.Array


type Step = Callable[[TrainState, Batch], TrainState]


class Trainer:
    """Trains and evaluates one network with one optimizer.

    Args:
      model: the network, from images `(N, H, W, 3)` to logits `(N, H, W, classes)`. It is only
        read: what training changes is in the `TrainState`.
      optimizer: for the network's `nnx.Param`s.
      class_weights: `(classes,)`, how much a pixel of each class counts in the loss.
      mesh: the devices over which batches are spread, along its one axis. The state is on each, and
        statistics and gradients are those of the whole batch: JAX finds out what the devices have
        to tell each other. By default the default device alone.
    """

    def __init__(
        self,
        model: nnx.Module,
        optimizer: optax.GradientTransformation,
        class_weights: np.ndarray,
        mesh: Mesh | None = None,
    ):
        params, rest = nnx.state(model, nnx.Param, nnx.Not(nnx.Param))
        self._graph = nnx.graphdef(model)
        self._optimizer = optimizer
        self._weights = np.asarray(class_weights, np.float32)
        everywhere = None if mesh is None else replicated(mesh)
        self._spread = None if mesh is None else spread(mesh)
        initial = TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            rest=rest,
            optimizer=optimizer.init(params),
            epoch_loss=jnp.zeros((), jnp.float32),
        )
        # Not `device_put`, which knows only this process's devices.
        self.initial: TrainState = jax.jit(lambda state: state, out_shardings=everywhere)(initial)
        self.step: Step = jax.jit(self._step, out_shardings=everywhere)
        self._no_loss = jax.jit(jnp.zeros_like, out_shardings=everywhere)
        self.logits = jax.jit(self._logits)
        self._count = jax.jit(self._add_counts, out_shardings=everywhere)

    def model(self, state: TrainState) -> Any:
        """The network with the parameters and statistics of `state`."""
        return self._merge(state.params, state.rest)

    def begin_epoch(self, state: TrainState) -> TrainState:
        """The state without the losses of the epoch before."""
        return state._replace(epoch_loss=self._no_loss(state.epoch_loss))

    def on_devices(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches, each spread over the devices before it is needed."""
        return to_device(batches, self._spread)

    def predict(self, state: TrainState, images: jax.Array) -> jax.Array:
        """The most likely class of each pixel, `(N, H, W)`, in evaluation mode."""
        return jnp.argmax(self.logits(state.params, state.rest, images), axis=-1)

    def evaluate(self, state: TrainState, batches: Iterable[Batch]) -> Scores:
        """Scores the network in evaluation mode on all batches."""
        metric = ConfusionMatrix(len(self._weights))
        counts = nnx.state(metric)
        for batch in batches:
            counts = self._count(counts, state.params, state.rest, batch)
        nnx.update(metric, counts)
        return metric.compute()

    def _add_counts(
        self, counts: nnx.State, params: nnx.State, rest: nnx.State, batch: Batch
    ) -> nnx.State:
        metric = ConfusionMatrix(len(self._weights))
        nnx.update(metric, counts)
        logits = self._logits(params, rest, jnp.asarray(batch["image"]))
        metric.update(predictions=logits, labels=jnp.asarray(batch["label"]))
        return nnx.state(metric)

    def _merge(self, params: nnx.State, rest: nnx.State) -> Any:
        # A copy, since calling the network changes its statistics and generators in place.
        return nnx.merge(self._graph, params, rest, copy=True)

    def _logits(self, params: nnx.State, rest: nnx.State, images: jax.Array) -> jax.Array:
        model = self._merge(params, rest)
        model.eval()
        return model(images)

    def _step(self, state: TrainState, batch: Batch) -> TrainState:
        def loss(params: nnx.State) -> tuple[jax.Array, nnx.State]:
            model = self._merge(params, state.rest)
            logits = model(batch["image"])
            value = weighted_cross_entropy(
                logits, jnp.asarray(batch["label"]), jnp.asarray(self._weights)
            )
            return value, nnx.state(model, nnx.Not(nnx.Param))

        (value, rest), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, optimizer = self._optimizer.update(gradients, state.optimizer, state.params)
        return TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            rest=rest,
            optimizer=optimizer,
            epoch_loss=state.epoch_loss + value,
        )


def weighted_cross_entropy(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
    """Mean cross-entropy over the pixels that are not void, each weighted by its class.

    Args:
      logits: `(..., classes)`.
      labels: `(...)`, integers; void is `VOID`.
      weights: `(classes,)`.

    Returns:
      A scalar; 0 where every pixel is void.
    """
    is_class = labels != VOID
    classes = jnp.where(is_class, labels, 0)
    pixel_weights = jnp.where(is_class, weights[classes], 0)
    logits = logits.astype(np.promote_types(logits.dtype, np.float32))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, classes)
    total = jnp.sum(pixel_weights)
    return jnp.sum(pixel_weights * losses) / jnp.where(total > 0, total, 1)


def class_weights(frequencies: np.ndarray) -> np.ndarray:
    """ENet's weights `1 / log(p + 1.1)` of classes with frequencies `p` (Paszke et al. 2016)."""
    return 1 / np.log(frequencies + 1.1)
