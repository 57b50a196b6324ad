"""Files of weights: what comes back is what was saved, and hostile files are refused in a line."""

import dataclasses
import json
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from jaxbox import models, surgery
from jaxbox.models import ModelCard, catalogue
from jaxbox.models.inference import for_inference
from jaxbox.models.weights import CARD, create_from_card
from tests.cases.networks import IMAGE_SIZE, SMALL_ENET

CARD_OF_STREETS = ModelCard(
    "boxenet",
    IMAGE_SIZE,
    ("road", "car", "Straße"),
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.25, 0.3),
    license="CC0-1.0",
    colors=((128, 64, 128), (0, 0, 142), (1, 2, 3)),
    more={"scores": {"mean_iou": 0.5, "iou": [0.1, None]}, "data": "streets"},
)


@pytest.fixture(scope="module", autouse=True)
def small_network():
    """Puts a network that compiles faster in the place of BoxENet; it has every kind of block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(catalogue.VARIANTS["paper"], "boxenet", SMALL_ENET)
        yield


def _draw(make):
    """Draws a network's arrays by NumPy, which compiles nothing."""
    rng = np.random.default_rng(0)
    model = nnx.eval_shape(make)
    filled = [
        (path, leaf.replace(jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype)))
        for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Not(nnx.RngState)))
    ]
    nnx.update(model, nnx.from_flat_state(filled))
    nnx.reseed(model, default=1)
    return model


@pytest.fixture(scope="module")
def model(small_network):  # noqa: ARG001
    return _draw(lambda: create_from_card(CARD_OF_STREETS))


@pytest.fixture(scope="module")
def file(tmp_path_factory, model):
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    models.save(path, model, CARD_OF_STREETS)
    return path


def _arrays(model):
    state = nnx.state(model, nnx.Not(nnx.RngState))
    return {path: np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(state)}


def _assert_same(loaded, model):
    expected = _arrays(model)
    assert _arrays(loaded).keys() == expected.keys()
    for path, array in _arrays(loaded).items():
        np.testing.assert_array_equal(array, expected[path])


def test_what_was_saved_is_loaded(file, model):
    loaded, card = models.load(str(file))
    assert card == CARD_OF_STREETS
    _assert_same(loaded, model)
    windows = [
        leaf.get_metadata("window")
        for path, leaf in nnx.to_flat_state(nnx.state(loaded))
        if path[-1] == "theta"
    ]
    assert windows == [(4, 6)]
    # In evaluation mode, and ready to train on: dropout's keys differ from layer to layer.
    assert all(layer.deterministic for _, layer in nnx.iter_modules(loaded) if _drops(layer))
    keys = [str(leaf[...]) for _, leaf in nnx.to_flat_state(nnx.state(loaded, nnx.RngKey))]
    assert len(set(keys)) == len(keys) > 1
    shapes = jax.eval_shape(lambda: loaded(card.normalize(np.zeros((*IMAGE_SIZE, 3), np.uint8))))
    assert shapes.shape == (*IMAGE_SIZE, 3)


def _drops(layer):
    return isinstance(layer, nnx.Dropout)


def test_files_depend_on_network_and_card_alone(file, model, tmp_path):
    models.save(tmp_path / "again.safetensors", model, CARD_OF_STREETS)
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


def test_other_readers_find_tensors_and_text(file):
    tensors = safetensors.numpy.load_file(file)
    assert tensors["blocks.3.boxes.theta"].shape == (4, 4, 4)
    assert {str(array.dtype) for array in tensors.values()} == {"float32"}
    with safetensors.safe_open(file, "numpy") as opened:
        card = json.loads(opened.metadata()[CARD])
    assert card["architecture"] == "boxenet"
    assert card["classes"] == ["road", "car", "Straße"]
    assert card["license"] == "CC0-1.0"


def test_pixels_become_input():
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 15
    exact = (pixels / 255 - np.array([[[0.4, 0.5, 0.6]]])) / np.array([[[0.2, 0.25, 0.3]]])
    np.testing.assert_allclose(CARD_OF_STREETS.normalize(pixels), exact, atol=1e-5)
    with pytest.raises(ValueError, match=r"images must be \(..., H, W, 3\)"):
        CARD_OF_STREETS.normalize(np.ones((3, 2)))


def test_networks_that_were_changed(tmp_path):
    def make(card):
        model = create_from_card(card)
        return surgery.replace_convs(model, card.more["context"], rngs=nnx.Rngs(0))

    card = dataclasses.replace(CARD_OF_STREETS, more={"context": "doconv"})
    model, path = _draw(lambda: make(card)), tmp_path / "weights"
    with pytest.raises(ValueError, match="model must be the network that its card describes"):
        models.save(path, model, card)
    assert not path.exists()
    models.save(path, model, card, make=make)
    _assert_same(models.load(path, make=make)[0], model)
    with pytest.raises(ValueError, match=r"its tensors are not those of the network: it lacks"):
        models.load(path)


@pytest.mark.parametrize(
    "changes",
    [{"architecture": "enet"}, {"classes": ("a", "b"), "colors": None}, {"image_size": (16, 32)}],
)
def test_cards_of_other_networks(model, tmp_path, changes):
    card = dataclasses.replace(CARD_OF_STREETS, **changes)
    if "image_size" in changes:  # which sets the windows of boxes, and no shape
        models.save(tmp_path / "weights", model, card)
        return
    with pytest.raises(ValueError, match="model must be the network that its card describes"):
        models.save(tmp_path / "weights", model, card)


