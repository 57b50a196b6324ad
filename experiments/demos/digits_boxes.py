"""One layer of boxes learns where to look: handwritten digits in a few seconds.

24 boxes and a linear classifier. Each box averages a part of an 8x8 image, only at the image's
middle, and the classifier sees nothing but those 24 averages: to tell the digits apart, the boxes
have to find the parts that differ. Prints the accuracy on test digits, beside that with boxes that
do not learn, and writes the boxes during training as digits_boxes.gif and digits_boxes.png into
--out.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from numpy.typing import NDArray

import jaxbox
from experiments.common.command_line import (
    MOST_STEPS,
    check_seed,
    check_whole,
    read_settings,
)
from experiments.common.outputs import picture
from experiments.common.pictures import save_animation, save_figure
from experiments.demos.digits import Digits, load
from jaxbox import plots
from jaxbox.analysis import BoxLayer, importance

_SIZE = (8, 8)
_CLASSES = 10
_BATCH = 128
_LEARNING_RATE = 2e-2
_STEP_SCALE = 0.5
_FRAMES = 32
_SPLIT = 0
_MOST_BOXES = 4096  # 64 for each pixel of an image


@dataclass(frozen=True)
class Settings:
    """Trains a layer of boxes on scikit-learn's digits and draws what it does."""

    boxes: int = 24
    """Number of boxes."""
    steps: int = 1500
    """Number of batches of 128 digits to train on."""
    seed: int = 0
    """Seed of the initial boxes and the order of the digits."""
    out: Path = Path("runs/digits")
    """Directory for the pictures."""


class Classifier(nnx.Module):
    """A box layer, whose output at the middle pixel goes into a linear classifier.

    Args:
      boxes: the number of boxes.
      trainable: whether the boxes learn.
      rngs: the random generators; the stream `params` is used.
    """

    def __init__(self, boxes: int, *, trainable: bool, rngs: nnx.Rngs) -> None:
        self.boxes = jaxbox.BoxConv(1, boxes, window=_SIZE, trainable=trainable, rngs=rngs)
        self.linear = nnx.Linear(boxes, _CLASSES, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps images `(N, 8, 8, 1)` to logits `(N, 10)`."""
        row, column = (size // 2 for size in _SIZE)
        return self.linear(self.boxes(images)[:, row, column])


class Moment(NamedTuple):
    """A moment of training.

    Attributes:
      step: the number of steps trained so far.
      theta: the boxes, `(1, boxes, 4)` in pixels.
      accuracy: the share of test digits that are classified right.
    """

    step: int
    theta: NDArray[np.float32]
    accuracy: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program."""
    settings = read_settings(Settings, arguments, description=__doc__)
    check_whole("--boxes", settings.boxes, 1, _MOST_BOXES)
    check_whole("--steps", settings.steps, 1, MOST_STEPS)
    check_seed("--seed", settings.seed)
    for kind in ("png", "gif"):
        picture(settings.out / f"digits_boxes.{kind}").check()
    train_digits, test_digits = load(_SPLIT)
    frozen = Classifier(settings.boxes, trainable=False, rngs=nnx.Rngs(settings.seed))
    *_, end = train(frozen, train_digits, test_digits, settings.steps, settings.seed)
    print(f"{end.accuracy:.1%} of test digits right with boxes as they were drawn")

    model = Classifier(settings.boxes, trainable=True, rngs=nnx.Rngs(settings.seed))
    moments: list[Moment] = []
    for moment in train(model, train_digits, test_digits, settings.steps, settings.seed):
        if not moments:
            start = time.perf_counter()  # everything is compiled
        moments.append(moment)
    seconds = time.perf_counter() - start
    print(f"{moments[-1].accuracy:.1%} with learnt boxes ({seconds:.0f} s after compilation)")

    draw(model, moments, np.asarray(train_digits.images).mean(0)[..., 0], settings.out)
    print(f"digits_boxes.gif and digits_boxes.png are in {settings.out}")


def train(
    model: Classifier, train_digits: Digits, test_digits: Digits, steps: int, seed: int
) -> Iterator[Moment]:
    """Trains a classifier in place.

    Args:
      model: the classifier to train.
      train_digits: the digits to train on.
      test_digits: the digits to compute the accuracy on.
      steps: the number of batches.
      seed: the seed of the choice of batches.

    Yields:
      Moments of training. The first is after step 1, when everything is compiled.
    """
    schedule = optax.cosine_decay_schedule(_LEARNING_RATE, steps)
    optimizer = nnx.Optimizer(
        model,
        jaxbox.optim.constrain(optax.adam(schedule), model, step_scale=_STEP_SCALE),
        wrt=nnx.Param,
    )

    @nnx.jit
    def step(model: Classifier, optimizer: nnx.Optimizer, batch: Digits) -> None:
        def loss(model: Classifier) -> jax.Array:
            logits = model(batch.images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()

        optimizer.update(model, nnx.grad(loss)(model))

    @nnx.jit
    def accuracy(model: Classifier, digits: Digits) -> jax.Array:
        return jnp.mean(jnp.argmax(model(digits.images), axis=-1) == digits.labels)

    rng = np.random.default_rng(seed)
    # More moments at the start, when boxes move fast.
    moments = {round(steps * (index / (_FRAMES - 1)) ** 2) for index in range(_FRAMES)} | {1}
    for number in range(1, steps + 1):
        chosen = rng.integers(len(train_digits.labels), size=_BATCH)
        step(model, optimizer, Digits(*(array[chosen] for array in train_digits)))
        if number in moments:
            theta = np.asarray(model.boxes.theta[...])
            yield Moment(number, theta, float(accuracy(model, test_digits)))


def draw(
    model: Classifier, moments: Sequence[Moment], image: NDArray[np.floating], out: Path
) -> None:
    """Writes the boxes during training, as a strip of pictures and as an animation.

    Args:
      model: the trained classifier.
      moments: the moments of training to draw.
      image: the picture under the boxes, `(8, 8)`.
      out: the directory for the files.
    """
    # The boxes' input is the image itself, which counts as a layer with a weight of 1.
    weights = importance(jnp.ones((1, 1)), model.linear.kernel[...])
    layer = BoxLayer("boxes", model.boxes.theta[...], model.boxes.window, weights)
    history = {
        f"step {moment.step}: {moment.accuracy:.0%} right": moment.theta for moment in moments
    }
    save_animation(layer, history, picture(out / "digits_boxes.gif"), image=image)
    captions = list(history)
    some = np.linspace(0, len(captions) - 1, min(8, len(captions))).round().astype(int)
    strip = plots.draw_training(layer, {captions[i]: history[captions[i]] for i in some})
    save_figure(strip, picture(out / "digits_boxes.png"), dpi=100)
