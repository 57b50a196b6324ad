import json

import jax
import pytest

from experiments.benchmarks import gpu_measurements
from experiments.common.program import exit_code


def test_dry_run_takes_a_measurement_of_each_kind(tmp_path, capsys):
    assert exit_code(gpu_measurements.main, ["--dry-run", "--out", str(tmp_path)]) == 0
    parts = json.loads((tmp_path / "measurements.json").read_text())["parts"]
    assert [part["name"] for part in parts] == [
        "tests",
        "box_conv",
        "table 3",
        "kernels",
        "training",
    ]
    assert {part["result"] for part in parts} == {"done"}
    assert parts[1]["figures"]["blocks"]
    assert parts[2]["figures"]["networks"]
    table = (tmp_path / "measurements.md").read_text()
    assert all(f"| {part['name']} |" in table for part in parts)
    assert table in capsys.readouterr().out


def test_what_fails_or_takes_too_long_is_noted_and_the_rest_follows(tmp_path, monkeypatch):
    parts = [
        gpu_measurements._Part("slow", ("-c", "import time; time.sleep(60)"), 1),
        gpu_measurements._Part("wrong", ("-c", "raise SystemExit(3)"), 60),
        gpu_measurements._Part("good", ("-c", "print('text')"), 60),
    ]
    monkeypatch.setattr(gpu_measurements, "_dry", lambda _: iter(parts))
    assert exit_code(gpu_measurements.main, ["--dry-run", "--out", str(tmp_path)]) == 1
    written = json.loads((tmp_path / "measurements.json").read_text())["parts"]
    assert [part["result"] for part in written] == [
        "took more than 1 s",
        "failed with exit code 3",
        "done",
    ]
    assert (tmp_path / "good.log").read_text() == "text\n"


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="for machines without a GPU")
def test_without_a_gpu_nothing_is_measured(tmp_path, capsys):
    assert exit_code(gpu_measurements.main, ["--out", str(tmp_path / "out")]) == 2
    assert "--dry-run" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
