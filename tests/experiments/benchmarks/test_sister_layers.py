"""The benchmark of the sister layers runs and compares each with the plain convolution."""

import json

import pytest

from experiments.benchmarks import sister_layers as bench_sister_layers
from experiments.common.program import exit_code


@pytest.mark.slow
def test_writes_ratios_to_the_plain_convolution(tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert (
        exit_code(bench_sister_layers.main, ["--rounds", "1", "--no-backward", "--out", str(out)])
        == 0
    )
    measurements = json.loads(out.read_text())["measurements"]
    assert all(m["ratio"] == 1 for m in measurements if m["layer"] == "plain")
    layers = {"plain", "DCLS", "octave", "DO-Conv", "folded"}
    assert {m["layer"] for m in measurements} == layers
    lines = capsys.readouterr().out.strip().split("\n")[1:-1]
    assert [line.split()[-1] for line in lines] == [m["layer"] for m in measurements]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "--rounds must be 1 or more; got 0"),
        (["--out", "/proc/none/bench.json"], "--out must be a file that can be written"),
    ],
)
def test_bad_arguments_say_what_is_allowed(capsys, arguments, message):
    assert exit_code(bench_sister_layers.main, arguments) == 2
    assert message in capsys.readouterr().err
