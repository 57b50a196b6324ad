"""Scores that do not exist, since every label is void: `none` in texts and null in JSON."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from experiments import cityscapes_boxenet
from experiments.common.json_files import dump_json, parse_json
from experiments.common.outputs import json_output
from experiments.common.program import exit_code
from experiments.paper.prune_boxes import table_row
from experiments.segmentation import compare_networks
from experiments.segmentation.comparison import FinishedRun, mean_and_deviation
from experiments.segmentation.data.camvid import CAMVID
from experiments.segmentation.drawing import draw_comparison, draw_curves

pytestmark = pytest.mark.usefixtures("relaxed_promotion")

MEASURES = ("mean_iou", "class_accuracy", "pixel_accuracy")
SIZE = ["--size", "16x32", "--recipe", "plain", "--batch-size", "2", "--steps", "2"]


@pytest.fixture
def camvid(tmp_path, rng):
    """CamVid's tree; all labels of `val` are void, as in Cityscapes' test split."""
    for split, values in (("train", 12), ("val", 0)):
        for name in "ab":
            image = rng.integers(0, 256, (16, 32, 3)).astype(np.uint8)
            label = rng.integers(0, values, (16, 32)) if values else np.full((16, 32), 11)
            for folder, pixels in ((split, image), (f"{split}annot", label.astype(np.uint8))):
                (tmp_path / folder).mkdir(exist_ok=True)
                (tmp_path / folder / f"{name}.png").write_bytes(
                    cv2.imencode(".png", pixels)[1].tobytes()
                )
    return tmp_path


def test_training_and_evaluation_go_on_to_their_ends(camvid, capsys):
    out = camvid / "runs"
    arguments = ["--networks", "enet-minus", "--seeds", "0", "--data", f"camvid:{camvid}", *SIZE]
    for _ in range(2):  # the second time from what the first wrote
        assert exit_code(compare_networks.main, [*arguments, "--out", str(out)]) == 0
        assert "| enet-minus | 1 | none | none | none |" in capsys.readouterr().out
    run = out / "enet-minus-0"
    record = parse_json((run / "metrics.jsonl").read_bytes().splitlines()[-1])
    assert [record[measure] for measure in MEASURES] == [None] * 3
    assert set(record["iou"].values()) == {None}
    assert parse_json((out / "runs.json").read_bytes())[0]["records"][-1]["mean_iou"] is None

    assert exit_code(cityscapes_boxenet.main, ["evaluate", str(run)]) == 0
    printed = capsys.readouterr().out
    report = parse_json((run / "evaluation.json").read_bytes())
    assert [report[measure] for measure in MEASURES] == [None] * 3
    assert {*report["iou"].values(), *report["accuracy"].values()} == {None}
    assert printed.count("none") == 2 * (len(CAMVID) + 1) + 1
    assert "nan" not in printed
    names = ("predictions", "curves", "confusion")
    for picture in (*(run / f"{name}.png" for name in names), out / "curves.png"):
        assert picture.stat().st_size > 5000


def test_the_table_of_pruning_says_none():
    counts = {"boxes": 2, "parameters": 3000, "multiply_adds": 4}
    row = {**counts, "pixel_accuracy": float("nan"), "mean_iou": float("nan")}
    assert table_row("nothing", row) == "| nothing | 2 | 3,000 | 4 | none | none |"


def test_training_labels_that_are_all_void_are_named(camvid, capsys):
    shutil.rmtree(camvid / "trainannot")
    shutil.copytree(camvid / "valannot", camvid / "trainannot")
    arguments = ["--data", f"camvid:{camvid}", *SIZE, "--out", str(camvid / "run")]
    assert exit_code(cityscapes_boxenet.main, arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: every pixel of the training labels is void")
    assert error.count("\n") == 1


def records(*scores):
    return [
        {"step": i, "epoch": i, "loss": 1.0} | dict.fromkeys(MEASURES, score)
        for i, score in enumerate(scores, 1)
    ]


@pytest.mark.parametrize(
    ("last", "text"),
    [((0.5,), "50.0"), ((0.25, 0.75), "50.0 ± 35.4"), ((None,), "none"), ((0.5, None), "none")],
)
def test_a_mean_over_runs_without_a_score_is_none(last, text):
    runs = [FinishedRun("enet", seed, records(0.1, score)) for seed, score in enumerate(last)]
    assert mean_and_deviation(runs, "mean_iou") == text


@pytest.mark.parametrize("scores", [(None,), (None, None), (0.1, None, 0.3)])
def test_curves_have_gaps_where_there_is_no_score(scores, tmp_path):
    for figure in (
        draw_curves(records(*scores)),
        draw_comparison(
            {"enet": [records(*scores), records(*scores)], "erfnet": [records(*scores)]}
        ),
    ):
        figure.savefig(tmp_path / "curves.png")
        drawn = figure.axes[-1].lines[0].get_ydata()
        np.testing.assert_array_equal(np.isnan(drawn), [score is None for score in scores])


def test_json_has_null_for_every_number_that_json_lacks():
    content = {"a": float("nan"), "b": [float("inf"), (1.5, -float("inf"))], "c": np.float64("nan")}
    assert json.loads(dump_json(content)) == {"a": None, "b": [None, [1.5, None]], "c": None}
    # A file of an older program, which wrote bare NaN, may be replaced.
    assert json_output(Path("a.json"), ["step"]).is_own(b'{"step": 1, "mean_iou": NaN}')
