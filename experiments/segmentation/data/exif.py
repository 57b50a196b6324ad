"""The orientation of a picture: how it must be turned to be seen as it was taken."""

from typing import Final, Literal

_BYTE_ORDERS: Final[dict[bytes, Literal["little", "big"]]] = {b"II": "little", b"MM": "big"}
_ORIENTATION = 0x0112
_ENTRY_SIZE = 12  # bytes: tag 2, type 2, count 4, value 4
UPRIGHT: Final = 1
"""The orientation of a picture whose pixels are stored as they are seen."""


def orientation(exif: bytes) -> int:
    """The orientation in EXIF data, or in the TIFF file whose form such data have.

    Args:
      exif: the data, from their byte order mark on.

    Returns:
      A number from 2 to 8 if the picture must be turned or mirrored; `UPRIGHT` otherwise, also if
      the data say nothing of the orientation or are damaged.
    """
    order = _BYTE_ORDERS.get(exif[:2])
    if order is None:
        return UPRIGHT
    start = int.from_bytes(exif[4:8], order)
    count = int.from_bytes(exif[start : start + 2], order)
    for number in range(count):
        first = start + 2 + number * _ENTRY_SIZE
        entry = exif[first : first + _ENTRY_SIZE]
        if int.from_bytes(entry[:2], order) == _ORIENTATION:
            value = int.from_bytes(entry[8:10], order)
            return value if 2 <= value <= 8 else UPRIGHT
    return UPRIGHT
