"""Five kinds of context blocks in the same ENet: what they cost and how well they segment.

The dilated convolutions of ENet's eight dilated bottlenecks are as they are, or replaced by
`jaxbox.surgery.replace_convs`: boxes (the paper's box block), DCLS, octave convolution or DO-Conv.
Everything else is the same, and so is the budget: batches, learning rate, images and seed. Prints a
table and writes it with --out.

Parameters and multiply-adds are counted for one image. Times are of one image in the form for
inference, medians of rounds in which each network runs once; only their ratios mean much.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import tyro
from flax import nnx
from tqdm import tqdm

from jaxbox import models, optim, surgery
from jaxbox.models.cost import Cost, cost
from jaxbox.models.inference import for_inference
from segmentation.datasets import DataSet, open_dataset
from segmentation.errors import DataError
from segmentation.iou import Scores
from segmentation.memory import keep_freed_memory
from segmentation.pipeline import (
    class_frequencies,
    evaluation_batches,
    read_ahead,
    training_batches,
)
from segmentation.training import Trainer, class_weights

BLOCKS: dict[str, surgery.Variant | None] = {
    "dilated": None,
    "box": "box",
    "DCLS": "dcls",
    "octave": "octave",
    "DO-Conv": "doconv",
}

_LABELS_READ_FOR_WEIGHTS = 400


@dataclass(frozen=True)
class Settings:
    """Compares context blocks in ENet."""

    data: str = "synthetic"
    """synthetic (generated, no download), camvid:DIR, or cityscapes:DIR."""
    size: tuple[int, int] | None = None
    """Height and width of the images, divisible by 8. Default: the data set's usual size."""
    steps: int = 256
    """Batches that each network is trained on; 0 leaves training out."""
    batch_size: int = 8
    """Images in a batch."""
    learning_rate: float = 2e-3
    """Adam's at the start; it falls to zero along a cosine."""
    weight_decay: float = 2e-4
    """Strength of the L2 penalty on everything but boxes and positions."""
    rounds: int = 9
    """How often each network is timed; 0 leaves the times out."""
    seed: int = 0
    """Of the initial parameters, the order of the images, dropout and generated scenes."""
    out: Path | None = None
    """File for the table."""


class Row(NamedTuple):
    """What is known of a network; `None` for what was left out."""

    cost: Cost
    milliseconds: float | None
    mean_iou: float | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns the exit code."""
    settings = tyro.cli(
        Annotated[Settings, tyro.conf.arg(name="")], args=arguments, description=__doc__
    )
    keep_freed_memory()
    try:
        _check(settings)
        dataset = open_dataset(settings.data, settings.size, settings.seed)
    except (ValueError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    times = _time(settings, dataset) if settings.rounds else {}
    rows = {}
    for name in BLOCKS:
        model = create(name, dataset, settings.seed)
        scores = _train(settings, dataset, name, model) if settings.steps else None
        rows[name] = Row(
            cost(model, dataset.size), times.get(name), None if scores is None else scores.mean_iou
        )
    text = table(rows)
    print(text)
    if settings.out is not None:
        settings.out.parent.mkdir(parents=True, exist_ok=True)
        settings.out.write_text(f"{text}\n")
    return 0


def create(name: str, dataset: DataSet, seed: int) -> models.SegmentationNetwork:
    """Builds ENet with a kind of context blocks."""
    rngs = nnx.Rngs(jax.random.key(seed, impl="rbg"))
    model = models.create("enet", len(dataset.train.classes), dataset.size, rngs=rngs)
    variant = BLOCKS[name]
    return model if variant is None else surgery.replace_convs(model, variant, rngs=rngs)


def table(rows: dict[str, Row]) -> str:
    """A line for each kind of block; times are to the first's."""
    lines = [
        "| context block | parameters | multiply-adds (M) | ms | ratio | mean IoU |",
        "|---|---|---|---|---|---|",
    ]
    base = next(iter(rows.values())).milliseconds
    for name, row in rows.items():
        figures = [f"{row.cost.parameters:,}", f"{row.cost.true_multiply_adds / 1e6:,.1f}"]
        if row.milliseconds is None or base is None:
            figures += ["", ""]
        else:
            figures += [f"{row.milliseconds:.1f}", f"{row.milliseconds / base:.2f}"]
        figures.append("" if row.mean_iou is None else f"{row.mean_iou:.3f}")
        lines.append(f"| {name} | {' | '.join(figures)} |")
    return "\n".join(lines)


def _check(settings: Settings) -> None:
    if min(settings.steps, settings.rounds) < 0 or settings.batch_size < 1:
        raise ValueError("--steps and --rounds must be 0 or more, --batch-size 1 or more")
    if settings.size is not None and any(n < 8 or n % 8 for n in settings.size):
        raise ValueError(f"--size must be two positive multiples of 8; got {settings.size}")


def _time(settings: Settings, dataset: DataSet) -> dict[str, float]:
    """Median milliseconds of each network for one image."""
    image = jax.random.normal(jax.random.key(1, impl="rbg"), (1, *dataset.size, 3))
    runs = {name: _predictor(create(name, dataset, settings.seed), image) for name in BLOCKS}
    milliseconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(settings.rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            milliseconds[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(own) for name, own in milliseconds.items()}


def _predictor(model: models.SegmentationNetwork, image: jax.Array) -> Callable[[], jax.Array]:
    graph, state = nnx.split(for_inference(model))

    @jax.jit
    def predict(state: Any, image: jax.Array) -> jax.Array:
        return jnp.argmax(nnx.merge(graph, state)(image), axis=-1)

    jax.block_until_ready(predict(state, image))
    return partial(predict, state, image)


def _train(settings: Settings, dataset: DataSet, name: str, model: nnx.Module) -> Scores:
    mask = optim.decay_mask(optim.find_boxes(model), optim.find_positions(model))
    schedule = optax.cosine_decay_schedule(settings.learning_rate, settings.steps)
    decay = optax.add_decayed_weights(settings.weight_decay, mask=mask)
    optimizer = optim.for_model(model, optax.chain(decay, optax.adam(schedule)))
    weights = class_weights(class_frequencies(dataset.train, _LABELS_READ_FOR_WEIGHTS))
    trainer = Trainer(model, optimizer, weights)
    state = trainer.initial
    read = read_ahead(training_batches(dataset.train, settings.batch_size, settings.seed))
    batches = trainer.on_devices(read)
    for _ in tqdm(range(settings.steps), desc=name, unit="batch", disable=None):
        state = trainer.step(state, next(batches))
    held_out = read_ahead(evaluation_batches(dataset.val, settings.batch_size))
    return trainer.evaluate(state, trainer.on_devices(held_out))


if __name__ == "__main__":
    sys.exit(main())
