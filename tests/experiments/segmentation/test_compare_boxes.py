"""The comparison of variants of how boxes learn: its table, what it refuses, and one run of it."""

import json

import pytest

from experiments.common.program import exit_code
from experiments.segmentation import compare_boxes
from experiments.segmentation.comparison import FinishedRun


def _run(name, seed, score, share):
    boxes = {"box layer 1": {"at_minimum": share}, "box layer 2": {"at_minimum": 0.0}}
    return FinishedRun(name, seed, [{"mean_iou": 0.9}, {"mean_iou": score, "boxes": boxes}])


def test_differences_are_of_the_same_seeds():
    finished = {
        "half-steps": [_run("half-steps", seed, 0.5 + 0.01 * seed, 0.4) for seed in (1, 2, 5)],
        "redraw": [_run("redraw", 2, 0.4, 0.2)],
        "library": [_run("library", seed, 0.5 - 0.01 * seed, 0.2) for seed in (0, 1, 2)],
        "full-scale": [_run("full-scale", 7, 0.5, 0.2)],
    }
    rows = [line.split(" | ") for line in compare_boxes.table(finished).split("\n")[2:]]
    assert [row[0].removeprefix("| ") for row in rows] == [
        *("library", "half-steps", "full-scale", "redraw")
    ]
    assert [row[2:] for row in rows] == [
        ["3", "49.0 ± 1.0", "", "10 |"],
        ["3", "52.7 ± 2.1", "+3.0 ± 1.4", "20 |"],
        ["1", "50.0", "", "10 |"],
        ["1", "40.0", "-8.0", "10 |"],
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variants", "none"], "--variants must be among library,"),
        (["--variants", "redraw", "redraw"], "--variants"),
        (["--box-learning", "redraw"], "--box-learning has no effect here; give --variants redraw"),
        (["--no-track-boxes"], "--no-track-boxes has no effect here"),
    ],
)
def test_bad_arguments_say_what_is_allowed(tmp_path, capsys, arguments, message):
    assert exit_code(compare_boxes.main, ["--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("relaxed_promotion")
def test_ways_are_trained_tracked_and_tabulated(tmp_path, capsys):
    arguments = ["--size", "16x32", "--steps", "13", "--batch-size", "48", "--seeds", "0"]
    variants = ["--variants", "quarter-steps", "smooth-gradient", "--out", str(tmp_path)]
    assert exit_code(compare_boxes.main, [*arguments, *variants]) == 0
    table = (tmp_path / "table.md").read_text()
    assert table in capsys.readouterr().out
    assert len(table.strip().split("\n")) == 5
    moved = {}
    for run in json.loads((tmp_path / "runs.json").read_text()):
        # The thirteenth step is the first of an epoch, and boxes move in it too.
        moved[run["name"]] = [record["boxes"]["box layer 1"]["moved"] for record in run["records"]]
        assert (tmp_path / f"{run['name']}-0" / "box_statistics.png").stat().st_size > 5000
    assert all(first > last > 0 for first, last in moved.values())
    assert moved["quarter-steps"][0] < moved["library"][0]
