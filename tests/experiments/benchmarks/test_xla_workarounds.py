"""The benchmark of the workarounds for XLA runs each of them on and off."""

import json

import pytest

from experiments.benchmarks import xla_workarounds
from experiments.common.program import exit_code
from jaxbox_kernels.common.workarounds import Workaround


def test_it_compares_every_workaround(tmp_path, capsys):
    out = tmp_path / "bench.json"
    arguments = ["--rounds", "1", "--tiny", "--no-backward", "--out", str(out)]
    assert exit_code(xla_workarounds.main, arguments) == 0
    figures = json.loads(out.read_text())
    measurements = figures["workarounds"]
    assert {m["workaround"] for m in measurements} == {*Workaround, "all"}
    assert {m["direction"] for m in measurements} == {"forward"}
    for m in measurements:
        assert m["ratio"] == pytest.approx(m["milliseconds_off"] / m["milliseconds_on"])
    assert [m["direction"] for m in figures["forms"]] == ["forward"]
    printed = capsys.readouterr().out
    assert all(m["computation"] in printed for m in measurements)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "--rounds must be 1 or more; got 0"),
        (["--out", "/proc/none/bench.json"], "--out must be a file that can be written"),
    ],
)
def test_bad_settings(capsys, arguments, message):
    assert exit_code(xla_workarounds.main, arguments) == 2
    assert message in capsys.readouterr().err
