"""What every program does around its work: reports a user's error and sets the exit code."""

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

type Main = Callable[[Sequence[str] | None], int | None]
"""A program: takes the command line's arguments (by default this process's), and returns its exit
code, or None for 0."""


class UserError(Exception):
    """Something that the user can put right; the message says what, without a traceback."""


def run(main: Main) -> NoReturn:
    """Runs a program with this process's arguments and ends the process."""
    sys.exit(exit_code(main))


def exit_code(main: Main, arguments: Sequence[str] | None = None) -> int:
    """Runs a program and prints what the user has to know if it fails.

    Args:
      main: the program.
      arguments: the arguments of its command line, by default this process's.

    Returns:
      What `main` returned; 2 for a `UserError`, whose message is printed after `error: `; 130 for
      Ctrl-C.
    """
    try:
        return main(arguments) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "stopped", file=sys.stderr)
        return 130
