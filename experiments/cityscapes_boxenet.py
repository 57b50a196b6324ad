"""Trains a box network to segment street scenes.

Without arguments: BoxENet on generated street scenes, a few minutes on two cores. Writes into
--out: metrics.jsonl and TensorBoard's files, checkpoints, and pictures (predictions.png, boxes.png,
curves.png). Ctrl-C saves and stops; the same command with --resume goes on exactly.
"""

import dataclasses
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import jax
import numpy as np
import optax
import tyro
from flax import nnx
from tqdm import tqdm

import jaxbox
from jaxbox import plots
from jaxbox.analysis import box_layers
from jaxbox.models import NETWORKS
from segmentation.checkpoints import Checkpoints, RunError
from segmentation.datasets import DataSet, Recipe, open_dataset
from segmentation.errors import DataError
from segmentation.iou import Scores
from segmentation.memory import keep_freed_memory
from segmentation.pictures import draw_curves, draw_predictions
from segmentation.pipeline import (
    class_frequencies,
    evaluation_batches,
    normalize,
    read_ahead,
    training_batches,
)
from segmentation.run_log import RunLog, read_records
from segmentation.training import Trainer, TrainState, class_weights

_SAMPLES_DRAWN = 4
_LABELS_READ_FOR_WEIGHTS = 400


@dataclass(frozen=True)
class Settings:
    """Trains a network to segment street scenes and shows what its boxes learn."""

    data: str = "synthetic"
    """synthetic (generated, no download), camvid:DIR, or cityscapes:DIR (DIR holds leftImg8bit/
    and gtFine/)."""
    model: Annotated[str, tyro.conf.arg(help=f"Network: one of {', '.join(NETWORKS)}.")] = "boxenet"
    size: str | None = None
    """Size of the images, HEIGHTxWIDTH in pixels, divisible by 8, such as 176x240. Default: the
    data set's usual size."""
    epochs: int | None = None
    """How often to go through the training images. This and what follows: by default as suits the
    data set."""
    steps: int | None = None
    """How many batches to train on, instead of --epochs."""
    batch_size: int | None = None
    """Images in a batch."""
    learning_rate: float | None = None
    """Adam's at the start; it falls to zero along a cosine."""
    dropout: float | None = None
    """How much of the network's dropout to use, from 0 to 1."""
    weight_decay: float = 2e-4
    """Strength of the L2 penalty on everything but the boxes."""
    box_l2: float = 1e-7
    """Strength of the L2 penalty on the boxes' coordinates in pixels; it shrinks idle boxes."""
    box_step_scale: float = 1.0
    """How far boxes move: an optimizer step of 1 becomes this many feature maps' widths."""
    seed: int = 0
    """Of the initial parameters, the order of the images, dropout and generated scenes."""
    out: Path = Path("runs/boxenet")
    """Directory for everything the run writes; new or empty unless --resume."""
    resume: bool = False
    """Go on with the run in --out."""


class UsageError(Exception):
    """An argument is not allowed; the message says what is."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns the exit code: 0 done, 130 stopped by Ctrl-C, 2 a user's error."""
    settings = tyro.cli(
        Annotated[Settings, tyro.conf.arg(name="")], args=arguments, description=__doc__
    )
    keep_freed_memory()
    try:
        return _run(settings)
    except (UsageError, DataError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped before the current step was done; add --resume to go on", file=sys.stderr)
        return 130


def _run(settings: Settings) -> int:
    size = _parse_size(settings.size)
    _check(settings)
    dataset = open_dataset(settings.data, size, settings.seed)
    recipe = _recipe(settings, dataset)
    steps = settings.steps or recipe.epochs * _steps_per_epoch(recipe, dataset)
    recorded = {
        **{k: v for k, v in dataclasses.asdict(settings).items() if k not in ("out", "resume")},
        **dataclasses.asdict(recipe),
        "size": list(dataset.size),
        "epochs": None,
        "steps": steps,
    }
    # Read before the run's directory is made, since labels may turn out to be bad.
    weights = class_weights(class_frequencies(dataset.train, _LABELS_READ_FOR_WEIGHTS))
    with Checkpoints(settings.out, recorded, resume=settings.resume) as checkpoints:
        trainer = _trainer(settings, dataset, recipe, steps, weights)
        state = checkpoints.latest(trainer.initial)
        with RunLog(settings.out, int(state.step)) as log:
            state = _train(settings, dataset, recipe, steps, trainer, state, checkpoints, log)
    _write_pictures(settings.out, dataset, trainer, state)
    if int(state.step) < steps:
        print(f"stopped at step {int(state.step)} of {steps}; add --resume to go on")
        return 130
    return 0


def _parse_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise UsageError(f"--size must be HEIGHTxWIDTH such as 176x240; got {text!r}")
    height, width = map(int, parts)
    for name, value in (("height", height), ("width", width)):
        if value < 8 or value % 8:
            raise UsageError(f"--size: the {name} must be a positive multiple of 8; got {value}")
    return height, width


def _check(settings: Settings) -> None:
    if settings.model not in NETWORKS:
        raise UsageError(f"--model must be one of {', '.join(NETWORKS)}; got {settings.model!r}")
    if settings.epochs is not None and settings.steps is not None:
        raise UsageError("give --epochs or --steps, not both")
    for name in ("epochs", "steps", "batch_size", "learning_rate", "box_step_scale"):
        value = getattr(settings, name)
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"--{name.replace('_', '-')} must be greater than 0; got {value}")
    if settings.dropout is not None and not 0 <= settings.dropout <= 1:
        raise UsageError(f"--dropout must be from 0 to 1; got {settings.dropout}")
    for name in ("weight_decay", "box_l2"):
        value = getattr(settings, name)
        if not 0 <= value < float("inf"):
            raise UsageError(f"--{name.replace('_', '-')} must be 0 or greater; got {value}")
    if not 0 <= settings.seed < 2**32:
        raise UsageError(f"--seed must be from 0 to 2**32 - 1; got {settings.seed}")


