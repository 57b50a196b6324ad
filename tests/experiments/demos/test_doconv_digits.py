"""The demonstration of DO-Conv: it runs, and both kinds of layer start from the same network."""

import numpy as np
from flax import nnx

from experiments.common.program import exit_code
from experiments.demos import doconv_digits


def test_the_program_prints_a_table(capsys):
    assert exit_code(doconv_digits.main, ["--runs", "2", "--epochs", "1"]) == 0
    header, _, baseline, doconv = capsys.readouterr().out.strip().split("\n")
    assert header.count("|") == baseline.count("|") == doconv.count("|") == 7
    assert baseline.startswith("| Baseline |")
    assert doconv.startswith("| DO-Conv |")


def test_the_table_has_means_deviations_and_gains():
    lines = doconv_digits.table({"Baseline": [90.0, 92.0], "DO-Conv": [93.0, 93.0]}).split("\n")
    assert lines[2] == "| Baseline | 90.00 | 92.00 | 91.00 | 1.41 | +0.000 |"
    assert lines[3] == "| DO-Conv | 93.00 | 93.00 | 93.00 | 0.00 | +2.000 |"


def test_both_kinds_of_layer_start_as_the_same_network(rng):
    images = rng.normal(size=(3, 8, 8, 1)).astype(np.float32)
    logits = [
        doconv_digits.Network(layer, rngs=nnx.Rngs(7))(images)
        for layer in doconv_digits.LAYERS.values()
    ]
    np.testing.assert_array_equal(*logits)


def test_bad_arguments_say_what_is_allowed(capsys):
    assert exit_code(doconv_digits.main, ["--runs", "0"]) == 2
    assert "--runs" in capsys.readouterr().err
