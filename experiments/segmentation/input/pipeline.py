"""The input pipeline: from a source of samples to batches for a network."""

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
from experiments.segmentation.input.normalization import IMAGENET
from experiments.segmentation.input.worker import prepare_worker

# The normalised value of each of 256 levels in each channel; a look-up is faster than computing.
_NORMALIZED = IMAGENET.levels()
_SEEDS = 2**32  # the number of seeds that grain's shuffle distinguishes


class Batch(TypedDict):
    """The input of a training or evaluation step.

    Attributes:
      image: `(N, H, W, 3)` float32, normalised.
      label: `(N, H, W)` int32 classes; void is `VOID`.
    """

    image: NDArray[np.float32]
    label: NDArray[np.int32]


def normalize(sample: Sample) -> Batch:
    """Converts a sample for networks: the image to `(x / 255 - mean) / std`, the label to int32."""
    image = cv2.LUT(np.ascontiguousarray(sample["image"]), _NORMALIZED)
    return Batch(image=np.asarray(image, np.float32), label=sample["label"].astype(np.int32))


@dataclass(frozen=True)
class Shard:
    """The part of every batch that a process loads: the `index`-th of `count` equal parts.

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

    `dataset[step]` depends on the arguments and `step` alone, so training resumes exactly by
    continuing at the next step. Each epoch has an order of its own and every sample once; a batch
    may span two epochs, so all batches are full.

    Args:
      source: the samples.
      batch_size: the number of samples in a batch, in all processes together.
      seed: the seed of order and augmentation, 0 to 2**32 - 1.
      augmentation: the limits of random changes, which are drawn anew each epoch.
      shard: the part of each batch to load. All parts one after the other are, bit by bit, the
        batch that a single process would load.

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
    """Every sample once, in order and without augmentation.

    The last batch is padded with black images whose labels are all void, so that all batches have
    one shape and the evaluation compiles once. All shards have the same number of batches.

    Args:
      source: the samples.
      batch_size: the number of samples in a batch, in all processes together.
      shard: the part of each batch to load.

    Returns:
      A dataset of `Batch` with `batch_size / shard.count` samples each.

    Raises:
      ValueError: `source` is empty, or `batch_size` is not allowed or not divisible by
        `shard.count`.
    """
    part_size = _part_size(source, batch_size, shard)
    return _batch(grain.MapDataset.source(_Padded(source, batch_size)), part_size, shard)


def read_ahead(
    dataset: grain.MapDataset, step: int = 0, workers: int = 0, threads: int = 4
) -> Generator[Batch]:
    """Reads a dataset from a step on, and prepares the next elements meanwhile.

    The result does not depend on how many workers or threads prepare it. Threads suffice where most
    of the work is done by OpenCV and NumPy, which release the interpreter lock; workers also share
    the rest, but take a few seconds to start and copy each batch once more.

    Args:
      dataset: a result of `training_batches` or `evaluation_batches`.
      step: the index of the first element.
      workers: the number of processes that prepare elements, each one at a time and at most three
        ahead. They end when the generator is closed or deleted, or when this process ends in any
        way. The program must not start anything when it is imported. 0 uses threads instead.
      threads: the number of elements that are prepared at a time without workers.

    Returns:
      A generator of `dataset[step]`, `dataset[step + 1]`, and so on. It raises what reading a
      sample raises.

    Raises:
      ValueError: `step` or `workers` is negative, or `threads` is not positive.
    """
    if step < 0 or workers < 0 or threads < 1:
        raise ValueError(
            f"step must be >= 0, workers >= 0 and threads >= 1, got {step}, {workers} and {threads}"
        )
    cv2.setNumThreads(0)  # or each thread would start as many again for every picture
    if workers == 0:
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
        return _closing(iter(dataset[step:].to_iter_dataset(options)))
    # Grain reads its absl flags, which raises an error in a program that has not parsed any flags.
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
        # An exception that ended the iterator keeps it, and its workers' semaphores, in a cycle of
        # references. multiprocessing warns if these are collected while it starts other workers.
        gc.collect()


def class_frequencies(source: Source, most: int | None = None) -> NDArray[np.float64]:
    """The share of each class among the pixels of a source that are not void.

    Args:
      source: the samples.
      most: the largest number of labels to read, evenly spread over the source; all by default, and
        all if those are void.

    Returns:
      The frequencies, `(classes,)`, whose sum is 1.

    Raises:
      ValueError: every pixel is void, or `most` is less than 1.
    """
    if most is not None and most < 1:
        raise ValueError(f"most must be at least 1, got {most}")
    for step in (-(-len(source) // most) if most else 1, 1):
        counts = _class_counts(source, range(0, len(source), step))
        if counts.any():
            return counts / counts.sum()
    raise ValueError("source has no pixel that is not void")


def _class_counts(source: Source, indices: range) -> NDArray[np.int64]:
    """The number of pixels of each class in some of a source's labels."""
    counts = np.zeros(VOID + 1, np.int64)
    for index in indices:
        counts += np.bincount(source.label(index).ravel(), minlength=VOID + 1)
    return counts[: len(source.classes)]


class _Padded:
    """A source, padded with void samples so that all batches are full."""

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
    """The number of samples of each batch that the shard has."""
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
    # A batch is `count` consecutive parts, so a shard's parts are every `count`-th.
    return dataset.map(normalize).batch(part_size, drop_remainder=True)[shard.index :: shard.count]
