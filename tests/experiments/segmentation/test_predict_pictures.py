"""Which pictures `predict` takes, how it turns them, and what it calls its results."""

import dataclasses
import io
import tracemalloc

import cv2
import jax
import numpy as np
import pytest
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official  # noqa: N813
from PIL import Image

from experiments import cityscapes_boxenet
from experiments.common.program import exit_code
from experiments.segmentation.data.cityscapes import CITYSCAPES
from experiments.segmentation.data.classes import ClassSet
from experiments.segmentation.saved_run import most_likely, open_run
from tests.cases.runs import make_run

pytestmark = pytest.mark.usefixtures("relaxed_promotion")

CODES = np.array([CITYSCAPES.codes.index(c) for c in range(len(CITYSCAPES))], np.uint8)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("runs") / "run")
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return open_run(run, history=False)


@pytest.fixture
def run(opened, monkeypatch):
    """The directory of a run, which is opened only once, so that its network compiles only once."""
    monkeypatch.setattr("experiments.segmentation.predict.open_run", lambda *_, **__: opened)
    return opened.settings.out


def predict(*arguments):
    return exit_code(cityscapes_boxenet.main, ["predict", *map(str, arguments)])


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {"png": "PNG", "webp": "WEBP"}.get(path.suffix[1:].lower(), "JPEG")
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, kind, **options)
    path.write_bytes(file.getvalue())


def read(path):
    return cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)


def test_images_of_all_suffixes_and_folders_get_results_of_their_own(run, tmp_path, rng, capsys):
    images, out = tmp_path / "images", tmp_path / "images" / "out"
    names = {
        "a.JPG": "a.JPG",
        "a.jpg": "a.jpg",
        "a.PNG": "a.PNG",
        "b.jpeg": "b",
        "ulm/c.webp": "ulm/c",
        "bonn/c.png": "bonn/c",
    }
    for name in names:
        save(images / name, rng.integers(0, 256, (9, 14, 3)).astype(np.uint8))
    (images / "notes.txt").write_text("mine")
    (images / "IMG_1.HEIC").write_bytes(b"")
    expected = {f"{stem}_{kind}.png" for stem in names.values() for kind in ("labels", "overlay")}
    for results in ("", "12 results of this program are left out"):
        assert predict(run, images, "--out", out) == 0
        printed = capsys.readouterr().out
        assert "6 images segmented" in printed
        assert results in printed
        assert "left out, since they are no images by their names: 1 .heic, 1 .txt" in printed
        assert {str(f.relative_to(out)) for f in out.rglob("*") if f.is_file()} == expected
    empty = tmp_path / "empty"
    empty.mkdir()
    assert predict(run, empty, "--out", tmp_path / "other") == 2
    assert "empty holds no images: no *.bmp, *.jfif, *.jpe, *.jpeg, " in capsys.readouterr().err


def test_results_lie_as_the_picture_is_seen(run, tmp_path, rng):
    seen = np.repeat(rng.integers(0, 256, (20, 1, 3)), 30, axis=1).astype(np.uint8)
    seen[:10, :9] = 255
    tags = Image.Exif()
    tags[0x0112] = 6
    save(tmp_path / "in/plain.png", seen)
    save(tmp_path / "in/turned.png", np.rot90(seen), exif=tags)
    assert predict(run, tmp_path / "in", "--out", tmp_path / "out") == 0
    for kind in ("labels", "overlay"):
        plain, turned = (read(tmp_path / f"out/{name}_{kind}.png") for name in ("plain", "turned"))
        np.testing.assert_array_equal(turned, plain)


def test_codes_are_what_the_official_evaluation_takes(run, tmp_path, rng, monkeypatch):
    images, out = tmp_path / "leftImg8bit/val", tmp_path / "results"
    names = [f"ulm/ulm_00000{number}_000019" for number in (0, 1)]
    for name in names:
        save(images / f"{name}_leftImg8bit.png", rng.integers(0, 256, (16, 32, 3)).astype(np.uint8))
    assert predict(run, images, "--out", tmp_path / "classes") == 0
    assert predict(run, images, "--out", out, "--codes") == 0
    monkeypatch.setattr(official.args, "predictionPath", str(out))
    monkeypatch.setattr(official.args, "predictionWalk", None)
    for name in names:
        truth = tmp_path / f"gtFine/val/{name}_gtFine_labelIds.png"
        # The official program ends if there is no file for this truth, or more than one.
        found = official.getPrediction(official.args, str(truth))
        classes = np.asarray(Image.open(tmp_path / f"classes/{name}_leftImg8bit_labels.png"))
        np.testing.assert_array_equal(np.asarray(Image.open(found)), CODES[classes])


