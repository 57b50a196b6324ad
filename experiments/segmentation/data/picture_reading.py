"""Reading picture files as 8-bit RGB, and the pixels of label files as they are stored."""

import io
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from experiments.common.files import read_file
from experiments.segmentation.data.errors import DataError
from experiments.segmentation.data.exif import UPRIGHT, orientation
from experiments.segmentation.data.jpeg import JPEG_START, reaches_its_end

PNG_START = b"\x89PNG\r\n\x1a\n"
_EXIF_START = b"Exif\0\0"  # which Pillow puts before EXIF data
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # TIFF and BigTIFF
# Cameras have sensors of 10, 12 or 14 bits. In a file of 16 bits, values that need no more are most
# likely theirs, and the upper 8 bits would be nearly black.
_LEAST_HIGHEST_VALUE = 1 << 14


def read_image(path: Path) -> NDArray[np.uint8]:
    """The pixels of a picture file as the picture is seen, `(H, W, 3)` 8-bit RGB.

    The EXIF orientation is obeyed. Pictures of 16 bits are reduced to their upper 8.

    Raises:
      DataError: the file cannot be read or decoded, or has signed or floating numbers, or its
        upper 8 bits are not the picture.
    """
    pixels, _ = _read_rgb(path)
    return pixels


def read_image_of_pair(path: Path) -> NDArray[np.uint8]:
    """The pixels of a picture file whose label is another file, `(H, W, 3)` 8-bit RGB.

    A label says nothing of an orientation. Whether it belongs to the picture as it is stored or as
    it is seen depends on the program that it was drawn with, so such pictures are refused.

    Raises:
      DataError: see `read_image`; also if the picture has an EXIF orientation.
    """
    pixels, exif = _read_rgb(path, cv2.IMREAD_IGNORE_ORIENTATION)
    _check_upright(path, exif)
    return pixels


def decode_label(path: Path, data: bytes, *, color: bool) -> NDArray[np.uint8]:
    """The pixels of a label file that has 8 bits in each channel.

    Args:
      path: the file, for messages.
      data: its content.
      color: whether to give RGB, `(H, W, 3)`; otherwise the values of grey pixels, `(H, W)`.

    Raises:
      DataError: the file cannot be decoded, or has an EXIF orientation.
    """
    flags = cv2.IMREAD_COLOR_RGB if color else cv2.IMREAD_UNCHANGED
    pixels, exif = _decode(path, data, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    _check_upright(path, exif)
    return np.asarray(pixels, np.uint8)


def decode_palette_label(path: Path, data: bytes) -> NDArray[np.uint8]:
    """The palette indices of a label file that is a PNG with a palette, `(H, W)`.

    OpenCV gives their colours only.

    Args:
      path: the file, for messages.
      data: its content.

    Raises:
      DataError: the file cannot be decoded, or has an EXIF orientation.
    """
    try:
        picture = Image.open(io.BytesIO(data))
        indices = np.asarray(picture, np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: truncated or not a PNG file ({error}); fetch it again") from error
    _check_upright(path, picture.info.get("exif", b"").removeprefix(_EXIF_START))
    return indices


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
      DataError: it cannot be read.
    """
    try:
        return read_file(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore it") from error


def _read_rgb(path: Path, flags: int = 0) -> tuple[NDArray[np.uint8], bytes]:
    """The pixels of a picture file, and what `_decode` gives of its EXIF data."""
    data = read_bytes(path)
    flags |= cv2.IMREAD_ANYDEPTH
    pixels, exif = _decode(path, data, flags | cv2.IMREAD_COLOR_RGB)
    if pixels.dtype == np.uint16:
        # In the order RGB, OpenCV decodes TIFF files of 16 bits as black.
        bgr, _ = _decode(path, data, flags | cv2.IMREAD_COLOR)
        pixels = _upper_8_bits(path, bgr[..., ::-1])
    if pixels.dtype != np.uint8:
        raise DataError(
            f"{path}: has pixels of the type {pixels.dtype}, of which no number is known to be "
            "white; scale them and save it with 8 bits a channel"
        )
    return np.asarray(pixels, np.uint8), exif


def _decode(path: Path, data: bytes, flags: int) -> tuple[np.ndarray, bytes]:
    """The pixels of a file, and its EXIF data or, since it has their form, a whole TIFF file."""
    decoded = None
    try:
        if _is_whole(data):
            decoded = cv2.imdecodeWithMetadata(np.frombuffer(data, np.uint8), flags=flags)
    except cv2.error as error:
        if "CV_IO_MAX_IMAGE" in str(error):
            raise DataError(
                f"{path}: has more than the 2**30 pixels that OpenCV decodes, if it is whole; make "
                "it smaller or cut it into parts, or fetch it again"
            ) from error
    if decoded is None or decoded[0] is None:
        raise DataError(
            f"{path}: empty, truncated or not a PNG or JPEG (or BMP, TIFF, WebP) file; fetch it "
            "again"
        )
    pixels, kinds, metadata = decoded
    if data.startswith(_TIFF_STARTS):
        return pixels, data
    parts = dict(zip(kinds, metadata, strict=True))
    return pixels, np.asarray(parts.get(cv2.IMAGE_METADATA_EXIF, ()), np.uint8).tobytes()


def _check_upright(path: Path, exif: bytes) -> None:
    found = orientation(exif)
    if found != UPRIGHT:
        raise DataError(
            f"{path}: has the EXIF orientation {found}, so its pixels are not stored as they are "
            "seen, and picture and label may not fit; save both upright and without orientation"
        )


def _is_whole(data: bytes) -> bool:
    """Whether a file is not empty and no JPEG that ends too early; OpenCV refuses all others."""
    return bool(data) and (not data.startswith(JPEG_START) or reaches_its_end(data))


def _upper_8_bits(path: Path, pixels: NDArray[np.uint16]) -> NDArray[np.uint8]:
    highest = int(pixels.max())
    if 0 < highest < _LEAST_HIGHEST_VALUE:
        raise DataError(
            f"{path}: is a 16-bit file with values of {highest.bit_length()} bits (at most "
            f"{highest}), which would be nearly black; scale them and save it with 8 bits a channel"
        )
    return np.asarray(pixels >> 8, np.uint8)