def _recipe(settings: Settings, dataset: DataSet) -> Recipe:
    """The data set's, but for what the user decided."""
    names = [field.name for field in dataclasses.fields(Recipe)]
    decided = {name: getattr(settings, name) for name in names}
    decided = {name: value for name, value in decided.items() if value is not None}
    return dataclasses.replace(dataset.recipe, **decided)


def _steps_per_epoch(recipe: Recipe, dataset: DataSet) -> int:
    return -(-len(dataset.train) // recipe.batch_size)


def _trainer(
    settings: Settings, dataset: DataSet, recipe: Recipe, steps: int, weights: np.ndarray
) -> Trainer:
    model = jaxbox.models.create(
        settings.model,
        num_classes=len(dataset.train.classes),
        image_size=dataset.size,
        # XLA compiles this generator many times faster than JAX's default one.
        rngs=nnx.Rngs(jax.random.key(settings.seed, impl="rbg")),
    )
    for _, layer in nnx.iter_modules(model):
        if isinstance(layer, nnx.Dropout):
            layer.rate *= recipe.dropout
    boxes = jaxbox.optim.find_boxes(model)
    optimizer = jaxbox.optim.for_boxes(
        boxes,
        optax.chain(
            optax.add_decayed_weights(settings.weight_decay, mask=jaxbox.optim.decay_mask(boxes)),
            optax.adam(optax.cosine_decay_schedule(recipe.learning_rate, steps)),
        ),
        box_l2=settings.box_l2,
        step_scale=settings.box_step_scale,
    )
    return Trainer(model, optimizer, weights)


def _train(
    settings: Settings,
    dataset: DataSet,
    recipe: Recipe,
    steps: int,
    trainer: Trainer,
    state: TrainState,
    checkpoints: Checkpoints,
    log: RunLog,
) -> TrainState:
    """Trains until the end or Ctrl-C; scores, records and saves at the end of each epoch."""
    per_epoch = _steps_per_epoch(recipe, dataset)
    step = int(state.step)
    batches = read_ahead(training_batches(dataset.train, recipe.batch_size, settings.seed), step)
    scores: Scores | None = None
    with (
        _Interrupts() as interrupts,
        tqdm(
            total=steps * recipe.batch_size,
            initial=step * recipe.batch_size,
            unit="img",
            desc=settings.model,
            disable=None,
        ) as bar,
    ):
        bar.set_postfix_str("compiling")
        while step < steps and not interrupts.pending:
            state = trainer.step(state, next(batches))
            step += 1
            since_epoch = (step - 1) % per_epoch + 1
            if step % 10 == 0 or step == steps:
                bar.update(step * recipe.batch_size - bar.n)
                bar.set_postfix(_postfix(float(state.epoch_loss) / since_epoch, scores))
            if since_epoch == per_epoch or step == steps:
                scores = trainer.evaluate(
                    state, read_ahead(evaluation_batches(dataset.val, recipe.batch_size))
                )
                loss = float(state.epoch_loss) / since_epoch
                if not np.isfinite(loss):
                    raise RunError(
                        f"the loss is {loss} after step {step}; lower --learning-rate and start "
                        "again with another --out"
                    )
                state = state._replace(epoch_loss=jax.numpy.zeros_like(state.epoch_loss))
                log.add(_record(step, step / per_epoch, loss, scores, dataset))
                checkpoints.save(state)
        checkpoints.save(state)
    return state


class _Interrupts:
    """While entered, Ctrl-C asks for a stop after the current step; pressed twice it stops now."""

    pending = False

    def __enter__(self) -> "_Interrupts":
        self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.pending:
            raise KeyboardInterrupt
        self.pending = True


def _postfix(loss: float, scores: Scores | None) -> dict[str, str]:
    shown = {"loss": f"{loss:.3f}"}
    if scores is not None:
        shown["mIoU"] = f"{scores.mean_iou:.3f}"
    return shown


def _record(
    step: int, epoch: float, loss: float, scores: Scores, dataset: DataSet
) -> dict[str, Any]:
    return {
        "step": step,
        "epoch": epoch,
        "loss": loss,
        "mean_iou": scores.mean_iou,
        "pixel_accuracy": scores.pixel_accuracy,
        "iou": dict(zip(dataset.val.classes.names, scores.iou.tolist(), strict=True)),
    }


def _write_pictures(out: Path, dataset: DataSet, trainer: Trainer, state: TrainState) -> None:
    records = read_records(out)
    if records:
        draw_curves(records).savefig(out / "curves.png", dpi=120)
        print(f"held-out mean IoU {records[-1]['mean_iou']:.3f} after step {records[-1]['step']}")
    # Spread over the data set, since neighbours may be frames of one film.
    indices = np.linspace(0, len(dataset.val) - 1, min(_SAMPLES_DRAWN, len(dataset.val)))
    samples = [dataset.val[index] for index in indices.round().astype(int).tolist()]
    images = np.stack([normalize(sample)["image"] for sample in samples])
    predictions = list(np.asarray(trainer.predict(state, jax.numpy.asarray(images))))
    draw_predictions(samples, predictions, dataset.val.classes).savefig(
        out / "predictions.png", dpi=100
    )
    before, after = (box_layers(trainer.model(each)) for each in (trainer.initial, state))
    if after:
        plots.draw_before_and_after(before, after).savefig(out / "boxes.png", dpi=100)
    print(f"pictures, metrics and checkpoints are in {out}")


if __name__ == "__main__":
    sys.exit(main())
