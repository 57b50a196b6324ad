"""What `predict` writes and leaves alone, and runs whose data set is somewhere else by now."""

import json
import os
import shutil

import cv2
import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from experiments import cityscapes_boxenet
from experiments.common.program import exit_code
from experiments.segmentation.data import datasets
from experiments.segmentation.data.palette import read_palette
from experiments.segmentation.training.settings import Settings, parse
from jaxbox.models import catalogue
from tests.cases.networks import SMALL_ENET
from tests.cases.runs import make_run

pytestmark = pytest.mark.usefixtures("relaxed_promotion", "small_network")

PALETTE = {
    "classes": [
        {"name": "road", "color": [128, 64, 128], "value": 7},
        {"name": "car", "color": [0, 0, 142], "value": 26},
    ],
    "void": [0],
}
DATA = "folder:{}"


def write_image(path, rng, shape=(20, 30, 3)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 256, shape).astype(np.uint8)
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())


def run_program(*arguments):
    return exit_code(cityscapes_boxenet.main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def small_network():
    """Puts a network that compiles faster in the place of ENet−: the files are alike."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(catalogue.VARIANTS["paper"], "enet-minus", SMALL_ENET)
        yield


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """The programs run again and again in one process, and each compiles the same network."""
    cached = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: jax.config.values[name] for name in cached}
    for values in (cached, before):
        for name, value in values.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        if values is cached:
            yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set in a folder, with held-out pictures only."""
    folder = tmp_path_factory.mktemp("data") / "set"
    rng = np.random.default_rng(0)
    write_image(folder / "val" / "images" / "a.png", rng)
    labels = folder / "val" / "labels" / "a.png"
    labels.parent.mkdir()
    labels.write_bytes(cv2.imencode(".png", np.full((20, 30), 26, np.uint8))[1].tobytes())
    (folder / "palette.json").write_text(json.dumps(PALETTE))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, folder):
    """A run on that data set when it was somewhere else, with two checkpoints."""
    out = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["--data", DATA.format("nowhere"), "--model", "enet-minus", "--size", "16x32"]
    settings = parse(Settings(), "", [*arguments, "--steps", "3"])
    classes = read_palette(folder / "palette.json")
    return make_run(out, settings, classes, samples=(2, 1), saved_steps=(2, 3))


def files(directory):
    return {file: file.read_bytes() for file in directory.rglob("*") if file.is_file()}


def test_predict_needs_no_data_set_and_replaces_its_own_results_only(run, tmp_path, rng, capsys):
    names = [
        b"a.png",
        b"\xff\xfe.png",
        "\u00fc.png".encode(),
        b"new\nline.png",
        b"x" * 245 + b".png",
    ]
    for name in names:
        write_image(tmp_path / os.fsdecode(name), rng)
    write_image(tmp_path / "taken.png", rng)
    (tmp_path / "taken_overlay.png").mkdir()
    write_image(tmp_path / "b.png", rng)
    (tmp_path / "b_labels.png").write_text("mine")
    (tmp_path / "broken.png").write_bytes(b"")
    before = files(tmp_path)

    for _ in range(2):  # the second time results of the first lie among the images
        assert run_program("predict", run, tmp_path, "--out", tmp_path) == 2
        captured = capsys.readouterr()
        after = files(tmp_path)
        assert after == after | before  # nothing is replaced
        written = {os.fsencode(file.name) for file in after.keys() - before.keys()}
        expected = {
            os.fsencode(f"{os.fsdecode(name)[:-4]}_{kind}.png")
            for name in names[:4]
            for kind in ("labels", "overlay")
        }
        assert written - {b"taken_labels.png"} == expected
        assert "4 images segmented" in captured.out
        for problem in (
            "broken.png",
            "b_labels.png was not written by this program",
            "x_labels.png: File name too long",
            "taken_overlay.png",
        ):
            assert captured.err.count(problem) >= 1, captured.err
        assert "Traceback" not in captured.err
    overlay = cv2.imdecode(np.frombuffer(after[tmp_path / "a_overlay.png"], np.uint8), 1)
    assert overlay.shape[0] > 20  # with the legend below the image of 20 x 30 pixels
    assert overlay.shape[1] >= 30


def test_the_data_option_says_where_the_data_set_is_now(run, folder, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    assert run_program("evaluate", copy) == 2
    assert "nowhere/val" in capsys.readouterr().err
    assert run_program("evaluate", copy, "--data", "synthetic") == 2
    assert "--data must be the data set of the run" in capsys.readouterr().err
    now = DATA.format(folder)
    assert run_program("evaluate", copy, "--data", now) == 0
    assert json.loads((copy / "evaluation.json").read_text())["step"] == 3
    # The training pictures are not there: nothing but training reads them.
    assert not (folder / "train").exists()


def test_a_data_set_with_other_classes_is_refused(run, folder, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    palette = {**PALETTE, "classes": PALETTE["classes"][::-1]}
    (other / "palette.json").write_text(json.dumps(palette))
    assert run_program("evaluate", run, "--data", DATA.format(other)) == 2
    assert "has the classes car, road, and the run in" in capsys.readouterr().err


def test_resuming_checks_that_the_moved_data_set_is_the_same(run, folder, tmp_path, capsys):
    copy, moved = tmp_path / "run", tmp_path / "set"
    shutil.copytree(run, copy)
    shutil.copytree(folder, moved)
    shutil.copytree(moved / "val", moved / "train")  # one picture, and the run had two
    before = files(copy)
    arguments = ["--data", DATA.format(moved), "--model", "enet-minus"]
    arguments += ["--size", "16x32", "--steps", "3", "--resume"]
    assert run_program(*arguments, "--out", copy) == 2
    assert "is not the data set of the run" in capsys.readouterr().err
    assert files(copy) == before


def test_a_run_of_an_older_program_finds_its_classes_itself(run, folder, tmp_path, rng, capsys):
    copy, images = tmp_path / "run", tmp_path / "images"
    shutil.copytree(run, copy)
    (copy / "data.json").unlink()
    write_image(images / "a.png", rng)
    arguments = ["predict", copy, images, "--out", tmp_path / "out"]
    assert run_program(*arguments) == 2
    assert "nowhere/val" in capsys.readouterr().err
    assert run_program(*arguments, "--data", DATA.format(folder)) == 0
    # Data sets whose classes are always the same need not be there.
    assert all(
        entry.classes is not None
        for name, entry in datasets.DATA_SETS.items()
        if name in ("camvid", "cityscapes", "sunrgbd")
    )


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(run, folder, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "checkpoints" / "3" / "default")
    assert run_program("evaluate", copy, "--data", DATA.format(folder)) == 0
    assert json.loads((copy / "evaluation.json").read_text())["step"] == 2
    error = capsys.readouterr().err
    assert "checkpoint 3 in" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["evaluation.json", "confusion.png"])
def test_evaluate_leaves_files_that_it_did_not_write(run, tmp_path, capsys, name):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / name).write_text("mine")
    assert run_program("evaluate", copy) == 2  # before it looks for the data set
    assert f"{name} was not written by this program" in capsys.readouterr().err
    assert (copy / name).read_text() == "mine"


def test_the_output_is_checked_before_data_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(datasets, "_entry", lambda text: pytest.fail(f"{text} was opened"))
    (tmp_path / "file").write_text("")
    for out in ("file", "file/below", "n" * 300, "/proc/none/run"):
        assert run_program("--out", tmp_path / out) == 2
        assert capsys.readouterr().err.count("\n") == 1
