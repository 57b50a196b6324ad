"""Whether the data of a JPEG file go on to the end of its picture."""

import re
from typing import Final

JPEG_START: Final = b"\xff\xd8\xff"
_END = 0xD9
# A byte 0xFF and a code. 0xFF00 and the restart marks 0xFFD0 to 0xFFD7 belong to the pixels' data,
# and 0xFF before 0xFF is padding. A pattern that begins with a fixed byte is searched for fastest.
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
# Frames, tables and scans; application data; comments.
_SEGMENTS = frozenset({*range(0xC0, 0xD0), *range(0xDA, 0xF0), 0xFE})


def reaches_its_end(data: bytes) -> bool:
    """Whether a JPEG file holds the end mark of its first picture.

    Decoders fill the rest of a truncated picture with grey if other data follow it. Data behind the
    end mark are allowed: phones append films and second pictures there. End marks inside a segment
    do not count: they belong to a preview.

    Args:
      data: the file's content.
    """
    position = len(JPEG_START) - 1
    while found := _MARKER.search(data, position):
        (code,) = found[1]
        if code == _END:
            return True
        if code not in _SEGMENTS:
            return False  # Decoders refuse such a marker; it is found in data that follow a cut.
        length = int.from_bytes(data[found.end() : found.end() + 2])
        position = found.end() + length
    return False
