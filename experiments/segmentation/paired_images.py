"""A source of pictures and label pictures kept as pairs of files."""

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from segmentation.classes import ClassSet
from segmentation.errors import DataError
from segmentation.source import Sample, check_size

_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_PNG_FORMAT = slice(24, 26)  # bit depth and colour type in the first chunk
_PNG_GREY_8_BIT = bytes([8, 0])
_TRAILER = 64  # some cameras pad a JPEG behind its end mark


class PairedImages:
    """A source of pairs of files, one with the picture, one with the class of each pixel.

    Only the names are looked at here; the files are read when a sample is asked for.

    Args:
      images: the picture files (PNG or JPEG) by name.
      labels: the label files (PNG, 8-bit grey) by the same names.
      classes: what the values in the label files mean.
      size: `(H, W)` in pixels, to which pictures (area average) and labels (nearest) are resized.

    Raises:
      DataError: there are no pairs, or a file has no partner; when a sample is read: a file
        cannot be decoded, has a value outside the palette or a size other than its partner's.
      ValueError: `size` is not two positive numbers of pixels.
    """

    def __init__(
        self,
        images: Mapping[str, Path],
        labels: Mapping[str, Path],
        classes: ClassSet,
        size: tuple[int, int],
    ):
        check_size(size)
        for present, absent, kind, partner in (
            (images, labels, "image", "label"),
            (labels, images, "label", "image"),
        ):
            for name in sorted(present.keys() - absent.keys()):
                raise DataError(f"{present[name]}: {kind} without {partner}; add it or remove this")
        self.classes = classes
        self.size = size
        self._images = [images[name] for name in sorted(images)]
        self._labels = [labels[name] for name in sorted(images)]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        image, values = _read_image(self._images[index]), self._read_values(index)
        if image.shape[:2] != values.shape:
            raise DataError(
                f"{self._labels[index]}: label is {_format(values)} but its image is "
                f"{_format(image)}; export both at one size"
            )
        return Sample(image=self._resize(image, cv2.INTER_AREA), label=self._fit(values))

    def label(self, index: int) -> NDArray[np.uint8]:
        """The label of one sample without its image."""
        return self._fit(self._read_values(index))

    def _read_values(self, index: int) -> NDArray[np.uint8]:
        path = self._labels[index]
        values = _read_label(path)
        if values.max() >= len(self.classes.codes):
            raise DataError(
                f"{path}: label value {values.max()} is outside the palette "
                f"0..{len(self.classes.codes) - 1}; convert the label to this data set's values"
            )
        return values

    def _fit(self, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        # The exact variant samples at pixel centres, where the area average puts its pixels too.
        return self.classes.decode(self._resize(values, cv2.INTER_NEAREST_EXACT))

    def _resize(self, pixels: NDArray[np.uint8], interpolation: int) -> NDArray[np.uint8]:
        height, width = self.size
        return np.asarray(
            cv2.resize(pixels, (width, height), interpolation=interpolation), np.uint8
        )


def files_by_name(directory: Path, pattern: str, suffix: str = "") -> dict[str, Path]:
    """Finds files and names them by what they share with their partners.

    Args:
      directory: where to look; must exist.
      pattern: glob relative to it.
      suffix: the end of a file's stem that its partner has not.

    Returns:
      The files by their path relative to `directory`, without `suffix` and extension. Hidden files
      are left out.

    Raises:
      DataError: there is no such directory, no file in it matches, or two files share a name.
    """
    if not directory.is_dir():
        raise DataError(f"{directory}: no such directory; pass the root of the unpacked data set")
    found: dict[str, Path] = {}
    for path in sorted(directory.glob(pattern)):
        if path.name.startswith("."):
            continue
        name = str(path.relative_to(directory).with_suffix("")).removesuffix(suffix)
        if name in found:
            raise DataError(f"{path}: same name as {found[name].name}; remove one of the two")
        found[name] = path
    if not found:
        raise DataError(f"{directory}: no files {pattern}; unpack the data set there")
    return found


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore it") from error


def _is_complete(data: bytes) -> bool:
    """Whether a file ends as its format does: OpenCV fills what a truncated one lacks with grey."""
    if data.startswith(_PNG_START):
        return _PNG_END in data[-_TRAILER:]
    return data.startswith(_JPEG_START) and _JPEG_END in data[-_TRAILER:]


def _decode(path: Path, data: bytes, flags: int) -> NDArray[np.uint8]:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if _is_complete(data) else None
    if pixels is None:
        raise DataError(f"{path}: empty, truncated or not a PNG or JPEG file; fetch it again")
    return np.asarray(pixels, np.uint8)


def _read_image(path: Path) -> NDArray[np.uint8]:
    # A label has no orientation tag, so its picture's must not turn the picture either.
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return _decode(path, _read_bytes(path), flags)


def _read_label(path: Path) -> NDArray[np.uint8]:
    data = _read_bytes(path)
    # OpenCV would turn palette indices into colours and stretch 1, 2 and 4 bits to 0..255.
    if data.startswith(_PNG_START) and data[_PNG_FORMAT] != _PNG_GREY_8_BIT:
        raise DataError(f"{path}: label is not 8-bit grey; save class numbers as 8-bit grey PNG")
    if data.startswith(_JPEG_START):
        raise DataError(f"{path}: label is a JPEG, which changes class numbers; save it as PNG")
    return _decode(path, data, cv2.IMREAD_UNCHANGED)


def _format(pixels: NDArray[np.uint8]) -> str:
    return f"{pixels.shape[0]} x {pixels.shape[1]}"
