"""The benchmark of weighted boxes: its table and its file."""

import json

import pytest

from experiments.benchmarks import weighted_boxes
from experiments.common.program import exit_code


@pytest.mark.slow
@pytest.mark.usefixtures("relaxed_promotion")
def test_three_layers_forward_and_backward(tmp_path, capsys):
    out = tmp_path / "bench.json"
    arguments = ["--shapes", "1x4x6", "--kernel", "3", "--rounds", "1", "--out", str(out)]
    assert exit_code(weighted_boxes.main, arguments) == 0
    measurements = json.loads(out.read_text())["measurements"]
    assert [m["direction"] for m in measurements] == 3 * ["forward"] + 3 * ["backward"]
    parameters = {m["layer"]: m["parameters"] for m in measurements}
    boxes, bias = 32 * 4 * 4, 32
    assert parameters == {
        "3x3 convolution": 9 * 32 * 32 + bias,
        "box and 1x1 convolution": boxes + 32 * 4 * 32 + bias,
        "weighted boxes": boxes + 32 * 4 * 32 + bias,
    }
    assert capsys.readouterr().out.count("| 1x4x6 |") == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shapes", "8x64"], "--shapes must be IMAGESxHEIGHTxWIDTH such as 8x64x128; got '8x64'"),
        (["--kernel", "64"], "--kernel must be from 1 to 63; got 64"),
    ],
)
def test_bad_arguments_say_what_is_allowed(arguments, message, capsys):
    assert exit_code(weighted_boxes.main, arguments) == 2
    assert message in capsys.readouterr().err
