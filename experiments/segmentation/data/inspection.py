"""Reading a whole source once, so that damaged samples are found before training starts."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from experiments.segmentation.data.classes import ClassSet
from experiments.segmentation.data.errors import DataError
from experiments.segmentation.data.source import Sample, Source


class GoodSamples:
    """The samples of a source that can be read, in their order.

    Args:
      source: the source with all samples.
      bad: the error of each sample that cannot be read, by its index.

    Attributes:
      left_out: the errors of the samples that are left out, in the order of the samples.
    """

    def __init__(self, source: Source, bad: dict[int, DataError]):
        self._source = source
        self._indices = [index for index in range(len(source)) if index not in bad]
        self.left_out = tuple(bad[index] for index in sorted(bad))

    @property
    def classes(self) -> ClassSet:
        """The classes that the labels name."""
        return self._source.classes

    @property
    def size(self) -> tuple[int, int]:
        """`(H, W)` of every sample, in pixels."""
        return self._source.size

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Sample:
        return self._source[self._indices[index]]

    def label(self, index: int) -> NDArray[np.uint8]:
        """The label of one sample without its image."""
        return self._source.label(self._indices[index])

    def original_label(self, index: int) -> NDArray[np.uint8]:
        """The label of one sample at the size at which the data set stores it."""
        return self._source.original_label(self._indices[index])


def find_bad_samples(source: Source) -> dict[int, DataError]:
    """Reads every sample and returns the errors of those that cannot be read.

    Args:
      source: the samples to read.

    Returns:
      The error of each sample that cannot be read, by its index, in ascending order.
    """

    def error(index: int) -> DataError | None:
        try:
            source[index]
        except DataError as error:
            return error
        return None

    cv2.setNumThreads(0)  # or each thread would start as many again for every picture
    with ThreadPoolExecutor() as threads:
        errors = tqdm(
            threads.map(error, range(len(source))),
            total=len(source),
            desc="checking files",
            unit="img",
            disable=None,
        )
        return {index: error for index, error in enumerate(errors) if error is not None}


def without_bad_samples(source: Source) -> GoodSamples:
    """Reads every sample and leaves out those that cannot be read.

    Args:
      source: the samples to read.

    Returns:
      The samples that can be read; the errors of the others are in the attribute `left_out`.

    Raises:
      DataError: no sample can be read; the message names each on a line of its own.
    """
    good = GoodSamples(source, find_bad_samples(source))
    if good.left_out and not len(good):
        raise DataError(describe_left_out(good.left_out, 0))
    return good


def describe_left_out(left_out: Sequence[Exception], kept: int) -> str:
    """A message: how many of all samples cannot be read, then each error on a line of its own.

    Args:
      left_out: the errors of the samples that cannot be read.
      kept: the number of samples that can be read.
    """
    count = len(left_out)
    lines = [f"{count} of {kept + count} samples cannot be read:", *map(str, left_out)]
    return "\n".join(lines)
