"""Hostile command lines: every program answers each of them with one line and exit code 2.

The command lines are the cross product of tables: bad values of every option of every program, bad
places for outputs, and damaged files of a run. CI runs a few that it draws with the seed of the
tests, `pytest -m slow` runs all of them.
"""

import importlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import jax
import numpy as np
import pytest

import experiments
from experiments.common.program import exit_code
from tests.cases.runs import make_run

_CI_CASES = 30

# Texts that are no value of a type, or out of the range of every option of the type.
_WHOLE = ("x", "1.5", "-1", "nan", "0x1", "1e3", "9" * 40, "9" * 5000, "")
_POSITIVE = (*_WHOLE, "0")
_FLOAT = ("x", "nan", "inf", "-inf", "-1", "")
_POSITIVE_FLOAT = (*_FLOAT, "0")
_CHOICE = ("none of them", "", "\0", "a\nb", "-")
_SIZE = ("16", "x", "16x", "axb", "12x16", "0x8", "-8x8", "8x8x8", "32768x8", "9" * 5000 + "x8")

_TRAINING = {
    "--epochs": _POSITIVE,
    "--steps": _POSITIVE,
    "--batch-size": (*_POSITIVE, str(10**12)),
    "--decay-epochs": (*_POSITIVE, "1 1"),
    "--workers": _WHOLE,
    "--learning-rate": _POSITIVE_FLOAT,
    "--decay-factor": _POSITIVE_FLOAT,
    "--box-step-scale": _POSITIVE_FLOAT,
    "--weight-decay": _FLOAT,
    "--box-l2": _FLOAT,
    "--dropout": (*_FLOAT, "1.1"),
    "--flip": (*_FLOAT, "1.1"),
    "--rotation": (*_FLOAT, "180"),
    "--scale": (*_FLOAT, "1"),
    "--schedule": _CHOICE,
    "--precision": _CHOICE,
    "--box-learning": _CHOICE,
    "--track-boxes": ("x",),
    "--on-bad": _CHOICE,
    "--recipe": _CHOICE,
    "--size": _SIZE,
    "--data": (*_CHOICE, "synthetic:x", "camvid", "camvid:", "camvid:nowhere", "folder:.", ":"),
    "--distributed": ("x", "a:1", "a:0,0/1", "a:99999,0/1", "a:1,1/1", "a:1,0/0", ":1,0/1", ""),
}
_ALONE = {"--model": _CHOICE, "--context": _CHOICE, "--seed": _WHOLE, "--resume": ("x",)}
_COMPARED = {
    "--seeds": (*_WHOLE, "0 0", "0 -1", "0 x"),
    "--seed": ("5",),
    "--resume": ("x",),
}

_LARGE_SHAPES = ("9,9999999,99999999,9,9", "1,1,2,2,1 --plots", "1,1,2,2," + "9" * 5000)


class Program(NamedTuple):
    """A program and its options.

    Attributes:
      name: the file of the program.
      base: arguments with which it would do very little.
      options: bad values of each option; a space separates the values of a list.
      out: what `--out` is: a file, a directory, a new directory, or nothing.
    """

    name: str
    base: str
    options: dict[str, tuple[str, ...]]
    out: str | None = None


