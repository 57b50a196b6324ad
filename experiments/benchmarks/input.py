"""Times the input pipeline: how many images it loads, augments and batches per second.

Two sources are read: PNG files twice as high and wide as the images (as Cityscapes' are), drawn
into a temporary directory, and synthetic scenes, drawn when they are read. Each is read

- "at once": in the loop that uses the batches;
- with 1 and with 2 threads that read ahead;
- with 1 and with 2 worker processes.

In each round every one of these runs once from its start; figures are medians over the rounds, from
the first batch to the last. With --model the training step of that network is timed in the same
rounds, on the default device and on one batch that is there already: if loading is faster than
training, the device does not wait.

Prints a table and writes JSON.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import cv2
import jax
import numpy as np
import optax
import tyro
from flax import nnx

import jaxbox
from experiments.common import report
from experiments.common.command_line import MOST_ROUNDS, check_whole, read_settings
from experiments.common.image_size import parse_size
from experiments.common.memory import check_fits
from experiments.common.program import UserError
from experiments.common.timing import take_turns
from experiments.segmentation.data.cityscapes import CITYSCAPES
from experiments.segmentation.data.classes import VOID, ClassSet
from experiments.segmentation.data.paired_images import PairedImages
from experiments.segmentation.data.picture_files import files_by_name
from experiments.segmentation.data.source import Size, Source
from experiments.segmentation.data.synthetic import SyntheticStreets
from experiments.segmentation.input.augmentation import Augmentation
from experiments.segmentation.input.pipeline import Batch, read_ahead, training_batches
from experiments.segmentation.training.trainer import Trainer
from jaxbox.models import NETWORKS

_PAPER = Augmentation(flip=0.5, rotation=7.5, scale=0.12)
# Label files hold the numbers of classes, not Cityscapes' values.
_COUNT = len(CITYSCAPES)
_CLASSES = ClassSet(
    CITYSCAPES.names,
    CITYSCAPES.colors,
    codes=(*range(_COUNT), *(None,) * (VOID - _COUNT), VOID),
)

_MOST_FILES = 10**6
_BYTES_OF_PIXEL = 3 * 4 + 4  # RGB and label, 32 bits each
_BYTES_DRAWN = 3 + 1

type Rate = Callable[[], float]
"""Runs once and returns the images per second."""


@dataclass(frozen=True)
class Settings:
    """Times the input pipeline."""

    size: str = "512x1024"
    """Size of the images, HEIGHTxWIDTH in pixels; files are twice as high and wide."""
    batch_size: int = 4
    """Number of images in a batch."""
    batches: int = 8
    """Number of batches that a run reads after its first."""
    files: int = 8
    """Number of files to draw, which are read repeatedly."""
    rounds: int = 3
    """Number of times that each way to read is timed."""
    model: Annotated[
        str | None, tyro.conf.arg(help=f"Also time training one of {', '.join(NETWORKS)}.")
    ] = None
    out: Path = Path("runs/bench_input.json")
    """JSON file for the figures."""


@dataclass(frozen=True)
class Reader:
    """A way to read batches.

    Attributes:
      name: the name in tables.
      workers: the number of worker processes.
      threads: the number of threads that read ahead; with neither workers nor threads, batches are
        read in the loop that uses them.
    """

    name: str
    workers: int
    threads: int


_READERS = (
    Reader("at once", workers=0, threads=0),
    Reader("1 thread", workers=0, threads=1),
    Reader("2 threads", workers=0, threads=2),
    Reader("1 worker", workers=1, threads=0),
    Reader("2 workers", workers=2, threads=0),
)


@dataclass(frozen=True)
class Measurement:
    """A line of the table: median, slowest and fastest run, in images per second."""

    name: str
    images_per_second: float
    slowest: float
    fastest: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program."""
    settings = read_settings(Settings, arguments, description=__doc__)
    size = parse_size("--size", settings.size, example="512x1024")
    _check(settings, size)
    with tempfile.TemporaryDirectory() as directory:
        _run(settings, size, Path(directory))


def _check(settings: Settings, size: Size) -> None:
    for name in ("batch_size", "batches", "files"):
        check_whole(f"--{name.replace('_', '-')}", getattr(settings, name), 1, _MOST_FILES)
    check_whole("--rounds", settings.rounds, 1, MOST_ROUNDS)
    # Files have four times the pixels, and each core draws one of them.
    images = max(settings.batch_size * _BYTES_OF_PIXEL, 4 * report.cores() * _BYTES_DRAWN)
    check_fits(size[0] * size[1] * images, "a batch of --batch-size images of --size")
    if settings.model is not None:
        if settings.model not in NETWORKS:
            raise UserError(f"--model must be one of {', '.join(NETWORKS)}; got {settings.model!r}")
        if size[0] % 8 or size[1] % 8:
            raise UserError(f"--size must be multiples of 8 for --model; got {settings.size!r}")
    report.make_writable(settings.out)


