"""A lock on a run's directory, which ends with the process that holds it, however that ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from experiments.common.program import UserError

LOCK = ".lock"
"""The name of the lock's file in a run's directory."""


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Locks a run's directory, which has to exist, until the context ends.

    Raises:
      UserError: another process has locked it.
      OSError: the directory cannot be written.
    """
    path = directory / LOCK
    file = _open_locked(path)
    try:
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # while it is still locked, or it might be that of another process
        file.close()


def _open_locked(path: Path) -> IO[str]:
    """The file with the lock on it; the system releases the lock when the file is closed."""
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read(20)
            file.close()
            raise UserError(
                f"{path.parent} is in use by another process"
                f"{f' (number {holder})' if holder.isdigit() else ''}; wait until it ends, or "
                "choose another --out"
            ) from error
        if _is_same_file(file, path):
            return file
        file.close()  # The process that held the lock has removed the file in the meantime.


def _is_same_file(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
