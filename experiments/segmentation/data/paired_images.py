"""A source of pairs of files, each a picture and its labels."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from experiments.segmentation.data.classes import ClassSet
from experiments.segmentation.data.errors import DataError
from experiments.segmentation.data.source import Sample, Size, check_size

_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_PNG_FORMAT = slice(24, 26)  # bit depth and colour type in the first chunk
_PNG_GREY_8_BIT = bytes([8, 0])
_PNG_COLORS_8_BIT = (bytes([8, 2]), bytes([8, 3]))  # RGB, and indices into a palette of RGB
# A label has no orientation tag, so its picture's must not turn the picture either.
_READ_RGB = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_TRAILER = 64  # some cameras pad a JPEG behind its end mark


class PairedImages:
    """A source of pairs of files: one is the picture, the other holds the class of each pixel.

    The constructor only looks at names; a file is opened when its sample is read. A file without a
    partner counts as a sample that cannot be read: see `without_bad_samples`.

    Args:
      images: the picture files (PNG or JPEG) by name.
      labels: the label files (PNG; 8-bit grey, or RGB where the classes have no codes) by the same
        names.
      classes: what the values or colours in the label files mean.
      size: `(H, W)` in pixels, to which pictures (area average) and labels (nearest) are resized.

    Raises:
      DataError: when a sample is read whose files lack a partner, cannot be decoded, differ in
        size, or hold a value outside the palette.
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
        image, label = read_image(image_path), _read_label(label_path, self.classes)
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
            raise DataError(f"{self.image}: image without label; add it or remove this")
        return self.image, self.label


def files_by_name(directory: Path, pattern: str, suffix: str = "") -> dict[str, Path]:
    """Finds files, by the part of their name that they share with their partners.

    Args:
      directory: the directory to search; it must exist.
      pattern: the glob pattern of the files, relative to `directory`.
      suffix: the end of a file's stem that its partner does not have.

    Returns:
      The files by their path relative to `directory`, without `suffix` and extension. Hidden files
      are left out.

    Raises:
      DataError: there is no such directory, no file in it matches, or files share a name; the
        message names all of these, one on each line.
    """
    if not directory.is_dir():
        raise DataError(f"{directory}: no such directory; pass the root of the unpacked data set")
    found: dict[str, Path] = {}
    doubles = []
    for path in sorted(directory.glob(pattern)):
        if path.name.startswith("."):
            continue
        name = str(path.relative_to(directory).with_suffix("")).removesuffix(suffix)
        first = found.setdefault(name, path)
        if first != path:
            doubles.append(f"{path}: same name as {first.name}; remove one of the two")
    if doubles:
        raise DataError("\n".join(doubles))
    if not found:
        raise DataError(f"{directory}: no files {pattern}; unpack the data set there")
    return found


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore it") from error


def _is_complete(data: bytes) -> bool:
    """Whether a file has its end mark; OpenCV fills the rest of a truncated one with grey."""
    if data.startswith(_PNG_START):
        return _PNG_END in data[-_TRAILER:]
    return data.startswith(_JPEG_START) and _JPEG_END in data[-_TRAILER:]


def _decode(path: Path, data: bytes, flags: int) -> NDArray[np.uint8]:
    pixels = None
    # OpenCV raises an error if a file claims to have more pixels than it would allocate.
    with contextlib.suppress(cv2.error):
        if _is_complete(data):
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise DataError(f"{path}: empty, truncated or not a PNG or JPEG file; fetch it again")
    return np.asarray(pixels, np.uint8)


def read_image(path: Path) -> NDArray[np.uint8]:
    """The pixels of a picture file, `(H, W, 3)` 8-bit RGB.

    Raises:
      DataError: the file cannot be read or decoded.
    """
    return _decode(path, _read_bytes(path), _READ_RGB)


def _read_label(path: Path, classes: ClassSet) -> NDArray[np.uint8]:
    """The class of each pixel of a label file."""
    data = _read_bytes(path)
    if data.startswith(_JPEG_START):
        raise DataError(f"{path}: label is a JPEG, which changes class numbers; save it as PNG")
    is_png, png_format = data.startswith(_PNG_START), data[_PNG_FORMAT]
    try:
        if classes.codes:
            # OpenCV turns palette indices into colours and scales 1, 2 and 4 bits to 0..255.
            if is_png and png_format != _PNG_GREY_8_BIT:
                raise DataError(
                    f"{path}: label is not 8-bit grey; save class numbers as 8-bit grey PNG"
                )
            return classes.decode(_decode(path, data, cv2.IMREAD_UNCHANGED))
        if is_png and png_format not in _PNG_COLORS_8_BIT:
            raise DataError(f"{path}: label is not 8-bit RGB; save class colours as 8-bit RGB PNG")
        return classes.decode_colors(_decode(path, data, _READ_RGB))
    except ValueError as error:
        raise DataError(f"{path}: {error}; convert the label to this data set's values") from error


def _format(pixels: NDArray[np.uint8]) -> str:
    return f"{pixels.shape[0]} x {pixels.shape[1]}"
