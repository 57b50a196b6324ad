"""Networks as files: what is in them, that they run without this project, and damaged ones."""

import dataclasses
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from experiments import cityscapes_boxenet, export
from experiments.common.program import exit_code
from experiments.segmentation import export as exporting
from experiments.segmentation.artefact import (
    Artefact,
    ArtefactError,
    decode_artefact,
    encode_artefact,
    read_artefact,
)
from experiments.segmentation.data.cityscapes import CITYSCAPES
from experiments.segmentation.input.normalization import IMAGENET
from experiments.segmentation.jax_program import PLATFORMS, load_jax_program, to_jax_program
from experiments.segmentation.saved_run import open_run
from jaxbox.models.inference import for_inference
from tests.cases.networks import draw
from tests.cases.runs import SETTINGS, SIZE, make_run

pytestmark = pytest.mark.usefixtures("relaxed_promotion", "small_network")

DOCS = Path(__file__).parents[3] / "docs" / "export.md"
RUN_IT = re.compile(
    r"^## Run it .*?```(?:\{code-cell\} ipython3|python)\n(.*?)```", re.DOTALL | re.M
)
IN_JAX, IN_ONNX = RUN_IT.findall(DOCS.read_text())
HAS_ONNX = all(importlib.util.find_spec(name) for name in ("jax2onnx", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="the group onnx is not installed")

# What the file of a network must not need.
BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jaxbox", "jaxbox_kernels", "flax", "experiments"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory, small_network):  # noqa: ARG001
    return make_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def artefact(tmp_path_factory, run):
    """The file of the run's network in JAX's format."""
    file = tmp_path_factory.mktemp("exported") / "network.jaxbox"
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        assert run_program(export, run, "--out", file) == 0
    return file


@pytest.fixture(scope="module")
def onnx_artefact(tmp_path_factory, run):
    """The file of the run's network in ONNX."""
    file = tmp_path_factory.mktemp("exported") / "network_onnx.jaxbox"
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        assert run_program(export, run, "--out", file, "--format", "onnx") == 0
    return file


@pytest.fixture
def images(tmp_path, rng):
    """A folder with a picture larger than the network's images, and one of another shape."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name, shape in (("a", (40, 70)), ("b", (30, 11))):
        blocks = rng.integers(0, 256, (5, 5, 3)).astype(np.uint8)
        pixels = cv2.resize(blocks, shape[::-1], interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{name}.png"), pixels)
    return folder


def run_program(program, *arguments):
    return exit_code(program.main, [str(argument) for argument in arguments])


def live_logits(model, images):
    return np.asarray(jax.jit(lambda x: model(x))(images))


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def random_images(rng, number):
    return rng.normal(size=(number, *SIZE, 3)).astype(np.float32)


def test_a_file_says_what_predicting_needs(artefact):
    with zipfile.ZipFile(artefact) as archive:
        assert archive.namelist() == ["model.json", "model.jax"]
        facts = json.loads(archive.read("model.json"))
    assert facts["jaxbox_artefact"] == 1
    assert facts["format"] == "jax"
    assert facts["image_size"] == [16, 32]
    assert facts["size_multiple"] == 8
    assert tuple(facts["classes"]["names"]) == CITYSCAPES.names
    assert tuple(map(tuple, facts["classes"]["colors"])) == CITYSCAPES.colors
    assert tuple(facts["normalization"]["std"]) == IMAGENET.std
    read = read_artefact(artefact)
    assert (read.classes, read.normalization, read.size) == (CITYSCAPES, IMAGENET, SIZE)
    assert encode_artefact(read) == artefact.read_bytes()
    # No paths of the machine that wrote it.
    root = str(Path(export.__file__).parents[1]).encode()
    assert root not in artefact.read_bytes()
    assert b"site-packages" not in artefact.read_bytes()


def test_boxenet_runs_in_a_process_without_this_project(tmp_path, rng):
    """The example in the documentation, in a process that cannot import jaxbox and Flax."""
    model = draw("boxenet-frozen", rng, num_classes=19, image_size=SIZE)
    model.eval()
    program = to_jax_program(for_inference(model), SIZE)
    file = Artefact("jax", program, CITYSCAPES, IMAGENET, SIZE)
    (tmp_path / "network.jaxbox").write_bytes(encode_artefact(file))
    images = random_images(rng, 2)
    np.save(tmp_path / "images.npy", images)
    more = (
        "np.save('zeros.npy', logits)\n"
        "np.save('logits.npy', network(np.load('images.npy')))\n"
        "assert not {'jaxbox', 'jaxbox_kernels', 'flax', 'experiments'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"{BLOCK}\n{IN_JAX}\n{more}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "the first pixel is" in done.stdout
    assert_close(np.load(tmp_path / "logits.npy"), live_logits(model, images))
    pixels = np.zeros((2, *SIZE, 3), np.uint8)
    zeros = np.stack([IMAGENET(image) for image in pixels])
    assert_close(np.load(tmp_path / "zeros.npy"), live_logits(model, zeros))


def test_one_program_is_for_all_platforms(artefact):
    exported = jax.export.deserialize(bytearray(read_artefact(artefact).program))
    assert exported.platforms == PLATFORMS == ("cpu", "cuda", "tpu")
    assert str(exported.in_avals[0].shape[0]) == "number"


@needs_onnx
def test_an_onnx_model_gives_the_logits_of_the_run(run, onnx_artefact, rng, monkeypatch):
    model = open_run(run, history=False).trained
    monkeypatch.chdir(onnx_artefact.parent)
    variables = {}
    exec(compile(IN_ONNX, str(DOCS), "exec"), variables)
    session = variables["session"]
    assert variables["logits"].shape == (2, *SIZE, 19)
    for number in (1, 3):
        images = random_images(rng, number)
        (logits,) = session.run(["logits"], {"images": images})
        assert_close(logits, live_logits(model, images))


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("name", ["boxenet-frozen", "boxonlyenet", "erfnet", "boxerfnet"])
def test_networks_of_the_paper_in_onnx(name, rng):
    import onnxruntime

    from experiments.segmentation.onnx_program import to_onnx_program

    model = draw(name, rng, num_classes=19, image_size=SIZE)
    model.eval()
    program = to_onnx_program(for_inference(model), SIZE)
    session = onnxruntime.InferenceSession(program, providers=["CPUExecutionProvider"])
    images = random_images(rng, 2)
    (logits,) = session.run(["logits"], {"images": images})
    assert_close(logits, live_logits(model, images))


@pytest.mark.parametrize("kind", ["artefact", pytest.param("onnx_artefact", marks=needs_onnx)])
def test_predict_gives_the_pictures_of_the_run(run, images, tmp_path, kind, request, capsys):
    file = request.getfixturevalue(kind)
    for network, out in ((run, "run"), (file, "file")):
        code = run_program(cityscapes_boxenet, "predict", network, images, "--out", tmp_path / out)
        assert code == 0, capsys.readouterr().err
    names = {f"{name}_{part}.png" for name in "ab" for part in ("labels", "overlay")}
    assert {path.name for path in (tmp_path / "file").iterdir()} == names
    for name in names:
        of_run, of_file = ((tmp_path / out / name).read_bytes() for out in ("run", "file"))
        assert of_run == of_file
    labels = np.asarray(PIL.Image.open(tmp_path / "file" / "a_labels.png"))
    assert labels.shape == (40, 70)
    assert len(np.unique(labels)) > 1


def test_only_its_own_files_are_replaced(run, artefact, tmp_path, capsys):
    taken = tmp_path / "network.jaxbox"
    for content in (b"mine", b"PK\3\4 other archive"):
        taken.write_bytes(content)
        assert run_program(export, run, "--out", taken) == 2
        assert "was not written by this program" in capsys.readouterr().err
        assert taken.read_bytes() == content
    taken.write_bytes(artefact.read_bytes()[:1000])  # a damaged one is its own all the same
    assert run_program(export, run, "--out", taken) == 0
    assert taken.read_bytes() == artefact.read_bytes()
    assert "boxenet for images of 16x32 and 19 classes" in capsys.readouterr().out


def test_onnx_is_refused_before_any_work_without_its_packages(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    out = tmp_path / "network.jaxbox"
    assert run_program(export, run, "--out", out, "--format", "onnx") == 2
    assert "install the group onnx" in capsys.readouterr().err
    assert not out.exists()


def test_a_run_in_bfloat16_keeps_its_arithmetic_in_jax_only(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", dataclasses.replace(SETTINGS, precision="bf16"))
    dtypes = {}
    for kind in ("jax", "onnx"):

        def note(model, size, kind=kind):
            dtypes[kind] = (model.dtype, model.blocks[0].conv.kernel.dtype, size)
            return b"program"

        monkeypatch.setitem(exporting._EXPORTERS, kind, note)
        monkeypatch.setattr(exporting, "import_onnx_package", lambda name: name)
        out = tmp_path / f"{kind}.jaxbox"
        assert run_program(export, run, "--out", out, "--format", kind) == 0
    assert dtypes == {
        "jax": (jnp.bfloat16, jnp.float32, SIZE),
        "onnx": (jnp.float32, jnp.float32, SIZE),
    }


def _zip(*members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def _with_facts(data, **changes):
    """An artefact with other facts in its JSON."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        facts = json.loads(archive.read("model.json"))
        program = archive.read("model.jax")
    text = json.dumps({**facts, **changes})
    return _zip(("model.json", text), ("model.jax", program))


WRONG_FACTS = {
    "the version 2": {"jaxbox_artefact": 2},
    "the format 'tf'": {"format": "tf"},
    "it must have model.onnx": {"format": "onnx"},
    "image_size is not two multiples of 8": {"image_size": [16, 33]},
    "image_size is not a height and a width": {"image_size": [16, 32, 3]},
    "size_multiple is not a number of pixels": {"size_multiple": 0},
    "the names of the classes": {"classes": {"names": ["a", "a"], "colors": [], "codes": []}},
    "mean is missing": {"normalization": {"std": [1, 1, 1]}},
    "std must be three numbers": {"normalization": {"mean": [0, 0, 0], "std": [0, 1, 1]}},
    "teacher is unknown or missing": {"teacher": 1},
}


@pytest.mark.parametrize(("message", "changes"), WRONG_FACTS.items())
def test_wrong_facts_are_named(artefact, message, changes):
    with pytest.raises(ArtefactError, match=re.escape(message)):
        decode_artefact(_with_facts(artefact.read_bytes(), **changes))


def test_damage_is_found_or_changes_nothing(artefact, rng):
    good = artefact.read_bytes()
    expected = decode_artefact(good)
    # The directory at the end of an archive and the headers of its members are most fragile.
    with zipfile.ZipFile(artefact) as archive:
        program = archive.getinfo("model.jax").header_offset
    fragile = [*range(200), *range(program, program + 60), *range(len(good) - 300, len(good))]
    found = 0
    for _ in range(500):
        data = bytearray(good)
        if rng.random() < 0.2:
            del data[int(rng.integers(len(data))) :]
        for _ in range(int(rng.integers(1, 4))):
            at = rng.choice(fragile) if rng.random() < 0.8 else rng.integers(len(good))
            if at < len(data):
                data[at] = rng.integers(256)
        try:
            assert decode_artefact(bytes(data)) == expected
        except ArtefactError:
            found += 1
    assert found > 300


def test_an_unusable_file_is_answered_with_one_line(artefact, images, tmp_path, capsys):
    good = artefact.read_bytes()
    with zipfile.ZipFile(artefact) as archive:
        facts, program = (archive.read(name) for name in ("model.json", "model.jax"))
    cases = {
        "it is no whole zip archive": good[:-1],
        "it is no whole zip archive:": b"",
        "Bad CRC-32": good[: len(good) // 2] + b"\0\0\0\0\0" + good[len(good) // 2 + 5 :],
        "it has no model.json": _zip(("model.jax", program)),
        "it must have model.jax and nothing else": _zip(("model.json", facts)),
        "model.jax and nothing else": _zip(
            ("model.json", facts), ("model.jax", program), ("mine", "")
        ),
        "model.json is damaged": _zip(("model.json", facts[:-9]), ("model.jax", program)),
        "there is no 'jaxbox_artefact'": _zip(("model.json", "{}"), ("model.jax", program)),
        "JAX cannot read its program": _zip(("model.json", facts), ("model.jax", b"")),
        "JAX cannot read its program:": _zip(("model.json", facts), ("model.jax", b"junk" * 99)),
        "JAX cannot compile its program": _zip(
            ("model.json", facts), ("model.jax", program.replace(b"ML\xefR", b"ML\xefS"))
        ),
        "images or classes of other numbers": _with_facts(good, image_size=[16, 40]),
    }
    file = tmp_path / "network"
    for message, content in cases.items():
        file.write_bytes(content)
        code = run_program(cityscapes_boxenet, "predict", file, images, "--out", tmp_path / "out")
        error = capsys.readouterr().err
        assert code == 2, message
        assert error.startswith("error: RUN must be a run's directory or a file that"), error
        assert str(file) in error
        assert message in error
        assert error.count("\n") == 1
    assert not list((tmp_path / "out").iterdir())


@needs_onnx
def test_an_unusable_onnx_model_is_answered_with_one_line(onnx_artefact):
    from experiments.segmentation.onnx_program import load_onnx_program

    program = read_artefact(onnx_artefact).program
    for damaged in (b"", b"junk" * 99, program[: len(program) // 2]):
        with pytest.raises(ArtefactError, match="onnxruntime cannot read its program"):
            load_onnx_program(damaged, SIZE, 19)
    with pytest.raises(ArtefactError, match="of other numbers"):
        load_onnx_program(program, SIZE, 18)


def test_a_file_takes_no_data_set(artefact, images, tmp_path, capsys):
    arguments = ("predict", artefact, images, "--out", tmp_path / "out", "--data", "camvid:x")
    assert run_program(cityscapes_boxenet, *arguments) == 2
    assert "--data must not be given for a file; got 'camvid:x'" in capsys.readouterr().err


def test_pipes_are_not_waited_for(tmp_path, images, capsys):
    os.mkfifo(tmp_path / "pipe")
    arguments = ("predict", tmp_path / "pipe", images, "--out", tmp_path / "out")
    assert run_program(cityscapes_boxenet, *arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(OSError, match="pipe or a device"):
        read_artefact(tmp_path / "pipe")


def test_a_program_for_other_classes_is_refused(artefact):
    with pytest.raises(ArtefactError, match="of other numbers"):
        load_jax_program(read_artefact(artefact).program, SIZE, 20)
