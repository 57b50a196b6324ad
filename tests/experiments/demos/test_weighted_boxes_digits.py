"""The demonstration of weighted boxes: it runs, and they learn."""

import pytest
from flax import nnx

from experiments.common.program import exit_code
from experiments.demos import weighted_boxes_digits as demo
from experiments.demos.digits import load


@pytest.mark.usefixtures("relaxed_promotion")
def test_the_program_prints_a_table(capsys):
    assert exit_code(demo.main, ["--steps", "1"]) == 0
    header, _, *rows = capsys.readouterr().out.strip().split("\n")
    assert [row.split(" | ")[0].strip("| ") for row in rows] == list(demo.LAYERS)
    assert all(row.count("|") == header.count("|") == 4 for row in rows)


@pytest.mark.slow
@pytest.mark.usefixtures("relaxed_promotion")
def test_weighted_boxes_learn_digits():
    train_digits, test_digits = load(0)
    model = demo.Network("weighted boxes", 8, rngs=nnx.Rngs(0))
    drawn = model.second.boxes.theta[...]
    demo.train(model, train_digits, 300, 0)
    assert demo.accuracy(model, test_digits) > 0.85
    assert abs(model.second.boxes.theta[...] - drawn).max() > 0.5


@pytest.mark.parametrize("option", ["--boxes", "--steps"])
def test_bad_arguments_say_what_is_allowed(option, capsys):
    assert exit_code(demo.main, [option, "0"]) == 2
    assert f"{option} must be 1 or more; got 0" in capsys.readouterr().err
