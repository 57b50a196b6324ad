"""The main program: its files, that it resumes exactly, and its messages about bad input."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments import cityscapes_boxenet
from experiments.common.program import exit_code
from experiments.segmentation.training.metrics_log import read_metrics
from experiments.segmentation.training.run_directory import is_finished
from tests.cases.runs import TRAINING, train

_PROGRAM = Path(cityscapes_boxenet.__file__)
_SMALL = ["--model", "enet-minus", *TRAINING]


def _error_of(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert exit_code(cityscapes_boxenet.main, list(arguments)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    return error


def test_trains_and_refuses_to_overwrite(trained: Path, capsys: pytest.CaptureFixture[str]):
    out = trained
    for picture in ("predictions.png", "curves.png"):
        assert (out / picture).stat().st_size > 5000
    assert list((out / "tensorboard").iterdir())
    assert is_finished(out)
    records = read_metrics(out)
    assert [record["step"] for record in records] == [12, 13]
    assert all(np.isfinite(record["loss"]) for record in records)
    assert 0 <= records[-1]["mean_iou"] <= 1

    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    again = [*_SMALL, "--out", str(out), "--steps"]
    assert "holds a finished run; choose another" in _error_of(*again, "13", capsys=capsys)
    assert "steps 13 (now 14)" in _error_of(*again, "14", "--resume", capsys=capsys)
    assert before == {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "lenet"], "--model must be one of .*boxenet.*; got 'lenet'"),
        (["--size", "96"], "--size must be HEIGHTxWIDTH"),
        (["--size", "100x96"], "height must be a positive multiple of 8; got 100"),
        (["--size", "96x0"], "width must be a positive multiple of 8; got 0"),
        (["--epochs", "1", "--steps", "1"], "--epochs or --steps, not both"),
        (["--steps", "0"], "--steps must be greater than 0; got 0"),
        (["--batch-size", "-1"], "--batch-size must be greater than 0; got -1"),
        (["--learning-rate", "nan"], "--learning-rate must be greater than 0; got nan"),
        (["--dropout", "1.5"], "--dropout must be from 0 to 1; got 1.5"),
        (["--box-l2", "-1"], "--box-l2 must be 0 or greater"),
        (["--recipe", "mine"], "--recipe must be one of quick, plain, paper-enet, paper-erfnet"),
        (["--rotation", "200"], "--rotation must be at least 0 and less than 180 degrees"),
        (["--decay-epochs", "3", "0"], "--decay-epochs must be 1 or greater"),
        (["--workers", "-1"], "--workers must be 0 or greater; got -1"),
        (["--distributed", "node0"], "--distributed must be auto or HOST:PORT"),
        (["--seed", "-1"], "--seed must be from 0"),
        (["--data", "imagenet"], "unknown data 'imagenet'; choose synthetic, camvid:DIR"),
        (["--data", "camvid:nowhere"], "nowhere"),
        (["--data", "cityscapes:nowhere"], "nowhere"),
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
    error = _error_of(*arguments, "--out", "run", capsys=capsys)
    assert re.search(message, error), error
    assert not (tmp_path / "run").exists()


def test_does_not_touch_a_directory_that_is_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "precious.txt").write_text("mine")
    arguments = ["--size", "16x32", "--out", str(tmp_path)]
    assert "not empty" in _error_of(*arguments, capsys=capsys)
    assert "no run to resume" in _error_of(*arguments, "--resume", capsys=capsys)
    assert [file.name for file in tmp_path.iterdir()] == ["precious.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stopping_saves_and_resuming_ends_the_same(tmp_path: Path, how: signal.Signals):
    arguments = [*_SMALL, "--steps", "36"]
    whole = train(*arguments, "--out", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    stopped = _stop_after_first_record(how, arguments, tmp_path)
    assert stopped == 130
    assert not is_finished(tmp_path / "stopped")
    _assert_resumed_equals_whole(arguments, tmp_path)


@pytest.mark.slow
def test_twenty_kills_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
):
    """Killed at random moments, from the first import to the last picture."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    arguments = [*_SMALL, "--steps", "240"]
    start = time.monotonic()
    whole = train(*arguments, "--out", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    longest = time.monotonic() - start

    kills = 0
    while kills < 20:
        resume = ["--resume"] if (tmp_path / "stopped" / "settings.json").exists() else []
        process = subprocess.Popen(
            [sys.executable, str(_PROGRAM), *arguments, "--out", "stopped", *resume],
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            process.wait(rng.uniform(0, longest / 2))
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        _, error = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), error
    _assert_resumed_equals_whole(arguments, tmp_path)


def _stop_after_first_record(how: signal.Signals, arguments: list[str], directory: Path) -> int:
    """Starts the program, stops it in its second epoch, and returns its exit code."""
    process = subprocess.Popen(
        [sys.executable, str(_PROGRAM), *arguments, "--out", "stopped"], cwd=directory
    )
    while process.poll() is None and not read_metrics(directory / "stopped"):
        time.sleep(0.05)
    os.kill(process.pid, how)
    return process.wait()


def _assert_resumed_equals_whole(arguments: list[str], directory: Path) -> None:
    resumed = train(*arguments, "--out", "stopped", "--resume", cwd=directory)
    assert resumed.returncode == 0, resumed.stderr
    whole, stopped = (
        (directory / name / "metrics.jsonl").read_text().splitlines()
        for name in ("whole", "stopped")
    )
    assert list(map(json.loads, whole)) == list(map(json.loads, stopped))