def test_a_folded_network_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match=r"it lacks .* and [0-9]+ more"):
        models.save(tmp_path / "weights", for_inference(model), CARD_OF_STREETS)


# What makes other bytes of a file, and what the message says.
def _card_with(**changes):
    def change(tensors, card):
        return tensors, json.dumps({**json.loads(card), **changes})

    return change


def _tensors_with(name, array):
    def change(tensors, card):
        changed = {**tensors, name: array}
        return {key: value for key, value in changed.items() if value is not None}, card

    return change


_THETA = "blocks.3.boxes.theta"
HOSTILE = [
    (_card_with(version=2), "has the version 2"),
    (_card_with(architecture="resnet"), "architecture must be one of enet"),
    (_card_with(architecture=["enet"]), "architecture must be one of enet"),
    (_card_with(architecture="enet"), "its tensors are not those of the network: it lacks"),
    (_card_with(variant=None), "variant must be one of paper"),
    (_card_with(dtype="float8"), "dtype must be one of float32"),
    (_card_with(image_size=[16]), "image_size must be two integers"),
    (_card_with(image_size=[17, 24]), "H of image_size must be a multiple of 8"),
    (_card_with(image_size="huge"), "image_size must be a sequence"),
    (_card_with(classes=["a"]), "colors must be three integers from 0 to 255 for each of 1"),
    (_card_with(classes=["a"], colors=None), r"is F32 \(.*\) and must be F32 \("),
    (_card_with(classes=[]), "classes must be one or more different names"),
    (_card_with(classes=["a", "a", "b"]), "classes must be one or more different names"),
    (_card_with(classes=[1, 2, 3]), "classes must be names"),
    (_card_with(classes=7), "classes must be a sequence"),
    (_card_with(colors=[[0, 0, 256]] * 3), "colors must be three integers"),
    (_card_with(colors=[0, 0, 0]), "each of colors must be a sequence"),
    (_card_with(mean=[0, 0]), "mean must be three finite numbers"),
    (_card_with(mean=["0", 0, 0]), "mean must be three numbers"),
    (_card_with(std=[0, 1, 1]), "std must be three finite numbers above 0"),
    (_card_with(license=""), "license must be a text"),
    (_card_with(more=[1]), "more must be an object"),
    (_card_with(surprise=1), "lacks entries or has others than this jaxbox knows: surprise"),
    (lambda tensors, _: (tensors, "{"), "the card is not JSON"),
    (lambda tensors, _: (tensors, "[" * 10**5), "the card is not JSON"),
    (lambda tensors, _: (tensors, "[1]"), "the card is no JSON object"),
    (lambda tensors, _: (tensors, None), "its metadata have no 'jaxbox_model_card'"),
    (_tensors_with(_THETA, None), f"it lacks {_THETA}"),
    (_tensors_with("classifier.more", np.zeros(3, np.float32)), "has the unknown classifier.more"),
    (_tensors_with(_THETA, np.zeros((4, 4), np.float32)), rf"{_THETA} is F32 \(4, 4\) and must be"),
    (_tensors_with(_THETA, np.zeros((4, 4, 4))), rf"{_THETA} is F64 \(4, 4, 4\) and must be F32"),
]


@pytest.mark.parametrize(("change", "message"), HOSTILE)
def test_hostile_files(file, tmp_path, change, message):
    tensors = safetensors.numpy.load_file(file)
    with safetensors.safe_open(file, "numpy") as opened:
        card = opened.metadata()[CARD]
    tensors, card = change(tensors, card)
    path = tmp_path / "hostile.safetensors"
    safetensors.numpy.save_file(tensors, path, None if card is None else {CARD: card})
    _assert_refused(path, message)


def test_damaged_files(file, tmp_path):
    path = tmp_path / "damaged.safetensors"
    data = file.read_bytes()
    for damaged in (b"", b"x", data[:7], data[:100], data[:-1], data + b"x", b"\xff" * 1000):
        path.write_bytes(damaged)
        _assert_refused(path, "Error while deserializing header")


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        models.load(tmp_path / "missing")
    with pytest.raises(ValueError, match="path must be a file"):
        models.load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="path must be a file"):
        models.load(tmp_path / "pipe")


def _assert_refused(path, message):
    with pytest.raises(ValueError, match=message) as caught:
        models.load(path)
    assert re.fullmatch(
        rf"'{re.escape(str(path))}' holds no weights that can be loaded: .+", str(caught.value)
    )


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"more": {"a": object()}}, TypeError, "more must be an object that JSON can hold"),
        ({"more": {"a": float("nan")}}, TypeError, "more must be an object that JSON can hold"),
        ({"license": None}, TypeError, "license must be a text"),
        ({"classes": "road"}, TypeError, "classes must be a sequence"),
    ],
)
def test_cards_that_are_none(changes, kind, message):
    with pytest.raises(kind, match=message):
        dataclasses.replace(CARD_OF_STREETS, **changes)


def test_arguments(model, file, tmp_path):
    with pytest.raises(TypeError, match="card must be a ModelCard, got a dict"):
        models.save(tmp_path / "weights", model, {})
    with pytest.raises(TypeError, match="model must be a SegmentationNetwork"):
        models.save(tmp_path / "weights", nnx.Linear(1, 1, rngs=nnx.Rngs(0)), CARD_OF_STREETS)
    with pytest.raises(TypeError, match="make must be a function"):
        models.load(file, make="enet")
