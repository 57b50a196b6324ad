"""From a source to batches that a network takes."""

from collections.abc import Iterator, Sequence
from typing import Any, TypedDict

import cv2
import grain
import numpy as np
from numpy.typing import NDArray

from segmentation.augmentation import RandomHorizontalFlip
from segmentation.classes import VOID
from segmentation.source import Sample, Source

# The usual mean and deviation of natural images (ImageNet) for RGB in [0, 1].
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)
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
    image = sample["image"].astype(np.float32) / np.float32(255)
    return Batch(image=(image - _MEAN) / _STD, label=sample["label"].astype(np.int32))


def training_batches(source: Source, batch_size: int, seed: int) -> grain.MapDataset:
    """Endless shuffled, augmented training batches with random access.

    `dataset[step]` depends on the source, `batch_size`, `seed` and `step` alone, so training
    resumes exactly by going on at the next step. Each epoch has an order of its own and every
    sample once; a batch may span two epochs, so all are full.

    Args:
      source: the samples.
      batch_size: samples per batch.
      seed: 0 to 2**32 - 1.

    Returns:
      A dataset of `Batch`.

    Raises:
      ValueError: `source` is empty, or `batch_size` or `seed` is not allowed.
    """
    _check_batching(source, batch_size)
    if not 0 <= seed < _SEEDS:
        raise ValueError(f"seed must be from 0 to 2**32 - 1, got {seed}")
    dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    return dataset.random_map(RandomHorizontalFlip()).map(normalize).batch(batch_size)


def evaluation_batches(source: Source, batch_size: int) -> grain.MapDataset:
    """Every sample once, in order and unchanged but for the normalisation.

    The last batch is filled up with black images whose labels are all void, so that each batch has
    one shape and the evaluation compiles once.

    Args:
      source: the samples.
      batch_size: samples per batch.

    Returns:
      A dataset of `Batch`.

    Raises:
      ValueError: `source` is empty, or `batch_size` is not allowed.
    """
    _check_batching(source, batch_size)

    def stack(samples: Sequence[Batch]) -> Batch:
        missing = batch_size - len(samples)
        label = np.stack([sample["label"] for sample in samples])
        image = np.stack([sample["image"] for sample in samples])
        return Batch(
            image=np.pad(image, ((0, missing), (0, 0), (0, 0), (0, 0))),
            label=np.pad(label, ((0, missing), (0, 0), (0, 0)), constant_values=VOID),
        )

    return grain.MapDataset.source(source).map(normalize).batch(batch_size, batch_fn=stack)


def read_ahead(dataset: grain.MapDataset, step: int = 0, threads: int = 4) -> Iterator[Any]:
    """Reads a dataset from a step on, threads preparing the next elements meanwhile.

    Threads suffice since OpenCV and NumPy release the interpreter; worker processes would require
    absl's flags to be parsed, which a program without absl never does.

    Args:
      dataset: what `training_batches` or `evaluation_batches` returned.
      step: the first element wanted.
      threads: how many elements are prepared at a time.

    Returns:
      An iterator over `dataset[step]`, `dataset[step + 1]`, ...; what reading a sample raises
      is raised there.

    Raises:
      ValueError: `step` is negative or `threads` is not positive.
    """
    if step < 0 or threads < 1:
        raise ValueError(f"step must be >= 0 and threads >= 1, got {step} and {threads}")
    cv2.setNumThreads(0)  # each thread would start as many again for every picture
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(dataset[step:].to_iter_dataset(options))


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


def _check_batching(source: Source, batch_size: int) -> None:
    if len(source) == 0:
        raise ValueError("source must have at least one sample, got none")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
