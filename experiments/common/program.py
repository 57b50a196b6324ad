"""What every program does around its work: reports a user's error and sets the exit code.

This module imports the standard library only, so that a program can start with it and have errors
and Ctrl-C reported that come while the libraries are imported.
"""

import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TextIO

type Main = Callable[[Sequence[str] | None], int | None]
"""A program: takes the command line's arguments (by default this process's), and returns its exit
code, or None for 0."""

_USER_ERROR, _INTERRUPTED, _BROKEN_PIPE = 2, 128 + signal.SIGINT, 128 + 13
# Environment variables that the libraries read when they are imported.
_VARIABLES = ("JAX_", "XLA_")


class UserError(Exception):
    """Something that the user can put right; the message says what, without a traceback."""


def program(module: str, **keywords: Any) -> Main:
    """A program whose module is imported only when it runs.

    Args:
      module: the name of a module with a function `main`.
      keywords: keyword arguments of that function.
    """

    def main(arguments: Sequence[str] | None = None) -> int | None:
        result: int | None = _import(module).main(arguments, **keywords)
        return result

    return main


def run(main: Main) -> NoReturn:
    """Runs a program with this process's arguments and ends the process."""
    # Programs draw into files, so Matplotlib's choice of a window system cannot matter.
    os.environ["MPLBACKEND"] = "agg"
    # Files that cannot be decoded are named by the programs; OpenCV adds lines that name none.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # which is so if it was closed before the program started
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    for stream in (sys.stdout, sys.stderr):
        # File names that are not UTF-8, and letters that the terminal lacks, are printed escaped.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    code = exit_code(main)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _discard(stream)  # or Python flushes it again, and prints that this failed
    sys.exit(code)


def exit_code(main: Main, arguments: Sequence[str] | None = None) -> int:
    """Runs a program and prints what the user has to know if it fails.

    Args:
      main: the program.
      arguments: the arguments of its command line, by default this process's.

    Returns:
      What `main` returned; 2 for a `UserError`, whose message is printed after `error: `, for
      files that cannot be read or written, for too little memory and for an unknown JAX backend;
      130 for Ctrl-C; 141 if what reads the output was closed.
    """
    try:
        code = main(arguments) or 0
        sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        return _stopped(interrupt)
    except BrokenPipeError:
        return _BROKEN_PIPE
    except Exception as error:
        if any(isinstance(each, KeyboardInterrupt) for each in _chain(error)):
            return _stopped()  # an import that Ctrl-C stops may end in an ImportError
        message = _describe(error)
        if message is None:
            raise
        _print_error(f"error: {message}")
        return _USER_ERROR
    return code


def describe_os_error(error: OSError) -> str:
    """One line about a file that cannot be read or written: its name and the reason."""
    reason = error.strerror or str(error)
    return reason if error.filename is None else f"{os.fsdecode(error.filename)}: {reason}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type if there is none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _describe(error: Exception) -> str | None:
    """The message for an error that the user can put right, or None for all other errors."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return describe_os_error(error)
    if isinstance(error, MemoryError) or str(error).startswith("RESOURCE_EXHAUSTED"):
        return f"there is not enough memory ({first_line(error)}); choose smaller sizes"
    if isinstance(error, RuntimeError) and str(error).startswith(
        ("Unable to initialize backend", "Unknown backend")
    ):
        return f"JAX_PLATFORMS is {os.environ.get('JAX_PLATFORMS', '')!r}: {first_line(error)}"
    return None


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("experiments", "jaxbox"):
            raise
        raise UserError(f"{error}; install the programs' dependencies: uv sync") from error
    except (ValueError, RuntimeError) as error:
        variables = [name for name in sorted(os.environ) if name.startswith(_VARIABLES)]
        if not variables or any(isinstance(each, KeyboardInterrupt) for each in _chain(error)):
            raise
        raise UserError(
            f"the libraries cannot be imported ({first_line(error)}); check the environment "
            f"variables {', '.join(variables)}"
        ) from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _stopped(interrupt: BaseException | None = None) -> int:
    _print_error(str(interrupt or "") or "stopped")
    return _INTERRUPTED


def _print_error(message: str) -> None:
    with suppress(OSError):  # if there is nowhere to print to, the exit code still tells
        print(message, file=sys.stderr)


def _discard(stream: TextIO) -> None:
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
