"""Which files in folders count as pictures, and how they are paired and named."""

import os
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest

from experiments.segmentation.data.camvid import CamVid
from experiments.segmentation.data.cityscapes import Cityscapes
from experiments.segmentation.data.errors import DataError
from experiments.segmentation.data.image_folder import ImageFolder
from experiments.segmentation.data.picture_files import (
    LABEL_SUFFIXES,
    distinct_names,
    files_by_name,
    find_pictures,
)
from experiments.segmentation.data.sunrgbd import SunRgbd

SIZE = (8, 8)
PNG = cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tobytes()
PNG_RGB = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
JPEG = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
COMPOSED = "Grüße"
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


def write(path: Path, content: bytes = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_pictures_are_found_by_their_suffix_in_any_case_and_any_folder(tmp_path):
    pictures = [
        *("a.jpg", "b.JPG", "c.jpeg", "d.JPEG", "e.png", "f.PNG", "g.Jpe", "h.jfif"),
        *("i.bmp", "j.tif", "k.TIFF", "l.webp", "two.dots.png", "bonn/m.png", "bonn/deep/n.JPG"),
    ]
    others = ["o.ppg", "p.jnp", "q.heic", "r.txt", "s", "png", "bonn/t.json"]
    hidden = [".u.png", ".v/w.png", "bonn/._m.png"]
    for name in (*pictures, *others, *hidden):
        write(tmp_path / name)
    found = find_pictures(tmp_path)
    assert found.pictures == sorted(tmp_path / name for name in pictures)
    assert found.others == sorted(tmp_path / name for name in others)
    flat = find_pictures(tmp_path, LABEL_SUFFIXES, subfolders=False)
    assert [path.name for path in flat.pictures] == ["e.png", "f.PNG", "two.dots.png"]


def test_links_are_followed_but_not_in_circles(tmp_path):
    write(tmp_path / "elsewhere/a.png")
    write(tmp_path / "elsewhere/b.png")
    images = tmp_path / "images"
    images.mkdir()
    for name in ("city", "town"):
        (images / name).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (images / "c.png").symlink_to(tmp_path / "elsewhere/a.png")
    (tmp_path / "elsewhere/round").symlink_to(images, target_is_directory=True)
    names = [str(path.relative_to(images)) for path in find_pictures(images).pictures]
    assert names == ["c.png", "city/a.png", "city/b.png", "town/a.png", "town/b.png"]


def test_folders_that_are_none_or_closed_are_refused(tmp_path, monkeypatch):
    write(tmp_path / "a.png")
    for path in (tmp_path / "nowhere", tmp_path / "a.png"):
        with pytest.raises(DataError, match="no such directory"):
            find_pictures(path)
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"closed: cannot be read \(Permission denied\)"):
        find_pictures(tmp_path)


@pytest.fixture
def trees(tmp_path):
    """Roots of data sets whose files have suffixes in all forms, and some folders of cities."""
    for split, sun in (("train", "SUNRGBD-train_images"), ("val", "SUNRGBD-test_images")):
        for name in ("a.JPG", "b.jpeg", "c.PNG"):
            stem = name.partition(".")[0]
            image = PNG_RGB if name.endswith("PNG") else JPEG
            write(tmp_path / f"camvid/{split}/{name}", image)
            write(tmp_path / f"camvid/{split}annot/{stem}.PNG", PNG)
            write(tmp_path / f"folder/{split}/images/x/{name}", image)
            write(tmp_path / f"folder/{split}/labels/x/{stem}.Png", PNG)
            suffix = name.partition(".")[2]
            write(tmp_path / f"city/leftImg8bit/{split}/ulm/{stem}_leftImg8bit.{suffix}", image)
            write(tmp_path / f"city/gtFine/{split}/ulm/{stem}_gtFine_labelIds.PNG", PNG)
        for number in (1, 2, 3):
            write(tmp_path / f"sun/{sun}/img-00000{number}.JPG", JPEG)
            label = number + 5050 * (split == "train")
            write(tmp_path / f"sun/sunrgbd_train_test_labels/img-{label:06}.PNG", PNG)
    palette = b'{"classes": [{"name": "road", "color": [1, 2, 3], "value": 0}]}'
    write(tmp_path / "folder/palette.json", palette)
    return tmp_path


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    ("data_set", "folder"),
    [(CamVid, "camvid"), (ImageFolder, "folder"), (Cityscapes, "city"), (SunRgbd, "sun")],
)
def test_every_data_set_takes_suffixes_in_any_case(trees, data_set, folder, split):
    source = data_set(trees / folder, split, SIZE)
    assert len(source) == 3
    for index in range(3):
        assert source[index]["image"].shape == (*SIZE, 3)


def test_names_that_look_alike_are_paired(tmp_path):
    for number, (image, label) in enumerate(
        [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED), (COMPOSED, COMPOSED)]
    ):
        root = tmp_path / str(number)
        write(root / f"train/{image}.png", PNG_RGB)
        write(root / f"trainannot/{label}.png", PNG)
        source = CamVid(root, "train", SIZE)
        assert len(source) == 1
        assert source[0]["label"].shape == SIZE


def test_two_files_whose_names_look_alike_are_told_apart(tmp_path):
    for name in (COMPOSED, DECOMPOSED):
        write(tmp_path / f"{name}.png", PNG_RGB)
    with pytest.raises(DataError, match=r"same name as .* in another Unicode form; remove one"):
        files_by_name(tmp_path)
    write(tmp_path / "other/a.png")
    write(tmp_path / "other/a.PNG")
    with pytest.raises(DataError, match=r"a\.png: same name as a\.PNG; remove one"):
        files_by_name(tmp_path / "other")


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["a.jpg", "b.png"], ["a", "b"]),
        (["a.jpg", "a.png", "b.png"], ["a.jpg", "a.png", "b"]),
        (["a.JPG", "a.jpg", "a.jpeg"], ["a.JPG", "a.jpg", "a.jpeg"]),
        (["bonn/a.png", "ulm/a.png"], ["bonn/a", "ulm/a"]),
        # The whole name of the first two is what the third is called without its suffix.
        (["a.jpg", "a.png", "a.jpg.png"], ["a.jpg", "a.png", "a.jpg.png"]),
        (
            ["a.jpg", "a.png", "a.jpg.png", "a.jpg.png.png"],
            ["a.jpg", "a.png", "a.jpg.png", "a.jpg.png.png"],
        ),
    ],
)
def test_results_never_share_a_name(paths, expected):
    root = Path("images")
    names = distinct_names(root, [root / path for path in paths])
    assert {str(name): str(path.relative_to(root)) for name, path in names.items()} == dict(
        zip(expected, paths, strict=True)
    )