PROGRAMS = (
    Program("cityscapes_boxenet", "--size 16x32 --steps 1", {**_TRAINING, **_ALONE}, "new"),
    Program(
        "sunrgbd_boxenet",
        "--data synthetic --size 16x32 --steps 1",
        {**_TRAINING, **_ALONE, "--context": ("box --model enet-minus", *_CHOICE)},
        "new",
    ),
    Program("cityscapes_boxenet", "evaluate {run}", {"--data": ("camvid:x", "x", "")}),
    Program(
        "cityscapes_boxenet",
        "predict {run} {images}",
        {"--tint": (*_FLOAT, "1.1"), "--data": ("camvid:x", "x", "")},
        "directory",
    ),
    Program("export", "{run}", {"--format": _CHOICE, "--data": ("camvid:x", "x", "")}, "file"),
    Program(
        "compare_networks",
        "--size 16x32 --steps 1",
        {
            **_TRAINING,
            **_COMPARED,
            "--networks": ("lenet", "enet enet", "enet lenet", ""),
            "--model": ("enet",),
        },
        "directory",
    ),
    Program(
        "compare_layers",
        "--size 16x32 --steps 1",
        {
            **_TRAINING,
            **_COMPARED,
            "--contexts": ("none", "box box", "box none", ""),
            "--rounds": _WHOLE,
            "--context": ("box",),
        },
        "directory",
    ),
    Program(
        "compare_boxes",
        "--size 16x32 --steps 1",
        {
            **_TRAINING,
            **_COMPARED,
            "--variants": ("none", "redraw redraw", "redraw none", ""),
            "--box-learning": ("redraw",),
        },
        "directory",
    ),
    Program("paper_table3", "--rounds 0", {"--rounds": _WHOLE}, "file"),
    Program(
        "paper_figures",
        "{run}",
        {
            "--images": _POSITIVE,
            "--positions": _POSITIVE,
            "--depth": (*_POSITIVE, "999"),
            "--seed": _WHOLE,
            "--data": ("camvid:x", "x", ""),
        },
        "directory",
    ),
    Program(
        "prune_boxes",
        "{run}",
        {
            "--shares": (*_FLOAT, "1.1", "0.1 0.1", "0.1 nan"),
            "--batch-size": _POSITIVE,
            "--data": ("camvid:x", "x", ""),
        },
    ),
    Program(
        "view_run",
        "{run}",
        {"--images": (*_POSITIVE, "201"), "--data": ("camvid:x", "x", "")},
        "file",
    ),
    Program(
        "bench_box_conv",
        "--shapes 1,1,2,2,1 --rounds 1 --conv none",
        {
            "--device": ("tpu", "gpu", ""),
            "--shapes": ("1", "1,1,2,2", "1,1,2,2,0", "1,1,2,2,x", *_LARGE_SHAPES),
            "--dtypes": ("float16", "float32 int8", "float32 float32", ""),
            "--rounds": _POSITIVE,
            "--conv": _CHOICE,
            "--plots": ("x",),
        },
        "file",
    ),
    # Refused without a GPU, whatever the options are.
    Program("gpu_measurements", "", {"--dry-run": ("x",)}, "directory"),
    Program(
        "profile_box_conv",
        "",
        {"--shapes": ("1", "1,1,2,2,0"), "--dtypes": ("float16", ""), "--rounds": _POSITIVE},
        "file",
    ),
    Program(
        "bench_sister_layers",
        "--rounds 1",
        {"--rounds": _POSITIVE, "--backward": ("x",)},
        "file",
    ),
    Program(
        "bench_xla_workarounds",
        "--rounds 1 --tiny --no-backward",
        {"--rounds": _POSITIVE, "--tiny": ("x",)},
        "file",
    ),
    Program(
        "bench_input",
        "--size 16x24 --batches 1 --files 1 --rounds 1",
        {
            "--size": ("16", "x", "0x8", "-8x8", "32761x8", "12x12 --model enet"),
            "--batch-size": (*_POSITIVE, "999999 --size 512x1024"),
            "--batches": _POSITIVE,
            "--files": _POSITIVE,
            "--rounds": _POSITIVE,
            "--model": ("lenet", ""),
        },
        "file",
    ),
    Program(
        "digits_boxes",
        "--steps 1 --boxes 1",
        {"--boxes": _POSITIVE, "--steps": _POSITIVE, "--seed": _WHOLE},
        "directory",
    ),
    Program(
        "weighted_boxes_digits",
        "--steps 1 --boxes 1",
        {"--boxes": (*_POSITIVE, "65"), "--steps": _POSITIVE, "--seed": _WHOLE},
    ),
    Program(
        "bench_weighted_boxes",
        "--shapes 1x2x2 --rounds 1",
        {
            "--shapes": ("1", "2x2", "1x2x2x2", "0x2x2", "1x2xa", "99999x99999x9999", ""),
            "--kernel": (*_POSITIVE, "64"),
            "--rounds": _POSITIVE,
        },
        "file",
    ),
    Program(
        "bench_accuracy",
        "--size 2x2 --draws 1 --dtypes float32",
        {
            "--size": ("16", "x", "0x8", "-8x8", "32761x8", "32760x32760"),
            "--interpreted-size": ("16", "x", "0x8", "32760x32760"),
            "--backends": (*_CHOICE, "native native"),
            "--dtypes": ("int8", "float32 float32", ""),
            "--draws": (*_POSITIVE, "1001"),
            "--seed": _WHOLE,
        },
        "file",
    ),
    Program(
        "doconv_digits",
        "--runs 1 --epochs 1",
        {
            "--runs": (*_POSITIVE, "2 --seed 4294967295"),
            "--epochs": _POSITIVE,
            "--batch": (*_POSITIVE, "1348"),
            "--learning-rate": _POSITIVE_FLOAT,
            "--seed": _WHOLE,
        },
    ),
)

