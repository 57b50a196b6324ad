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
from experiments.segmentation.training.confusion_matrix import ConfusionMatrix, Scores
from experiments.segmentation.training.devices import replicated, spread


class TrainState(NamedTuple):
    """All that training changes; a run that restores it continues exactly.

    Attributes:
      step: the number of batches trained on.
      params: the network's parameters.
      model_state: the network's other state: statistics of BatchNorm and random state of dropout.
      opt_state: the optimizer's state.
      epoch_loss: the sum of the losses since the epoch began.
    """

    step: jax.Array
    params: nnx.State
    model_state: nnx.State
    opt_state: optax.OptState
    epoch_loss: jax.Array


type Step = Callable[[TrainState, Batch], TrainState]


class Trainer:
    """Trains and evaluates one network with one optimizer.

    Args:
      model: the network, from images `(N, H, W, 3)` to logits `(N, H, W, classes)`. It is only
        read; what training changes is in the `TrainState`.
      optimizer: the optimizer of the network's `nnx.Param`s.
      class_weights: the weight of each class's pixels in the loss, `(classes,)`.
      mesh: the devices over whose one axis batches are spread. The state is replicated, and
        statistics and gradients are those of the whole batch: JAX inserts the communication that
        this takes. By default training uses the default device alone.

    Attributes:
      initial: the state before training.
      step: the compiled training step, `(state, batch) -> state`.
      logits: the compiled network in evaluation mode, `(params, model_state, images) -> logits`.
    """

    def __init__(
        self,
        model: nnx.Module,
        optimizer: optax.GradientTransformation,
        class_weights: np.ndarray,
        mesh: Mesh | None = None,
    ):
        params, model_state = nnx.state(model, nnx.Param, nnx.Not(nnx.Param))
        self._graph = nnx.graphdef(model)
        self._optimizer = optimizer
        self._weights = np.asarray(class_weights, np.float32)
        everywhere = None if mesh is None else replicated(mesh)
        self._spread = None if mesh is None else spread(mesh)
        initial = TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            model_state=model_state,
            opt_state=optimizer.init(params),
            epoch_loss=jnp.zeros((), jnp.float32),
        )
        # Not `device_put`, which only knows the devices of this process.
        self.initial: TrainState = jax.jit(lambda state: state, out_shardings=everywhere)(initial)
        self.step: Step = jax.jit(self._step, out_shardings=everywhere)
        self._no_loss = jax.jit(jnp.zeros_like, out_shardings=everywhere)
        self.logits = jax.jit(self._logits)
        self._count = jax.jit(self._add_counts, out_shardings=everywhere)

    def model(self, state: TrainState) -> Any:
        """The network with the parameters and statistics of a state."""
        return self._merge(state.params, state.model_state)

    def begin_epoch(self, state: TrainState) -> TrainState:
        """The state with the sum of losses reset to 0."""
        return state._replace(epoch_loss=self._no_loss(state.epoch_loss))

    def on_devices(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches, each copied to the devices before it is needed."""
        return to_device(batches, self._spread)

    def predict(self, state: TrainState, images: jax.Array) -> jax.Array:
        """The most likely class of each pixel, `(N, H, W)`, in evaluation mode."""
        return jnp.argmax(self.logits(state.params, state.model_state, images), axis=-1)

    def evaluate(self, state: TrainState, batches: Iterable[Batch]) -> Scores:
        """The scores of the network in evaluation mode on all batches."""
        metric = ConfusionMatrix(len(self._weights))
        counts = nnx.state(metric)
        for batch in batches:
            counts = self._count(counts, state.params, state.model_state, batch)
        nnx.update(metric, counts)
        return metric.compute()

    def _add_counts(
        self, counts: nnx.State, params: nnx.State, model_state: nnx.State, batch: Batch
    ) -> nnx.State:
        metric = ConfusionMatrix(len(self._weights))
        nnx.update(metric, counts)
        logits = self._logits(params, model_state, jnp.asarray(batch["image"]))
        metric.update(predictions=logits, labels=jnp.asarray(batch["label"]))
        return nnx.state(metric)

    def _merge(self, params: nnx.State, model_state: nnx.State) -> Any:
        # A copy, since calling the network changes its statistics and random state in place.
        return nnx.merge(self._graph, params, model_state, copy=True)

    def _logits(self, params: nnx.State, model_state: nnx.State, images: jax.Array) -> jax.Array:
        model = self._merge(params, model_state)
        model.eval()
        return model(images)

    def _step(self, state: TrainState, batch: Batch) -> TrainState:
        def loss(params: nnx.State) -> tuple[jax.Array, nnx.State]:
            model = self._merge(params, state.model_state)
            logits = model(batch["image"])
            value = weighted_cross_entropy(
                logits, jnp.asarray(batch["label"]), jnp.asarray(self._weights)
            )
            return value, nnx.state(model, nnx.Not(nnx.Param))

        (value, model_state), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        updates, opt_state = self._optimizer.update(grads, state.opt_state, state.params)
        return TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            model_state=model_state,
            opt_state=opt_state,
            epoch_loss=state.epoch_loss + value,
        )


def weighted_cross_entropy(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
    """Mean cross-entropy over the pixels that are not void, each weighted by its class.

    Args:
      logits: the network's output, `(..., classes)`.
      labels: the classes of the pixels, `(...)`, integers; void is `VOID`.
      weights: the weight of each class, `(classes,)`.

    Returns:
      A scalar, which is 0 if every pixel is void.
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
