"""From a source to batches that a network takes."""

import gc
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypedDict

import cv2
import grain
import numpy as np
from absl import flags
from numpy.typing import NDArray

from experiments.segmentation.data.classes import VOID
from experiments.segmentation.data.source import Sample, Source
from experiments.segmentation.input.augmentation import Augmentation, RandomAugmentation
from experiments.segmentation.input.worker import prepare_worker

# The usual mean and deviation of natural images (ImageNet) for RGB in [0, 1].
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)
# What becomes of each of 256 levels in each channel: looking it up is many times faster.
_NORMALIZED = ((np.arange(256, dtype=np.float32) / 255)[:, None, None] - _MEAN) / _STD
_SEEDS = 2**32  # what grain's shuffle can tell apart


class Batch(TypedDict):
    """What a training or evaluation step takes.

    Attributes:
      image: `(N, H, W, 3)` float32, normalised.
      label: `(N, H, W)` int32 classes; void is `VOID`.
    """

    image: NDArray[np.float32]
    label: NDArray[np.int32]


def normalize(sample: Sample) -> Batch:
    """Turns one sample into what a network takes: image `(x / 255 - mean) / std`, label int32."""
    image = cv2.LUT(np.ascontiguousarray(sample["image"]), _NORMALIZED)
    return Batch(image=np.asarray(image, np.float32), label=sample["label"].astype(np.int32))


@dataclass(frozen=True)
class Shard:
    """Which part of every batch a process loads: of `count` equal parts in a row the `index`-th.

    Raises:
      ValueError: `index` is not from 0 to `count - 1`.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"index must be from 0 to count - 1, got index {self.index} and count {self.count}"
            )


def training_batches(
    source: Source,
    batch_size: int,
    seed: int,
    augmentation: Augmentation = Augmentation(),
    shard: Shard = Shard(),
) -> grain.MapDataset:
    """Endless shuffled, augmented training batches with random access.

    `dataset[step]` depends on the arguments and `step` alone, so training resumes exactly by going
    on at the next step. Each epoch has an order of its own and every sample once; a batch may span
    two epochs, so all are full.

    Args:
      source: the samples.
      batch_size: samples per batch, in all processes together.
      seed: 0 to 2**32 - 1.
      augmentation: random changes, drawn anew each epoch.
      shard: the part of each batch to load. All parts in a row are, to the bit, the batch that one
        process alone would load.

    Returns:
      A dataset of `Batch` with `batch_size / shard.count` samples each.

    Raises:
      ValueError: `source` is empty, `batch_size` or `seed` is not allowed, or `batch_size` is not
        divisible by `shard.count`.
    """
    part_size = _part_size(source, batch_size, shard)
    if not 0 <= seed < _SEEDS:
        raise ValueError(f"seed must be from 0 to 2**32 - 1, got {seed}")
    dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    dataset = dataset.random_map(RandomAugmentation(augmentation))
    return _batch(dataset, part_size, shard)


def evaluation_batches(source: Source, batch_size: int, shard: Shard = Shard()) -> grain.MapDataset:
    """Every sample once, in order and unchanged but for the normalisation.

    The last batch is filled up with black images whose labels are all void, so that each batch has
    one shape and the evaluation compiles once. All shards have as many batches.

    Args:
      source: the samples.
      batch_size: samples per batch, in all processes together.
      shard: the part of each batch to load.

    Returns:
      A dataset of `Batch` with `batch_size / shard.count` samples each.

    Raises:
      ValueError: `source` is empty, or `batch_size` is not allowed or not divisible by
        `shard.count`.
    """
    part_size = _part_size(source, batch_size, shard)
    return _batch(grain.MapDataset.source(_FilledUp(source, batch_size)), part_size, shard)


def read_ahead(
    dataset: grain.MapDataset, step: int = 0, workers: int = 0, threads: int = 4
) -> Generator[Batch]:
    """Reads a dataset from a step on, preparing the next elements meanwhile.

    What it yields does not depend on how many workers or threads prepare it. Threads suffice where
    most of the work is OpenCV's and NumPy's, which release the interpreter; workers also share the
    rest, at the price of a few seconds to start and of one more copy.

    Args:
      dataset: what `training_batches` or `evaluation_batches` returned.
      step: the first element wanted.
      workers: how many processes prepare elements, each one at a time and at most three ahead. They
        end when the generator is closed or deleted, or when this process ends in any way. The
        program must not start anything when it is imported. 0 uses threads of this process.
      threads: without workers, how many elements are prepared at a time.

    Returns:
      Yields `dataset[step]`, `dataset[step + 1]`, ...; what reading a sample raises is raised
      there.

    Raises:
      ValueError: `step` or `workers` is negative, or `threads` is not positive.
    """
    if step < 0 or workers < 0 or threads < 1:
        raise ValueError(
            f"step must be >= 0, workers >= 0 and threads >= 1, got {step}, {workers} and {threads}"
        )
    cv2.setNumThreads(0)  # each thread would start as many again for every picture
    if workers == 0:
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
        return _closing(iter(dataset[step:].to_iter_dataset(options)))
    # Grain reads its absl flags, which refuse to be read in a program that has not parsed any.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    one_at_a_time = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
    return _closing(
        iter(dataset[step:].to_iter_dataset(one_at_a_time).mp_prefetch(processes, prepare_worker))
    )


def _closing(batches: grain.DatasetIterator) -> Generator[Batch]:
    try:
        yield from batches
    finally:
        batches.close()
        # The exception that ended it keeps it in a cycle of references, with semaphores of workers:
        # multiprocessing warns if these are collected while it is busy with others.
        gc.collect()


def class_frequencies(source: Source, most: int | None = None) -> NDArray[np.float64]:
    """The share of each class among the pixels of a source that are not void.

    Args:
      source: the samples.
      most: how many labels to read at most, evenly spread over the source; all by default.

    Returns:
      `(classes,)`, summing to 1.

    Raises:
      ValueError: every pixel is void, or `most` is less than 1.
    """
    if most is not None and most < 1:
        raise ValueError(f"most must be at least 1, got {most}")
    counts = np.zeros(VOID + 1, np.int64)
    for index in range(0, len(source), -(-len(source) // most) if most else 1):
        counts += np.bincount(source.label(index).ravel(), minlength=VOID + 1)
    counts = counts[: len(source.classes)]
    if not counts.any():
        raise ValueError("source has no pixel that is not void")
    return counts / counts.sum()


class _FilledUp:
    """A source and as many void samples as full batches need."""

    def __init__(self, source: Source, batch_size: int):
        self._source = source
        self._length = -(-len(source) // batch_size) * batch_size

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        if index < len(self._source):
            return self._source[index]
        size = self._source.size
        return Sample(image=np.zeros((*size, 3), np.uint8), label=np.full(size, VOID, np.uint8))


def _part_size(source: Source, batch_size: int, shard: Shard) -> int:
    if len(source) == 0:
        raise ValueError("source must have at least one sample, got none")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if batch_size % shard.count:
        raise ValueError(
            f"batch_size must be divisible by the number of shards, got {batch_size} "
            f"and {shard.count}"
        )
    return batch_size // shard.count


def _batch(dataset: grain.MapDataset, part_size: int, shard: Shard) -> grain.MapDataset:
    # Parts follow each other in the order of samples: a shard's are every `count`-th.
    return dataset.map(normalize).batch(part_size, drop_remainder=True)[shard.index :: shard.count]
