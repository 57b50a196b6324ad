"""The measurement of accuracy: its tables, its file, and figures within the contract."""

import json

import pytest

from experiments.benchmarks import accuracy
from experiments.common.program import exit_code
from tests.cases.contract import BOUNDS


def test_figures_are_written_and_keep_the_contract(tmp_path, capsys):
    out = tmp_path / "accuracy.json"
    small = ["--size", "5x9", "--draws", "1", "--out", str(out)]
    chosen = ["--backends", "overlap matrices", "--dtypes", "float32", "bfloat16"]
    assert exit_code(accuracy.main, [*small, *chosen]) == 0
    measurements = json.loads(out.read_text())["measurements"]
    assert [m["dtype"] for m in measurements] == 6 * ["float32"] + 6 * ["bfloat16"]
    for m in measurements:
        for column, line in (("forward", "forward"), ("dx", "dx"), ("dtheta", "dtheta")):
            exact = m["dtype"] == "float32" or column == "dtheta"
            assert 0 < m["errors"][column] <= (BOUNDS[line] if exact else 2.0**-8)
    lines = capsys.readouterr().out.strip().split("\n")
    # Two headers of two lines and a blank one between; a line for each dtype and each image.
    assert len(lines) == 2 + 2 + 1 + 2 + 6 + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--draws", "0"], "--draws must be 1 or more; got 0"),
        (["--backends", "triton"], "--backends must be of native, overlap matrices"),
        (["--dtypes", "int8"], "--dtypes must be of float32, bfloat16, float16, float64; got"),
    ],
)
def test_bad_arguments_say_what_is_allowed(arguments, message, capsys):
    assert exit_code(accuracy.main, arguments) == 2
    assert message in capsys.readouterr().err
