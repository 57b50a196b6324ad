"""Reading command lines: every error is one line that names the argument."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from experiments.common.command_line import (
    check_list,
    check_positive,
    check_seed,
    check_whole,
    read_command,
    read_settings,
    read_settings_and_rest,
)
from experiments.common.image_size import parse_size
from experiments.common.memory import check_fits
from experiments.common.program import UserError


@dataclass(frozen=True)
class Settings:
    """Settings of a test."""

    rounds: int = 3
    """Number of rounds."""
    kind: Literal["a", "b"] = "a"
    """A kind, with a help text that is too long for a single line of the terminal, or is it not?"""
    out: Path = Path("out")
    """A path."""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "x"], r"--rounds: .* 'x'"),
        (["--rounds", "1.5"], r"--rounds: .* '1\.5'"),
        (["--rounds", "9" * 5000], "--rounds"),
        (["--kind", "c"], r"'c' for argument '--kind'. Expected one of \('a', 'b'\)"),
        (["--out"], "--out"),
        (["--unknown", "1"], "--unknown"),
        (["--round", "1"], "--round, 1; perhaps you meant --rounds$"),
        (["positional"], "positional"),
        (["--out", ""], "must not be empty"),
        (["--out="], "must not be empty; got '--out='"),
        (["--out", "a\nb"], r"must not have control characters; got 'a\\nb'"),
        (["--out", "a\0b"], "control characters"),
        (["--out", "\x1b[31m"], "control characters"),
    ],
)
def test_errors_are_one_line(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        read_settings(Settings, arguments)
    assert "\n" not in str(caught.value)
    assert "│" not in str(caught.value)


@dataclass(frozen=True)
class Other:
    """Settings of another subcommand."""

    count: int = 1
    """A number."""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], Settings(rounds=7)),
        (["--kind", "b"], Settings(rounds=7, kind="b")),
        (["first", "--rounds", "1"], Settings(rounds=1)),
        (["other", "--count", "2"], Other(2)),
    ],
)
def test_the_first_subcommand_is_meant_where_none_is_given(arguments, expected):
    commands = {"first": Settings, "other": Other}
    assert read_command(commands, arguments, Settings(rounds=7)) == expected


def test_a_wrong_subcommand_is_answered_with_those_that_there_are():
    with pytest.raises(UserError, match=r"othr; available subcommands: first, other$"):
        read_command({"first": Settings, "other": Other}, ["othr"], Settings())


def test_settings_are_read_and_others_left_alone():
    assert read_settings(Settings, ["--rounds", "-1"]) == Settings(rounds=-1)
    undecoded = read_settings(Settings, ["--out", "\udcff"])
    assert undecoded.out == Path("\udcff")
    settings, rest = read_settings_and_rest(Settings, ["--kind", "b", "--steps", "3"])
    assert (settings, rest) == (Settings(kind="b"), ["--steps", "3"])


@pytest.mark.parametrize(
    ("check", "arguments", "message"),
    [
        (check_whole, ("--n", 0, 1), "--n must be 1 or more; got 0"),
        (check_whole, ("--n", 9, 1, 8), "--n must be from 1 to 8; got 9"),
        (check_positive, ("--n", float("nan")), "--n must be greater than 0 and finite; got nan"),
        (check_positive, ("--n", float("inf")), "finite; got inf"),
        (check_seed, ("--n", 2**32), "--n must be from 0 to "),
        (check_list, ("--n", ()), "--n must be one or more; got none"),
        (check_list, ("--n", (1, 2, 1)), "--n must be different from each other; got 1 twice"),
        (parse_size, ("--n", "32760x32761"), "--n: the width must be at most 32760; got 32761"),
        (parse_size, ("--n", "\uff19x\uff19"), "--n must be HEIGHTxWIDTH"),
        (parse_size, ("--n", "1" * 5000 + "x8"), "--n must be HEIGHTxWIDTH"),
        (check_fits, (2**60, "--n 3"), "--n 3 would take 1.074e"),
    ],
)
def test_ranges_are_named(check, arguments, message):
    with pytest.raises(UserError) as caught:
        check(*arguments)
    assert str(caught.value).startswith(message) or message in str(caught.value)