def test_codes_of_a_data_set_without_any_are_refused(opened, tmp_path, rng, capsys, monkeypatch):
    classes = dataclasses.replace(CITYSCAPES, codes=())
    colored = dataclasses.replace(opened, classes=classes)
    monkeypatch.setattr("experiments.segmentation.predict.open_run", lambda *_, **__: colored)
    run = opened.settings.out
    save(tmp_path / "in/a.png", rng.integers(0, 256, (16, 32, 3)).astype(np.uint8))
    assert predict(run, tmp_path / "in", "--out", tmp_path / "out", "--codes") == 2
    error = capsys.readouterr().err
    assert "--codes must not be given" in error
    assert "label files are pictures in the colours of the classes" in error
    assert not list((tmp_path / "out").iterdir())


def test_encoding_turns_decoding_back(rng):
    labels = rng.integers(0, len(CITYSCAPES), (4, 5))
    np.testing.assert_array_equal(CITYSCAPES.decode(CITYSCAPES.encode(labels)), labels)
    with pytest.raises(ValueError, match="no values for the classes sky"):
        ClassSet(("sky",), ((1, 2, 3),), codes=(None,)).encode(labels)


@pytest.mark.parametrize("classes", [1, 2, 19, 128, 129, 254])
def test_any_number_of_classes_can_be_resized(rng, classes):
    wanted = rng.integers(0, classes, (4, 6))
    logits = (np.arange(classes) == wanted[..., None]).astype(np.float32)
    np.testing.assert_array_equal(most_likely(logits, (4, 6)), wanted)
    assert most_likely(logits, (9, 5)).shape == (9, 5)


def test_large_images_do_not_take_memory_for_each_class(rng):
    logits = rng.normal(size=(4, 6, 200)).astype(np.float32)
    size = (300, 500)
    tracemalloc.start()
    labels = most_likely(logits, size)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert labels.shape == size
    assert peak < 16 * labels.size


def test_equally_likely_classes_are_the_first_of_them():
    assert not most_likely(np.zeros((2, 3, 5), np.float32), (4, 6)).any()


def test_a_long_picture_is_segmented_as_a_whole(run, tmp_path, rng):
    """It is longer than the 32767 pixels that some of OpenCV's functions can count."""
    stripes = np.repeat(rng.integers(0, 256, (1, 8, 3)), 5000, axis=1).astype(np.uint8)
    save(tmp_path / "in/long.png", np.repeat(stripes, 2, axis=0))
    assert predict(run, tmp_path / "in", "--out", tmp_path / "out") == 0
    assert np.asarray(Image.open(tmp_path / "out/long_labels.png")).shape == (2, 40_000)
    assert read(tmp_path / "out/long_overlay.png").shape[1:] == (40_000, 3)


def test_files_are_segmented_as_well_as_folders(run, tmp_path, rng, capsys):
    for name in ("one/a.png", "one/a.jpg", "two/b.png", "three/a.png"):
        save(tmp_path / name, rng.integers(0, 256, (16, 32, 3)).astype(np.uint8))
    one, out = tmp_path / "one", tmp_path / "out"
    assert predict(run, one / "a.png", one / "a.jpg", tmp_path / "two", "--out", out) == 0
    names = {file.name for file in out.iterdir()}
    assert names == {
        f"{stem}_{kind}.png" for stem in ("a.png", "a.jpg", "b") for kind in ("labels", "overlay")
    }
    capsys.readouterr()
    for paths, message in (
        ((one / "a.png", tmp_path / "three"), "a.png would have results of the same name"),
        ((tmp_path / "nowhere.png",), "nowhere.png: no such file or directory"),
        ((), "IMAGES must be one or more files or folders; got none"),
    ):
        assert predict(run, *paths, "--out", out) == 2
        assert message in capsys.readouterr().err


def test_labels_are_class_numbers_in_the_colours_of_the_classes(run, tmp_path, rng):
    image = rng.integers(0, 256, (60, 90, 3)).astype(np.uint8)
    save(tmp_path / "in/a.png", image)
    assert predict(run, tmp_path / "in/a.png", "--out", tmp_path / "out", "--tint", "0") == 0
    picture = Image.open(tmp_path / "out/a_labels.png")
    assert picture.mode == "P"
    labels = np.asarray(picture)
    np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), CITYSCAPES.paint(labels))
    overlay = np.asarray(Image.open(tmp_path / "out/a_overlay.png"))
    np.testing.assert_array_equal(overlay[:60, :90], image)
    legend = {tuple(color) for color in overlay[60:].reshape(-1, 3).tolist()}
    assert {CITYSCAPES.colors[c] for c in np.unique(labels)} <= legend
