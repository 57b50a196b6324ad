"""Reading files that users put somewhere, whatever they are."""

import errno
from pathlib import Path


def read_file(path: Path) -> bytes:
    """The content of a file.

    Raises:
      OSError: it cannot be read, or it is a pipe or a device, of which reading may never end.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "it is a pipe or a device", str(path))
    return path.read_bytes()
