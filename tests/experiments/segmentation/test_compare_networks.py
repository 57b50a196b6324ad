"""Comparing networks, and the subcommands evaluate and predict, on one short training.

`test_missing_scores.py` has a comparison that trains its networks itself.
"""

import json
import shutil

import cv2
import jax
import numpy as np
import PIL.Image
import pytest

from experiments import cityscapes_boxenet
from experiments.common.program import exit_code
from experiments.segmentation import compare_networks
from experiments.segmentation.saved_run import open_run
from tests.cases.runs import TRAINING

_ARGUMENTS = [*TRAINING, "--steps", "13"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, trained):
    out = tmp_path_factory.mktemp("comparison")
    shutil.copytree(trained, out / "enet-minus-0")
    # Flax's BatchNorm and optax's Adam mix ranks and dtypes.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        networks = ["--networks", "enet-minus", "--out", str(out)]
        assert exit_code(compare_networks.main, [*networks, "--seeds", "0", *_ARGUMENTS]) == 0
        yield out, networks


def test_tabulates_all_runs_of_one_budget(runs, capsys):
    out, networks = runs
    first, second = out / "enet-minus-0", out / "enet-minus-1"
    shutil.copytree(first, second)
    settings, records = ((second / name) for name in ("settings.json", "metrics.jsonl"))
    settings.write_text(settings.read_text().replace('"seed": 0', '"seed": 1'))
    *others, last = map(json.loads, records.read_text().splitlines())
    changed = [*others, {**last, "mean_iou": last["mean_iou"] + 0.02}]
    records.write_text("".join(json.dumps(record) + "\n" for record in changed))
    before = {file: file.read_bytes() for file in out.glob("*/*") if file.is_file()}

    assert exit_code(compare_networks.main, [*networks, "--seeds", "0", *_ARGUMENTS]) == 0
    # What was trained is not trained again.
    assert before == {file: file.read_bytes() for file in out.glob("*/*") if file.is_file()}
    results = json.loads((out / "runs.json").read_text())
    assert [(run["name"], run["seed"]) for run in results] == [
        ("enet-minus", 0),
        ("enet-minus", 1),
    ]
    row = (out / "table.md").read_text().splitlines()[-1]
    assert row.startswith(f"| enet-minus | 2 | {100 * last['mean_iou'] + 1:.1f} ± 1.4 |")
    assert row in capsys.readouterr().out
    assert (out / "curves.png").stat().st_size > 5000

    other = [*networks, *_ARGUMENTS, "--learning-rate", "1"]
    assert exit_code(compare_networks.main, other) == 2
    assert "was trained with another training" in capsys.readouterr().err
    assert not (out / "enet-minus-2").exists()


def test_networks_that_are_none_are_refused(tmp_path, capsys):
    assert exit_code(compare_networks.main, ["--networks", "lenet", "--out", str(tmp_path)]) == 2
    assert "--networks must be among" in capsys.readouterr().err


def test_evaluates_at_the_resolution_of_the_labels(runs, capsys):
    run = runs[0] / "enet-minus-0"
    assert exit_code(cityscapes_boxenet.main, ["evaluate", str(run)]) == 0
    printed = capsys.readouterr().out
    report = json.loads((run / "evaluation.json").read_text())
    # Generated labels have the resolution at which the network works: the last record's scores.
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    for measure in ("mean_iou", "class_accuracy", "pixel_accuracy"):
        assert report[measure] == pytest.approx(last[measure], abs=1e-3)
        assert f"{report[measure]:.3f}" in printed
    assert np.sum(report["confusion"]) <= 64 * 16 * 32
    assert set(report["categories"]["iou"]) == {
        *("flat", "construction", "object", "nature", "sky", "human", "vehicle")
    }
    assert (run / "confusion.png").stat().st_size > 5000
    assert exit_code(cityscapes_boxenet.main, ["evaluate", str(run.parent)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_predicts_a_folder_and_names_what_it_cannot_read(runs, tmp_path, capsys, rng):
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for name, shape in (("a.png", (20, 50, 3)), ("b.jpg", (9, 7, 3))):
        cv2.imwrite(str(images / name), rng.integers(0, 256, shape).astype(np.uint8))
    (images / "broken.png").write_bytes(b"")
    arguments = ["predict", str(runs[0] / "enet-minus-0"), str(images), "--out", str(out)]
    assert exit_code(cityscapes_boxenet.main, arguments) == 2
    assert f"{images / 'broken.png'}: empty" in capsys.readouterr().err
    assert sorted(file.name for file in out.iterdir()) == [
        *("a_labels.png", "a_overlay.png", "b_labels.png", "b_overlay.png")
    ]
    classes = open_run(runs[0] / "enet-minus-0").val.classes
    for name, shape in (("a", (20, 50)), ("b", (9, 7))):
        labels = np.asarray(PIL.Image.open(out / f"{name}_labels.png"))
        assert labels.shape == shape
        assert labels.max() < len(classes)
        # The legend is below the image.
        height, width, _ = cv2.imread(str(out / f"{name}_overlay.png")).shape
        assert height > shape[0]
        assert width >= shape[1]
    image = cv2.imread(str(images / "a.png")).astype(float)
    labels = np.asarray(PIL.Image.open(out / "a_labels.png"))
    overlay = cv2.imread(str(out / "a_overlay.png")).astype(float)[:20, :50]
    expected = (image + classes.paint(labels)[..., ::-1]) / 2
    np.testing.assert_allclose(overlay, expected, atol=0.51)

    (images / "broken.png").unlink()
    assert exit_code(cityscapes_boxenet.main, [*arguments, "--tint", "2"]) == 2
    assert "--tint must be from 0 to 1; got 2.0" in capsys.readouterr().err
