"""The files that programs write: checked before any work, written whole, and never over others'.

A program replaces a file only if a program of this project wrote it. Pictures are recognised by a
mark in them, JSON by its names, and tables by their header.
"""

import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from experiments.common.json_files import dump_json, is_json_with
from experiments.common.program import UserError

_MARK = b"Software\0jaxbox"
_PNG_HEADER = 8 + 25  # the signature and the first chunk, which has to stay the first
_GIF_END = b";"
_PROBE = bytes(4096)
_TEMPORARY = ".writing-"


@dataclass(frozen=True)
class OutputFile:
    """A file that a program is going to write.

    Attributes:
      path: the path of the file.
      is_own: whether content that is there already was written by a program of this project, so
        that it may be replaced.
      option: the option of the command line that the file's place comes from, or None for a file
        in a run's directory.
    """

    path: Path
    is_own: Callable[[bytes], bool]
    option: str | None = "--out"

    @property
    def _named(self) -> str:
        return self.option or "the output"

    def check(self) -> None:
        """Creates the file's directory and checks that the file can be written.

        Raises:
          UserError: it cannot, or there is a file that this project's programs did not write.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._check()
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self._named} must be a file that can be written; got '{self.path}' "
                f"({_reason(error)})"
            ) from error

    def _check(self) -> None:
        kind = _kind(self.path)
        if kind == stat.S_IFCHR:  # such as /dev/null, which no other file can take the place of
            with self.path.open("ab", buffering=0) as device:
                device.write(b"\n")
            return
        if kind not in (None, stat.S_IFREG):
            raise OSError("it is not a file")
        _check_writable_directory(Path(os.path.realpath(self.path)).parent)
        if kind is not None:
            self.path.open("ab").close()
            self._check_own()

    def _check_own(self) -> None:
        present = self.path.read_bytes()
        if present and not self.is_own(present):
            other = f" or choose another {self.option}" if self.option else ""
            raise UserError(
                f"{self.path} was not written by this program and is left as it is; move it{other}"
            )

    def write(self, data: bytes) -> None:
        """Writes the file as a whole, or leaves what is there as it is.

        Raises:
          OSError: it cannot be written.
          UserError: there is a file that this project's programs did not write.
        """
        kind = _kind(self.path)
        if kind == stat.S_IFREG:
            self._check_own()
        if kind in (None, stat.S_IFREG):
            replace(Path(os.path.realpath(self.path)), data)
        else:
            self.path.write_bytes(data)


def picture(path: Path, option: str | None = "--out") -> OutputFile:
    """A PNG or GIF file, whose content has to be a result of `mark`."""
    return OutputFile(path, is_marked, option)


def json_output(path: Path, names: Iterable[str], option: str | None = "--out") -> OutputFile:
    """A JSON file whose object, or every object in its list, has these names."""
    required = tuple(names)

    def is_own(data: bytes) -> bool:
        # Older programs wrote NaN, which is not JSON.
        return is_json_with(data.replace(b"NaN", b"null"), required)

    return OutputFile(path, is_own, option)


def table_output(path: Path, header: str, option: str | None = "--out") -> OutputFile:
    """A Markdown table, recognised by its first line."""
    return OutputFile(path, lambda data: data.startswith(header.encode() + b"\n"), option)


def write_json(file: OutputFile, content: object) -> None:
    """Writes a value as indented JSON."""
    file.write(dump_json(content))


def mark(data: bytes) -> bytes:
    """Adds the mark by which `is_marked` recognises a picture, a PNG or GIF, as this project's."""
    if data.startswith(b"GIF8") and data.endswith(_GIF_END):
        comment = b"\x21\xfe" + bytes([len(_MARK)]) + _MARK + b"\0"
        return data[: -len(_GIF_END)] + comment + _GIF_END
    chunk = b"tEXt" + _MARK
    framed = struct.pack(">I", len(_MARK)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return data[:_PNG_HEADER] + framed + data[_PNG_HEADER:]


def is_marked(data: bytes) -> bool:
    """Whether a picture has the mark of this project."""
    return data.startswith((b"\x89PNG", b"GIF8")) and _MARK in data


def replace(path: Path, data: bytes) -> None:
    """Writes a file so that it has either its old or its new content, whenever this is stopped."""
    temporary = _temporary(path.parent)
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error


def is_temporary(path: Path) -> bool:
    """Whether a file is what a program that was killed left behind while it wrote another file."""
    return path.name.startswith(_TEMPORARY)


def make_directory(path: Path, option: str = "--out") -> None:
    """Creates a directory for outputs and checks that files can be written into it.

    Raises:
      UserError: that is not possible.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        _check_writable_directory(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{option} must be a directory that can be written; got '{path}' ({_reason(error)})"
        ) from error


def _check_writable_directory(directory: Path) -> None:
    """Raises `OSError` unless there are the permission and the space to write files."""
    probe = _temporary(directory)
    try:
        probe.write_bytes(_PROBE)
        probe.unlink()
    except OSError as error:
        with suppress(OSError):
            probe.unlink()
        raise OSError(error.errno, error.strerror, str(directory)) from error


def _temporary(directory: Path) -> Path:
    return directory / f"{_TEMPORARY}{os.getpid()}"


def _kind(path: Path) -> int | None:
    """The type bits of a path's file, or None if there is no file."""
    try:
        return stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        return None


def _reason(error: OSError | ValueError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
