"""Reading a program's settings from its command line, and checking the range of each of them."""

import contextlib
import functools
import io
import math
import operator
import os
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import tyro

from experiments.common.program import UserError

MOST_ROUNDS = 10**6
"""The largest number of rounds that a benchmark runs."""
MOST_STEPS = 2**31 - 1
"""The largest number of steps that is trained, since the step is counted in 32 bits."""
MOST_SEED = 2**32 - 1
"""The largest seed that all random generators take."""

_FRAME = "│╭╮╰╯"
_RULE = "────"
_SUBCOMMANDS, _SUGGESTION = "Available subcommands:", "Perhaps you meant:"
_SUGGESTED_OPTION = re.compile(r" {5}(--[\w-]+)")  # Their help texts are indented further.
_OWN_CHECK = re.compile(r"Error parsing [a-z_][\w.-]*: (?=\w+ must)")
_HELP = ("-h", "--help")


def read_settings[Kind](kind: type[Kind], arguments: Sequence[str] | None, **options: Any) -> Kind:
    """Reads a dataclass of settings from the command line.

    Args:
      kind: the dataclass; its docstrings are the texts of `--help`.
      arguments: the arguments, by default this process's.
      options: further keywords of `tyro.cli`, such as `description`.

    Raises:
      UserError: an argument is unknown, missing, empty, not of the setting's type, or has control
        characters; the message is one line.
    """
    settings: Kind = _read(kind, arguments, options)
    return settings


def read_command[Default](
    commands: Mapping[str, type], arguments: Sequence[str], default: Default, **options: Any
) -> Any:
    """Reads a subcommand and its settings from the command line.

    Args:
      commands: the dataclass of each subcommand's settings, by the subcommand's name. The first is
        meant where none is given.
      arguments: the arguments.
      default: the settings of the first subcommand that the command line may change.
      options: further keywords of `tyro.cli`, such as `description`.

    Returns:
      An instance of one of the dataclasses.

    Raises:
      UserError: see `read_settings`.
    """
    first = next(iter(commands))
    given = list(arguments)
    if given and given[0].startswith("-") and given[0] not in _HELP:
        given.insert(0, first)
    kinds = [Annotated[kind, tyro.conf.subcommand(name)] for name, kind in commands.items()]
    return _read(functools.reduce(operator.or_, kinds), given, {**options, "default": default})


def read_settings_and_rest[Kind](
    kind: type[Kind], arguments: Sequence[str] | None, **options: Any
) -> tuple[Kind, list[str]]:
    """Reads settings from the command line, and returns the unknown arguments beside them.

    For the arguments and the errors see `read_settings`.
    """
    pair: tuple[Kind, list[str]] = _read(kind, arguments, {**options, "return_unknown_args": True})
    return pair


def _read(kind: Any, arguments: Sequence[str] | None, options: Mapping[str, Any]) -> Any:
    given = list(sys.argv[1:] if arguments is None else arguments)
    check_printable(given)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                cast("Any", Annotated[kind, tyro.conf.arg(name="")]),
                args=given,
                # Nested settings make groups in --help, but no prefixes of options.
                config=(tyro.conf.OmitArgPrefixes,),
                **options,
            )
    except SystemExit as end:
        if end.code in (None, 0):
            raise
        raise UserError(_in_one_line(printed.getvalue())) from None
    except ValueError as error:  # of a dataclass that checks its own fields
        raise UserError(f"--{error}") from error


def check_printable(arguments: Sequence[str]) -> None:
    """Raises `UserError` if an argument is empty or has control characters, such as a newline.

    An empty argument is most often a variable of the shell that is not set, and would stand for the
    present directory where a path is expected.
    """
    for argument in arguments:
        name, _, value = argument.partition("=")
        if not argument or (name.startswith("--") and "=" in argument and not value):
            raise UserError(f"an argument must not be empty; got {argument!r}")
        if any(unicodedata.category(letter) == "Cc" for letter in argument):
            raise UserError(f"an argument must not have control characters; got {argument!r}")


def _in_one_line(panel: str) -> str:
    """The text of tyro's framed error message, with its suggestions and without the help in it."""
    lines = [line.strip().strip(_FRAME) for line in panel.splitlines()]
    body = lines[1:] if len(lines) > 1 else lines  # the first line is the frame and its title
    sections: list[list[str]] = [[]]
    for line in body:
        if _RULE in line:
            sections.append([])
        else:
            sections[-1].append(line)
    problem, *more = sections
    advice = [text for section in more for text in _advice(section)]
    text = " ".join("; ".join([" ".join(problem).strip(), *advice]).split())
    # A dataclass that checks its own fields names the field, and tyro the place of the dataclass.
    text = _OWN_CHECK.sub("--", text)
    return text or "the command line cannot be read; see --help"


def _advice(section: Sequence[str]) -> Iterator[str]:
    """What a section of tyro's error message proposes; nothing if it is about the help."""
    title = section[0].strip() if section else ""
    if title.startswith(_SUBCOMMANDS):
        yield title.lower()
    if title.startswith(_SUGGESTION):
        found = [match[1] for line in section if (match := _SUGGESTED_OPTION.match(line))]
        if found:
            yield f"perhaps you meant {' or '.join(dict.fromkeys(found))}"


def check_whole(option: str, value: int | None, least: int, most: int | None = None) -> None:
    """Raises `UserError` unless a number is in a range; None, which stands for a default, is.

    Args:
      option: the name of the option, such as `--rounds`.
      value: the number.
      least: the smallest number that is allowed.
      most: the largest number that is allowed; any by default.
    """
    if value is None or (least <= value and (most is None or value <= most)):
        return
    if most is None or value < least:
        raise UserError(f"{option} must be {least} or more; got {value}")
    raise UserError(f"{option} must be from {least} to {most}; got {value}")


def check_positive(option: str, value: float) -> None:
    """Raises `UserError` unless a number is finite and greater than 0."""
    if not 0 < value < math.inf:
        raise UserError(f"{option} must be greater than 0 and finite; got {value}")


def check_seed(option: str, value: int) -> None:
    """Raises `UserError` unless a number is a seed that all random generators take."""
    if not 0 <= value <= MOST_SEED:
        raise UserError(f"{option} must be from 0 to 2**32 - 1; got {value}")


def check_list(option: str, values: Sequence[Hashable], *, repeats: bool = False) -> None:
    """Raises `UserError` if a list is empty, or if it has a value twice unless `repeats` is set."""
    if not values:
        raise UserError(f"{option} must be one or more; got none")
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice and not repeats:
        raise UserError(f"{option} must be different from each other; got {twice[0]} twice")


def check_directory(option: str, path: Path) -> None:
    """Raises `UserError` unless there is a directory that can be listed."""
    try:
        os.scandir(path).close()
    except OSError as error:
        raise UserError(f"{option} must be a directory; got {path} ({error.strerror})") from error
