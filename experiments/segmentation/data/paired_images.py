"""A source of pairs of files, each a picture and its labels."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from experiments.segmentation.data.classes import ClassSet
from experiments.segmentation.data.errors import DataError
from experiments.segmentation.data.jpeg import JPEG_START
from experiments.segmentation.data.picture_reading import (
    PNG_START,
    decode_label,
    decode_palette_label,
    read_bytes,
    read_image_of_pair,
)
from experiments.segmentation.data.source import Sample, Size, check_size

_PNG_FORMAT = slice(24, 26)  # bit depth and colour type in the first chunk
_PNG_GREY_8_BIT = bytes([8, 0])
_PNG_PALETTE_8_BIT = bytes([8, 3])
_PNG_COLORS_8_BIT = (bytes([8, 2]), _PNG_PALETTE_8_BIT)  # RGB, and indices into a palette of RGB


class PairedImages:
    """A source of pairs of files: one is the picture, the other holds the class of each pixel.

    The constructor only looks at names; a file is opened when its sample is read. A file without a
    partner counts as a sample that cannot be read: see `without_bad_samples`.

    Args:
      images: the picture files by name.
      labels: the label files (PNG; 8-bit grey or palette indices, or RGB where the classes have no
        codes) by the same names.
      classes: what the values or colours in the label files mean.
      size: `(H, W)` in pixels, to which pictures (area average) and labels (nearest) are resized.

    Raises:
      DataError: when a sample is read whose files lack a partner, cannot be decoded, differ in
        size, have an EXIF orientation, or hold a value outside the palette.
      ValueError: `size` is not two positive numbers of pixels.
    """

    def __init__(
        self,
        images: Mapping[str, Path],
        labels: Mapping[str, Path],
        classes: ClassSet,
        size: Size,
    ):
        check_size(size)
        self.classes = classes
        self.size = size
        self._pairs = [
            _Pair(images.get(name), labels.get(name))
            for name in sorted(images.keys() | labels.keys())
        ]

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Sample:
        image_path, label_path = self._pairs[index].complete()
        image, label = read_image_of_pair(image_path), _read_label(label_path, self.classes)
        if image.shape[:2] != label.shape:
            raise DataError(
                f"{label_path}: label is {_format(label)} but its image is "
                f"{_format(image)}; export both at one size"
            )
        return Sample(image=self._resize(image, cv2.INTER_AREA), label=self._fit(label))

    def label(self, index: int) -> NDArray[np.uint8]:
        """The label of one sample without its image."""
        return self._fit(self.original_label(index))

    def original_label(self, index: int) -> NDArray[np.uint8]:
        """The label of one sample at the size of its file."""
        _, path = self._pairs[index].complete()
        return _read_label(path, self.classes)

    def _fit(self, label: NDArray[np.uint8]) -> NDArray[np.uint8]:
        # The exact variant samples at pixel centres, as the area average for images does.
        return self._resize(label, cv2.INTER_NEAREST_EXACT)

    def _resize(self, pixels: NDArray[np.uint8], interpolation: int) -> NDArray[np.uint8]:
        height, width = self.size
        return np.asarray(
            cv2.resize(pixels, (width, height), interpolation=interpolation), np.uint8
        )


class _Pair(NamedTuple):
    """The two files of a sample, one of which may be missing."""

    image: Path | None
    label: Path | None

    def complete(self) -> tuple[Path, Path]:
        """Both files; raises `DataError` if one is missing."""
        if self.image is None:
            raise DataError(f"{self.label}: label without image; add it or remove this")
        if self.label is None:
            raise DataError(f"{self.image}: image without label; add it (as PNG) or remove this")
        return self.image, self.label


def _read_label(path: Path, classes: ClassSet) -> NDArray[np.uint8]:
    """The class of each pixel of a label file."""
    data = read_bytes(path)
    if data.startswith(JPEG_START):
        raise DataError(f"{path}: label is a JPEG, which changes class numbers; save it as PNG")
    if not data.startswith(PNG_START):
        raise DataError(
            f"{path}: label is empty, truncated or not a PNG; fetch it again or save it as PNG"
        )
    png_format = data[_PNG_FORMAT]
    try:
        if classes.codes:
            if png_format == _PNG_PALETTE_8_BIT:
                return classes.decode(decode_palette_label(path, data))
            # OpenCV scales 1, 2 and 4 bits to 0..255.
            if png_format != _PNG_GREY_8_BIT:
                raise DataError(
                    f"{path}: label is not 8-bit grey; save class numbers as 8-bit grey PNG"
                )
            return classes.decode(decode_label(path, data, color=False))
        if png_format not in _PNG_COLORS_8_BIT:
            raise DataError(f"{path}: label is not 8-bit RGB; save class colours as 8-bit RGB PNG")
        return classes.decode_colors(decode_label(path, data, color=True))
    except ValueError as error:
        raise DataError(f"{path}: {error}; convert the label to this data set's values") from error


def _format(pixels: NDArray[np.uint8]) -> str:
    return f"{pixels.shape[0]} x {pixels.shape[1]}"
