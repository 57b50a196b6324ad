"""The orientation of a picture: how it must be turned to be seen as it was taken."""

from typing import Final, Literal

_BYTE_ORDERS: Final[dict[bytes, Literal["little", "big"]]] = {b"II": "little", b"MM": "big"}
_ORIENTATION = 0x0112
# The bytes of an offset and of the number of entries. An entry is its tag and type, 2 bytes each,
# a count and a value, as long as offsets both.
_SIZES: Final = {42: (4, 2), 43: (8, 8)}  # TIFF, and BigTIFF, whose offset stands 4 bytes later
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

    def number(start: int, size: int) -> int:
        return int.from_bytes(exif[start : start + size], order)

    offset_size, count_size = _SIZES.get(number(2, 2), _SIZES[42])
    start = number(offset_size, offset_size)
    first = start + count_size
    entry_size = 4 + 2 * offset_size
    entries = min(number(start, count_size), max(0, len(exif) - first) // entry_size)
    for entry in range(first, first + entries * entry_size, entry_size):
        if number(entry, 2) == _ORIENTATION:
            value = number(entry + 4 + offset_size, 2)
            return value if 2 <= value <= 8 else UPRIGHT
    return UPRIGHT