# Places below the directory of a case where an output cannot be, for root neither.
_BAD_PLACES = ("file/below", "n" * 300, "/proc/none/out", "/dev/full", "pipe", "", "a\nb")
_BAD_FOR = {
    "new": ("file", "full"),
    "directory": ("file",),
    "file": ("full", "file"),
}
# What a file of a run is replaced by: other content, or what a function makes in its place.
_DAMAGES: dict[str, bytes | Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a directory": os.mkdir,
    "a link to itself": lambda path: path.symlink_to(path),
    "binary": b"\x89PNG\r\n\x1a\n\x00\xff",
    "empty": b"",
    "null": b"null",
    "list": b"[1, 2]",
    "text": b'"settings"',
    "number": b"1e999",
    "NaN": b'{"model": NaN}',
    "unknown name": b'{"teacher": 1, "step": 1, "loss": "low"}',
    "a name twice": b'{"model": "enet", "model": "enet"}',
    "wrong types": b'{"model": 1, "training": null, "classes": [], "step": null}',
    "deep nesting": b"[" * 100_000 + b"]" * 100_000,
    "huge integer": b'{"seed": ' + b"9" * 5000 + b"}",
    "cut short": b'{"model": "boxenet", "si',
}
_COMPARE = "--size 16x32 --steps 3 --networks boxenet --seeds 0 --out {runs}"
_READERS = {
    "evaluate": ("cityscapes_boxenet", "evaluate {run}"),
    "predict": ("cityscapes_boxenet", "predict {run} {images} --out {out}"),
    "export": ("export", "{run} --out {out}"),
    "resume": ("cityscapes_boxenet", "--model boxenet --size 16x32 --steps 3 --out {run} --resume"),
    "figures": ("paper_figures", "{run} --out {out}"),
    "prune": ("prune_boxes", "{run}"),
    "view": ("view_run", "{run} --out {out}"),
    "compare": ("compare_networks", _COMPARE),
}
_READ = {
    "settings.json": tuple(_READERS),
    "data.json": ("evaluate", "predict", "export", "resume", "figures", "prune", "view"),
    "metrics.jsonl": ("resume", "compare", "view"),
}


class Case(NamedTuple):
    """A command line; texts in braces and `damage` refer to the directory that it gets."""

    program: str
    arguments: tuple[str, ...]
    damage: tuple[str, bytes | Callable[[Path], object]] | None = None


def _split(text: str) -> list[str]:
    return text.split(" ")


def _bad_values(program: Program):
    end = ["--out", "{out}"] if program.out else []
    for option, values in program.options.items():
        for value in values:
            yield Case(program.name, (*_split(program.base), option, *_split(value), *end))
    for more in (["--unknown", "1"], ["junk", "junk"], [next(iter(program.options))], [""]):
        yield Case(program.name, (*_split(program.base), *end, *more))


def _bad_places(program: Program):
    if program.out:
        for place in (*_BAD_PLACES, *_BAD_FOR[program.out]):
            path = place if place.startswith("/") or not place else "{case}/" + place
            yield Case(program.name, (*_split(program.base), "--out", path))


def _damaged():
    for (file, readers), (name, content) in itertools.product(_READ.items(), _DAMAGES.items()):
        if (file, name) == ("metrics.jsonl", "empty"):
            continue  # which is what a run has that was stopped early
        is_line = file == "metrics.jsonl" and isinstance(content, bytes)
        line = content + b"\n" if is_line else content
        for reader in readers:
            program, arguments = _READERS[reader]
            yield Case(program, tuple(_split(arguments)), (f"{{run}}/{file}", line))
    for content in _DAMAGES.values():
        predict = ("predict", "{case}/network", "{images}", "--out", "{out}")
        yield Case("cityscapes_boxenet", predict, ("{case}/network", content))
        data = ("--data", "folder:{folder}", "--size", "16x32", "--steps", "1", "--out", "{out}")
        yield Case("cityscapes_boxenet", data, ("{folder}/palette.json", content))


