"""The comparison of context blocks: its table, what it refuses, and one run of it."""

import pytest

from experiments.common.program import exit_code
from experiments.segmentation import compare_layers
from experiments.segmentation.compare_layers import Row
from experiments.segmentation.comparison import FinishedRun
from jaxbox.models.cost import Cost


def _run(name, seed, score):
    return FinishedRun(name, seed, [{"mean_iou": 0.9}, {"mean_iou": score}])


def test_the_table_has_costs_times_and_scores():
    runs = [_run("box", seed, score) for seed, score in enumerate((0.5, 0.52))]
    rows = {
        "dilated": Row(Cost(1000, 4_000_000, 3_000_000), 10.0, [_run("dilated", 0, 0.5)]),
        "box": Row(Cost(900, 4_000_000, 2_000_000), 5.0, runs),
    }
    lines = compare_layers.table(rows).split("\n")
    assert lines[2] == "| dilated | 1,000 | 3.0 | 10.0 | 1.00 | 1 | 50.0 |"
    assert lines[3] == "| box | 900 | 2.0 | 5.0 | 0.50 | 2 | 51.0 ± 1.4 |"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "12x16"], "multiple of 8"),
        (["--rounds", "-1"], "--rounds must be 0 or greater; got -1"),
        (["--model", "enet-minus", "--contexts", "dcls"], "--context must be dilated for enet-m"),
    ],
)
def test_bad_arguments_say_what_is_allowed(tmp_path, capsys, arguments, message):
    assert exit_code(compare_layers.main, ["--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("relaxed_promotion")
def test_all_context_blocks_train_and_are_tabulated(tmp_path, capsys):
    arguments = ["--size", "32x48", "--steps", "2", "--batch-size", "2", "--rounds", "1"]
    assert exit_code(compare_layers.main, [*arguments, "--out", str(tmp_path)]) == 0
    table = (tmp_path / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert len(table.strip().split("\n")) == 8
