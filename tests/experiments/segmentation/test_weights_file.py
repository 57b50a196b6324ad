"""Files of weights that programs write: used without run and data set, and hostile ones."""

import dataclasses
import json
import shutil
import subprocess
import sys

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from experiments import cityscapes_boxenet, export
from experiments.common.program import exit_code
from experiments.segmentation.data.camvid import CAMVID
from experiments.segmentation.data.cityscapes import CITYSCAPES
from experiments.segmentation.input.normalization import IMAGENET
from experiments.segmentation.weights_file import NAME, read_weights
from jaxbox import models
from jaxbox.layers import DOConv
from jaxbox.models.weights import CARD
from tests.cases.runs import SETTINGS, SIZE, make_run

pytestmark = pytest.mark.usefixtures("relaxed_promotion", "small_network")


@pytest.fixture(scope="module")
def run(tmp_path_factory, small_network):  # noqa: ARG001
    return make_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def file(tmp_path_factory, run):
    """The weights of the run, in a directory without it."""
    file = tmp_path_factory.mktemp("elsewhere") / "streets.safetensors"
    assert _run_program(export, run, "--format", "weights", "--out", file) == 0
    return file


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder with a picture larger than the network's images."""
    folder = tmp_path_factory.mktemp("images")
    blocks = np.random.default_rng(0).integers(0, 256, (5, 5, 3)).astype(np.uint8)
    pixels = cv2.resize(blocks, (70, 40), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(folder / "a.png"), pixels)
    return folder


def _run_program(program, *arguments):
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return exit_code(program.main, [str(argument) for argument in arguments])


def _predict(network, images, out, *more):
    code = _run_program(cityscapes_boxenet, "predict", network, images, "--out", out, *more)
    assert code == 0
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_predict_gives_the_pictures_of_the_run(run, file, images, tmp_path):
    of_file = _predict(file, images, tmp_path / "file")
    assert of_file.keys() == {"a_labels.png", "a_overlay.png"}
    assert of_file == _predict(run, images, tmp_path / "run")
    codes = _predict(file, images, tmp_path / "codes", "--codes")
    assert codes == _predict(run, images, tmp_path / "run_codes", "--codes")


def test_the_library_loads_it(file):
    model, card = models.load(file)
    assert (card.architecture, card.image_size) == ("boxenet", SIZE)
    assert (card.classes, card.colors) == (CITYSCAPES.names, CITYSCAPES.colors)
    assert (card.mean, card.std) == (IMAGENET.mean, IMAGENET.std)
    assert card.license == "Apache-2.0"
    assert card.more["run"]["data"] == "synthetic"
    assert card.more["run"]["scores"] == {
        **dict.fromkeys(["class_accuracy", "pixel_accuracy"]),
        "step": 3,
        "epoch": 0.1,
        "loss": 1,
        "mean_iou": 0.1,
    }
    assert model.classifier.kernel.shape[-1] == len(CITYSCAPES)


def test_a_card_names_no_directory(tmp_path):
    settings = dataclasses.replace(SETTINGS, data="camvid:/home/somebody/pictures")
    run = make_run(tmp_path / "run", settings, CAMVID)
    out = tmp_path / NAME
    assert _run_program(export, run, "--format", "weights", "--out", out) == 0
    for word in (b"somebody", str(tmp_path).encode()):
        assert word not in out.read_bytes()
    assert models.load(out)[1].license == "non-commercial: the terms of CamVid apply"
    assert read_weights(out).classes == CAMVID


@pytest.mark.parametrize(
    "changes", [{"context": "doconv"}, {"box_learning": "smooth-gradient"}, {"precision": "bf16"}]
)
def test_networks_with_other_layers(tmp_path, changes):
    run = make_run(tmp_path / "run", dataclasses.replace(SETTINGS, **changes))
    out = tmp_path / NAME
    assert _run_program(export, run, "--format", "weights", "--out", out) == 0
    model = read_weights(out).model
    if "context" in changes:
        assert any(isinstance(layer, DOConv) for _, layer in nnx.iter_modules(model))
    if "precision" in changes:
        assert model.dtype == jnp.bfloat16