CASES = [
    *(case for program in PROGRAMS for case in _bad_values(program)),
    *(case for program in PROGRAMS for case in _bad_places(program)),
    *_damaged(),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A finished run in a directory of runs."""
    return make_run(tmp_path_factory.mktemp("hostile") / "runs" / "boxenet-0")


def _make_world(case: Path, saved: Path) -> dict[str, str]:
    """The files that a case meets, and their paths by the names in braces."""
    places = {"case": case, "runs": case / "runs", "run": case / "runs" / "boxenet-0"}
    places |= {name: case / name for name in ("images", "folder", "full", "out")}
    shutil.copytree(saved, places["run"])
    for name in ("images", "full", "folder/train/images", "folder/train/labels"):
        (case / name).mkdir(parents=True)
    for name in ("images/a.png", "folder/train/images/a.png", "folder/train/labels/a.png"):
        cv2.imwrite(str(case / name), np.zeros((8, 8), np.uint8))
    shutil.copytree(case / "folder" / "train", case / "folder" / "val")
    palette = {"classes": [{"name": "a", "color": [1, 2, 3], "value": 0}]}
    (case / "folder" / "palette.json").write_text(json.dumps(palette))
    (case / "file").write_text("mine")
    (case / "full" / "mine").write_text("mine")
    os.mkfifo(case / "pipe")
    return {name: str(path) for name, path in places.items()}


def _damage(path: Path, content: bytes | Callable[[Path], object]) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.unlink(missing_ok=True)
        content(path)


def _files(case: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in case.rglob("*") if path.is_file()}


def _fill(text: str, places: dict[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: places[match[1]], text)


def _check(case: Case, directory: Path, saved: Path, read_error: Callable[[], str]) -> str | None:
    """Runs a command line; returns what is wrong with the answer, or None."""
    directory.mkdir()
    places = _make_world(directory, saved)
    if case.damage:
        _damage(Path(_fill(case.damage[0], places)), case.damage[1])
    before = _files(directory)
    arguments = [_fill(argument, places) for argument in case.arguments]
    main = importlib.import_module(f"experiments.{case.program}").main
    read_error()
    try:
        code = exit_code(main, arguments)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    printed = read_error()
    if code != 2:
        return f"exit code {code}: {printed}"
    if printed.count("\n") != 1 or not printed.startswith("error: ") or len(printed) > 12_000:
        return f"not one line: {printed[:2000]}"
    if _files(directory) != before:
        return f"files changed: {set(_files(directory)) ^ set(before)}"
    shutil.rmtree(directory)
    return None


def _run_all(cases, directory, saved, read_error):
    wrong = {}
    for number, case in enumerate(cases):
        problem = _check(case, directory / str(number), saved, read_error)
        if problem:
            wrong[case.program, " ".join(case.arguments)[:300], str(case.damage)[:99]] = problem
    assert not wrong, "\n\n".join(f"{case}\n{problem}" for case, problem in wrong.items())


@pytest.fixture
def read_error(capsys):
    jax.devices()  # Plugins that cannot be used are logged now.
    return lambda: capsys.readouterr().err


@pytest.mark.usefixtures("relaxed_promotion")
def test_a_draw_of_command_lines_is_answered_with_one_line(rng, tmp_path, saved, read_error):
    chosen = rng.choice(len(CASES), _CI_CASES, replace=False)
    _run_all([CASES[index] for index in chosen], tmp_path, saved, read_error)


@pytest.mark.slow
@pytest.mark.usefixtures("relaxed_promotion")
def test_all_command_lines_are_answered_with_one_line(tmp_path, saved, read_error):
    assert len(CASES) >= 300
    _run_all(CASES, tmp_path, saved, read_error)


@pytest.mark.slow
@pytest.mark.usefixtures("relaxed_promotion")
def test_random_damage_is_answered_with_one_line(rng, tmp_path, saved, read_error):
    """The figures' depth is wrong too, so that damage that changes nothing is refused as well."""
    good = (saved / "settings.json").read_bytes()
    cases = []
    for _ in range(100):
        data = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            start = int(rng.integers(len(data)))
            data[start : start + int(rng.integers(4))] = rng.bytes(int(rng.integers(4)))
        arguments = ("{run}", "--depth", "999", "--out", "{out}")
        cases.append(Case("paper_figures", arguments, ("{run}/settings.json", bytes(data))))
    _run_all(cases, tmp_path, saved, read_error)


def test_every_program_is_in_the_table():
    programs = {file.stem for file in Path(experiments.__file__).parent.glob("[!_]*.py")}
    assert programs == {program.name for program in PROGRAMS}