def _run(settings: Settings, size: Size, directory: Path) -> None:
    _draw_files(directory, size, settings.files)
    sources: dict[str, Source] = {
        "files": PairedImages(
            files_by_name(directory / "images"),
            files_by_name(directory / "labels"),
            _CLASSES,
            size,
        ),
        "synthetic": SyntheticStreets("train", size),
    }
    rates: dict[str, Rate] = {
        f"{name}, {reader.name}": partial(_loading_rate, source, reader, settings)
        for name, source in sources.items()
        for reader in _READERS
    }
    if settings.model is not None:
        rates[f"training {settings.model}"] = _training_rate(settings, sources["synthetic"])
    taken = take_turns(rates, dict.fromkeys(rates, 1), settings.rounds)
    measurements = [
        Measurement(name, statistics.median(values), min(values), max(values))
        for name, values in taken.items()
    ]
    print(_table(measurements, settings))
    figures = {
        "size": size,
        "batch_size": settings.batch_size,
        "measurements": [asdict(measurement) for measurement in measurements],
    }
    report.write(settings.out, figures)


def _draw_files(directory: Path, size: Size, count: int) -> None:
    """Draws scenes into the folders `images` and `labels`, twice as high and wide as `size`."""
    scenes = SyntheticStreets("train", (2 * size[0], 2 * size[1]), length=count)

    def draw(index: int) -> None:
        scene = scenes[index]
        for folder, pixels in (("images", scene["image"][..., ::-1]), ("labels", scene["label"])):
            cv2.imwrite(str(directory / folder / f"{index}.png"), pixels)

    for folder in ("images", "labels"):
        (directory / folder).mkdir()
    with ThreadPoolExecutor(report.cores()) as threads:
        list(threads.map(draw, range(count)))


def _loading_rate(source: Source, reader: Reader, settings: Settings) -> float:
    """Reads batches of a source from its start; returns the images per second."""
    dataset = training_batches(source, settings.batch_size, 0, _PAPER)
    batches: Iterator[Batch]
    if reader.workers == reader.threads == 0:
        return _rate((dataset[step] for step in range(settings.batches + 1)), settings)
    with closing(read_ahead(dataset, 0, reader.workers, max(reader.threads, 1))) as batches:
        return _rate(batches, settings)


def _rate(batches: Iterator[Batch], settings: Settings) -> float:
    next(batches)
    start = time.perf_counter()
    for _ in range(settings.batches):
        next(batches)
    return settings.batches * settings.batch_size / (time.perf_counter() - start)


def _training_rate(settings: Settings, source: Source) -> Rate:
    """Compiles the training step of the network; the result runs it on one batch repeatedly."""
    assert settings.model is not None
    model = jaxbox.models.create(
        settings.model,
        num_classes=len(source.classes),
        image_size=source.size,
        # XLA compiles this generator many times faster than JAX's default one.
        rngs=nnx.Rngs(jax.random.key(0, impl="rbg")),
    )
    optimizer = jaxbox.optim.constrain(optax.adam(1e-3), model)
    trainer = Trainer(model, optimizer, np.ones(len(source.classes)))
    batch = jax.device_put(training_batches(source, settings.batch_size, 0, _PAPER)[0])
    state = jax.block_until_ready(trainer.step(trainer.initial, batch))

    def rate() -> float:
        nonlocal state
        start = time.perf_counter()
        for _ in range(settings.batches):
            state = trainer.step(state, batch)
        jax.block_until_ready(state)
        return settings.batches * settings.batch_size / (time.perf_counter() - start)

    return rate


def _table(measurements: Sequence[Measurement], settings: Settings) -> str:
    width = max(len(measurement.name) for measurement in measurements)
    rows = [
        f"images per second at {settings.size}, batches of {settings.batch_size}, "
        f"{report.cores()} cores; medians of {settings.rounds} rounds",
        f"{'':{width}}{'median':>10}{'slowest':>10}{'fastest':>10}",
    ]
    for m in measurements:
        figures = (m.images_per_second, m.slowest, m.fastest)
        rows.append(f"{m.name:{width}}" + "".join(f"{figure:>10.1f}" for figure in figures))
    return "\n".join(rows)