def test_weights_that_the_library_saved(file, images, tmp_path):
    model, card = models.load(file)
    saved = tmp_path / "mine"
    models.save(saved, model, dataclasses.replace(card, more={}))
    assert _predict(saved, images, tmp_path / "mine_out") == _predict(
        file, images, tmp_path / "out"
    )


def test_training_writes_them(trained, tmp_path):
    """The run of a process of its own, whose weights are used without it."""
    shutil.copy(trained / NAME, tmp_path / "copied.safetensors")
    program = (
        "import numpy as np, jaxbox\n"
        "model, card = jaxbox.models.load('copied.safetensors')\n"
        "pixels = np.zeros((1, *card.image_size, 3), np.uint8)\n"
        "assert model(card.normalize(pixels)).shape == (1, *card.image_size, len(card.classes))\n"
        "assert card.more['run']['scores']['step'] == 13, card\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)


def test_only_weights_are_replaced(run, file, tmp_path, capsys):
    taken = tmp_path / "taken"
    taken.write_bytes(b"mine")
    arguments = (export, run, "--format", "weights", "--out", taken)
    assert _run_program(*arguments) == 2
    assert "was not written by this program" in capsys.readouterr().err
    assert taken.read_bytes() == b"mine"
    taken.write_bytes(file.read_bytes()[:1000])
    assert _run_program(*arguments) == 0
    assert taken.read_bytes() == file.read_bytes()


def _changed(file, path, **changes):
    """Writes the file's tensors with another card."""
    with safetensors.safe_open(file, "numpy") as opened:
        card = json.loads(opened.metadata()[CARD])
    text = json.dumps({**card, **changes})
    safetensors.numpy.save_file(safetensors.numpy.load_file(file), path, {CARD: text})


_RUN = {"context": "dilated", "box_learning": "library", "precision": "float32"}
HOSTILE = {
    "context must be one of dilated, box": {"more": {"run": {**_RUN, "context": "spam"}}},
    "box_learning must be one of library": {"more": {"run": {**_RUN, "box_learning": [1]}}},
    "precision must be one of float32, bf16": {"more": {"run": {**_RUN, "precision": 1}}},
    "context must be one of": {"more": {"run": "mine"}},
    "label_files is no object": {"more": {"run": _RUN, "label_files": []}},
    "codes is missing": {"more": {"label_files": {}}},
    "a code stands for no class": {"more": {"label_files": {"codes": [99]}}},
    "unknown": {"more": {"label_files": {"codes": [], "spam": 1}}},
    "has no colours of the classes": {"colors": None},
    "architecture must be one of": {"architecture": "lenet"},
    "its tensors are not those": {"architecture": "enet"},
    "std must be three finite numbers": {"std": [0, 0, 0]},
}


@pytest.mark.parametrize(("message", "changes"), HOSTILE.items())
def test_hostile_cards_are_answered_with_one_line(message, changes, file, images, tmp_path, capsys):
    hostile = tmp_path / "hostile"
    _changed(file, hostile, **changes)
    _assert_refused(hostile, message, images, tmp_path, capsys)


def test_damaged_files_are_answered_with_one_line(file, images, tmp_path, capsys):
    damaged = tmp_path / "damaged"
    for content in (file.read_bytes()[:-1], file.read_bytes()[:300]):
        damaged.write_bytes(content)
        message = "Error while deserializing header"
        _assert_refused(damaged, message, images, tmp_path, capsys)


def _assert_refused(file, message, images, tmp_path, capsys):
    arguments = ("predict", file, images, "--out", tmp_path / "out")
    assert _run_program(cityscapes_boxenet, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: RUN must be a run's directory or a file that"), error
    assert message in error
    assert error.count(str(file)) == error.count("\n") == 1
    assert not (tmp_path / "out").exists()
