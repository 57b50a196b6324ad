"""The benchmark of the input pipeline: what it writes, and bad arguments."""

import json
import re
from pathlib import Path

import pytest

from experiments.benchmarks import input as bench_input
from experiments.benchmarks.input import Reader
from experiments.common.program import exit_code


def test_writes_a_figure_of_every_contestant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    readers = (Reader("at once", workers=0, threads=0), Reader("1 thread", workers=0, threads=1))
    monkeypatch.setattr(bench_input, "_READERS", readers)
    monkeypatch.setattr(bench_input, "_training_rate", lambda *_: lambda: 2.0)
    out = tmp_path / "new" / "bench.json"
    arguments = ["--size", "16x24", "--batches", "2", "--files", "3", "--batch-size", "2"]
    chosen = ["--rounds", "2", "--model", "enet", "--out", str(out)]
    assert exit_code(bench_input.main, [*arguments, *chosen]) == 0
    report = json.loads(out.read_text())
    assert report["size"] == [16, 24]
    assert [m["name"] for m in report["measurements"]] == [
        "files, at once",
        "files, 1 thread",
        "synthetic, at once",
        "synthetic, 1 thread",
        "training enet",
    ]
    printed = capsys.readouterr().out
    for measurement in report["measurements"]:
        assert 0 < measurement["slowest"] <= measurement["images_per_second"]
        assert measurement["images_per_second"] <= measurement["fastest"]
        assert measurement["name"] in printed


@pytest.mark.slow
@pytest.mark.usefixtures("relaxed_promotion")
def test_every_way_to_read_and_training_are_timed(tmp_path: Path):
    out = tmp_path / "bench.json"
    arguments = ["--size", "16x24", "--batches", "1", "--files", "2", "--rounds", "1"]
    assert (
        exit_code(bench_input.main, [*arguments, "--model", "enet-minus", "--out", str(out)]) == 0
    )
    assert len(json.loads(out.read_text())["measurements"]) == 11


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "512"], "--size must be HEIGHTxWIDTH such as 512x1024; got '512'"),
        (["--size", "0x24"], "--size must be HEIGHTxWIDTH"),
        (["--size", "20x24", "--model", "enet"], "--size must be multiples of 8"),
        (["--model", "lenet"], "--model must be one of .*boxenet.*; got 'lenet'"),
        (["--batch-size", "0"], "--batch-size must be 1 or more; got 0"),
        (["--rounds", "0"], "--rounds must be 1 or more; got 0"),
        (["--out", "/proc/none/bench.json"], "--out must be a file that can be written"),
    ],
)
def test_bad_arguments_say_what_is_allowed(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    assert exit_code(bench_input.main, arguments) == 2
    error = capsys.readouterr().err
    assert re.search(f"^error: {message}", error), error
