"""Damaged files: each is named before training, or skipped and counted."""

import shutil
import struct
import zlib

import cv2
import numpy as np
import pytest

from experiments import cityscapes_boxenet
from experiments.common.program import exit_code
from experiments.segmentation.data.camvid import CamVid
from experiments.segmentation.data.errors import DataError
from experiments.segmentation.data.inspection import (
    describe_left_out,
    find_bad_samples,
    without_bad_samples,
)
from experiments.segmentation.input.pipeline import class_frequencies, evaluation_batches

SIZE = (12, 16)
GOOD = ("good0", "good1", "good2")


def encoded(pixels, suffix=".png", *options):
    return cv2.imencode(suffix, pixels, options)[1].tobytes()


def png(width, height):
    """A file that claims to be this large."""

    def chunk(kind, data):
        content = kind + data
        return struct.pack(">I", len(data)) + content + struct.pack(">I", zlib.crc32(content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"IDAT", zlib.compress(bytes(100))),
            chunk(b"IEND", b""),
        ]
    )


@pytest.fixture
def hostile(tmp_path, rng):
    """A split with three good pairs and sixteen bad ones; what is said of each, by its file."""
    image = rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    label = rng.integers(0, 12, SIZE).astype(np.uint8)
    out_of_range = label.copy()
    out_of_range[3, 4] = 12
    whole, jpeg = encoded(image), encoded(image, ".jpg")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 16
    damaged_images = {
        "truncated": (whole[: len(whole) // 2], "truncated"),
        "empty": (b"", "empty"),
        "page": (b"<html>404</html>", "not a PNG or JPEG"),
        "bit": (bytes(flipped), "fetch it again"),
        "huge": (png(60000, 60000), "more than the 2**30 pixels"),
        "nothing": (png(0, 0), "fetch it again"),
        "gif": (b"GIF89a" + bytes(40), "not a PNG or JPEG"),
    }
    damaged_labels = {
        "short": (encoded(label)[:-9], "truncated"),
        "small": (encoded(label[:, 1:]), "label is 12 x 15 but its image is 12 x 16"),
        "colour": (encoded(image), "not 8-bit grey"),
        "deep": (encoded(label.astype(np.uint16)), "not 8-bit grey"),
        "lossy": (encoded(label, ".jpg"), "is a JPEG"),
        "range": (encoded(out_of_range), "label value 12 is outside the palette 0..11"),
    }
    images, labels = tmp_path / "train", tmp_path / "trainannot"
    images.mkdir()
    labels.mkdir()
    said = {}
    for name in (*GOOD, *damaged_images, *damaged_labels):
        (images / f"{name}.png").write_bytes(damaged_images.get(name, (whole,))[0])
        (labels / f"{name}.png").write_bytes(damaged_labels.get(name, (encoded(label),))[0])
    said |= {images / f"{name}.png": text for name, (_, text) in damaged_images.items()}
    said |= {labels / f"{name}.png": text for name, (_, text) in damaged_labels.items()}
    (images / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (labels / "cut.png").write_bytes(encoded(label))
    said[images / "cut.jpg"] = "truncated"
    (images / "folder.png").mkdir()
    (labels / "folder.png").write_bytes(encoded(label))
    said[images / "folder.png"] = "cannot be read"
    (images / "alone.png").write_bytes(whole)
    said[images / "alone.png"] = "image without label"
    assert len(said) == 16
    return tmp_path, said


def assert_named(errors, said):
    assert len(errors) == len(said)
    for error in errors:
        assert "\n" not in str(error)
        path, _, text = str(error).partition(": ")
        (expected,) = (words for file, words in said.items() if str(file) == path)
        assert expected in text


def test_every_bad_sample_is_found(hostile):
    root, said = hostile
    source = CamVid(root, "train", SIZE)
    bad = find_bad_samples(source)
    assert list(bad) == sorted(bad)
    assert_named(bad.values(), said)
    assert list(map(str, find_bad_samples(source).values())) == list(map(str, bad.values()))


def test_the_good_ones_are_left_in_order(hostile):
    root, said = hostile
    source = CamVid(root, "train", SIZE)
    good = without_bad_samples(source)
    assert_named(good.left_out, said)
    assert describe_left_out(good.left_out, 3).startswith("16 of 19 samples cannot be read:\n")
    assert (len(good), good.size, good.classes) == (3, SIZE, source.classes)
    names = sorted(path.stem for path in (root / "train").iterdir())
    for index, name in enumerate(GOOD):
        sample = source[names.index(name)]
        for key, value in sample.items():
            np.testing.assert_array_equal(good[index][key], value)
        np.testing.assert_array_equal(good.label(index), sample["label"])
        np.testing.assert_array_equal(good.original_label(index), sample["label"])
    assert len(evaluation_batches(good, 2)) == 2
    assert class_frequencies(good).sum() == pytest.approx(1)


def test_a_good_source_stays_as_it_is(hostile):
    root, said = hostile
    for path in said:
        for folder in ("train", "trainannot"):
            for file in (root / folder).glob(f"{path.stem}.*"):
                file.rmdir() if file.is_dir() else file.unlink()
    good = without_bad_samples(CamVid(root, "train", SIZE))
    assert len(good) == 3
    assert good.left_out == ()


def test_skipping_everything_is_refused(hostile):
    root, _ = hostile
    for name in GOOD:
        (root / "train" / f"{name}.png").write_bytes(b"")
    with pytest.raises(DataError, match="19 of 19 samples cannot be read"):
        without_bad_samples(CamVid(root, "train", SIZE))


def test_an_error_that_is_not_the_data_s_is_not_hidden():
    class Broken:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            raise MemoryError

    with pytest.raises(MemoryError):
        find_bad_samples(Broken())


def test_the_program_names_those_of_both_splits(hostile, capsys):
    root, said = hostile
    for folder in ("", "annot"):
        shutil.copytree(root / f"train{folder}", root / f"val{folder}")
    arguments = ["--data", f"camvid:{root}", "--size", "16x32", "--out", str(root / "run")]
    assert exit_code(cityscapes_boxenet.main, arguments) == 2
    error = capsys.readouterr().err
    head, *lines = error.splitlines()
    assert head == "error: 32 of 38 samples cannot be read:"
    assert_named(lines[:16], said)
    assert_named(lines[16:], {str(path).replace("/train", "/val"): said[path] for path in said})
    assert not (root / "run").exists()
