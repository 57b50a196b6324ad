"""Takes all measurements on a GPU, for the half hour in which one is at hand.

In this order, each within its own time limit:

- the tests that need a GPU;
- each kernel of box convolution by itself (profile_box_conv.py);
- box convolution at each dtype and shape, beside XLA's forms, a copy and convolutions
  (bench_box_conv.py);
- the networks of the paper's Table 3 (paper_table3.py);
- an epoch of training BoxENet on generated scenes, in float32 and in bfloat16
  (cityscapes_boxenet.py).

After each part it writes all results so far in --out: measurements.json and measurements.md, with
the programs' own files and what they printed beside them. So a machine that is taken away loses one
part at most. A part that fails or takes too long is noted, and the next one follows.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import jax

from experiments.benchmarks.box_conv.shapes import DTYPES, GPU_SHAPES
from experiments.common import report
from experiments.common.command_line import read_settings
from experiments.common.outputs import table_output
from experiments.common.program import UserError

_PROGRAMS = Path(__file__).resolve().parents[1]
_TESTS = _PROGRAMS.parent / "tests" / "kernels"
_HEADER = "| part | seconds | result |"


@dataclass(frozen=True)
class Settings:
    """Takes all measurements on a GPU."""

    out: Path = Path("runs/gpu_measurements")
    """Directory for the results."""
    dry_run: bool = False
    """Take the smallest measurement of each kind, on CPU if there is no GPU."""


@dataclass(frozen=True)
class _Part:
    """A program to run.

    Attributes:
      name: the name in the table and of the program's files.
      command: the command line, without Python.
      limit: the time limit in seconds.
      figures: the JSON file that the program writes, if it does.
    """

    name: str
    command: tuple[str, ...]
    limit: int
    figures: Path | None = None


@dataclass(frozen=True)
class _Result:
    """What came of a part.

    Attributes:
      name: the part.
      seconds: the time that it took.
      result: how it ended.
      figures: the content of its JSON file.
    """

    name: str
    seconds: float
    result: str
    figures: object = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns 1 if a part failed."""
    settings = read_settings(Settings, arguments, description=__doc__)
    # Or this process would take the GPU's memory from those that measure.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if jax.default_backend() != "gpu" and not settings.dry_run:
        raise UserError("JAX found no GPU; with --dry-run the measurements are tried on CPU")
    figures, table = settings.out / "measurements.json", settings.out / "measurements.md"
    report.make_writable(figures)
    table_file = table_output(table, _HEADER)
    table_file.check()
    results: list[_Result] = []
    for part in _dry(settings.out) if settings.dry_run else _parts(settings.out):
        results.append(_run(part, settings.out))
        report.write(figures, {"parts": [asdict(result) for result in results]})
        table_file.write(f"{_table(results)}\n".encode())
    print(_table(results))
    return int(any(result.result != "done" for result in results))


def _parts(out: Path) -> Iterator[_Part]:
    yield _Part("tests", ("-m", "pytest", "-m", "gpu", str(_TESTS)), 240)
    yield _with_figures("kernels", "profile_box_conv.py", (), 240, out)
    for dtype in DTYPES:
        for shape in GPU_SHAPES:
            name = f"box_conv {dtype} {shape}"
            measured = ("--shapes", shape, "--dtypes", dtype)
            options = (*measured, "--conv", "forward", "--rounds", "7")
            yield _with_figures(name, "bench_box_conv.py", options, 240, out)
    yield _with_figures("table 3", "paper_table3.py", ("--rounds", "9"), 420, out)
    for precision in ("float32", "bf16"):
        name = f"training {precision}"
        run = out / _file_name(name)
        training = ("--epochs", "1", "--precision", precision, "--out", str(run))
        yield _Part(name, (str(_PROGRAMS / "cityscapes_boxenet.py"), *training), 240)


def _dry(out: Path) -> Iterator[_Part]:
    """A part of each kind, as small as possible."""
    yield _Part("tests", ("-m", "pytest", "-m", "gpu", "--collect-only", "-q", str(_TESTS)), 120)
    platform = "gpu" if jax.default_backend() == "gpu" else "cpu"
    options = ("--shapes", "1,1,4,5,1", "--conv", "none", "--rounds", "1", "--device", platform)
    yield _with_figures("box_conv", "bench_box_conv.py", options, 120, out)
    yield _with_figures("table 3", "paper_table3.py", ("--rounds", "0"), 120, out)
    # Without a GPU there are no kernels to time, and training is tested on its own.
    yield _Part("kernels", (str(_PROGRAMS / "profile_box_conv.py"), "--help"), 120)
    yield _Part("training", (str(_PROGRAMS / "cityscapes_boxenet.py"), "--help"), 120)


def _with_figures(
    name: str, program: str, options: tuple[str, ...], limit: int, out: Path
) -> _Part:
    figures = out / f"{_file_name(name)}.json"
    command = (str(_PROGRAMS / program), *options, "--out", str(figures))
    return _Part(name, command, limit, figures)


def _file_name(name: str) -> str:
    return name.replace(" ", "_")


def _run(part: _Part, out: Path) -> _Result:
    print(f"{part.name}, at most {part.limit} s", flush=True)
    start = time.perf_counter()
    with (out / f"{_file_name(part.name)}.log").open("wb") as log:
        # A group of its own, so that what a program started ends with it.
        process = subprocess.Popen(
            [sys.executable, *part.command],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(part.limit)
            result = "done" if code == 0 else f"failed with exit code {code}"
        except subprocess.TimeoutExpired:
            result = f"took more than {part.limit} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    seconds = round(time.perf_counter() - start, 1)
    return _Result(part.name, seconds, result, _read(part.figures))


def _read(figures: Path | None) -> object:
    if figures is None or not figures.exists():
        return None
    try:
        return json.loads(figures.read_text(encoding="utf-8"))
    except ValueError:
        return None  # A program that was killed left it unfinished.


def _table(results: Sequence[_Result]) -> str:
    """A Markdown table with a row for each part."""
    rows = [f"| {result.name} | {result.seconds} | {result.result} |" for result in results]
    return "\n".join([_HEADER, "|---|---|---|", *rows])
