"""All data sets of files on small generated trees, whole and damaged."""

import json

import cv2
import numpy as np
import pytest
from cityscapesscripts.helpers.labels import labels as official_labels
from PIL import Image

from experiments.segmentation.data.camvid import CAMVID, CamVid
from experiments.segmentation.data.cityscapes import CITYSCAPES, Cityscapes
from experiments.segmentation.data.classes import VOID, ClassSet
from experiments.segmentation.data.datasets import open_dataset, usage
from experiments.segmentation.data.errors import DataError
from experiments.segmentation.data.image_folder import ImageFolder
from experiments.segmentation.data.palette import read_palette
from experiments.segmentation.data.sunrgbd import SUN_RGBD, SunRgbd

SIZE = (12, 16)


def write(path, rgb):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = rgb[..., ::-1] if rgb.ndim == 3 else rgb
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())


def random_pair(rng, values):
    image = rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    return image, rng.integers(0, values, SIZE).astype(np.uint8)


@pytest.fixture
def camvid(tmp_path, rng):
    pairs = {}
    for split in ("train", "val"):
        for name in ("b", "a", "c"):
            image, values = pairs[split, name] = random_pair(rng, 12)
            write(tmp_path / split / f"{name}.png", image)
            write(tmp_path / f"{split}annot" / f"{name}.png", values)
    return tmp_path, pairs


@pytest.fixture
def cityscapes(tmp_path, rng):
    pairs = {}
    for split in ("train", "val"):
        for city, number in (("ulm", 1), ("bonn", 0), ("bonn", 1)):
            name = f"{city}_{number:06}_000019"
            image, values = pairs[split, name] = random_pair(rng, 34)
            write(tmp_path / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", image)
            write(tmp_path / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", values)
            write(tmp_path / "gtFine" / split / city / f"{name}_gtFine_color.png", image)
    return tmp_path, pairs


def test_cityscapes_classes_are_the_official_ones():
    by_id = {label.id: label for label in official_labels if label.id >= 0}
    assert CITYSCAPES.codes == tuple(by_id[k].trainId for k in range(len(by_id)))
    official = {x.trainId: x for x in official_labels if x.trainId not in (-1, VOID)}
    assert CITYSCAPES.names == tuple(official[c].name for c in range(19))
    assert CITYSCAPES.colors == tuple(official[c].color for c in range(19))
    assert CITYSCAPES.categories == tuple(official[c].category for c in range(19))


@pytest.mark.parametrize("classes", [CITYSCAPES, CAMVID, SUN_RGBD])
def test_class_sets_are_consistent(classes: ClassSet):
    assert len(classes.names) == len(classes.colors) == len(classes)
    assert len(set(classes.names)) == len(set(classes.colors)) == len(classes)
    assert sorted({*classes.codes} - {VOID}) == list(range(len(classes)))


def test_painting_uses_the_palette(rng):
    labels = rng.choice([*range(11), VOID], (2, 3, 4))
    picture = CAMVID.paint(labels)
    for index in np.ndindex(labels.shape):
        expected = (0, 0, 0) if labels[index] == VOID else CAMVID.colors[labels[index]]
        assert tuple(picture[index]) == expected


@pytest.mark.parametrize("split", ["train", "val"])
def test_camvid_gives_the_files_in_order(camvid, split):
    root, pairs = camvid
    source = CamVid(root, split, SIZE)
    assert len(source) == 3
    for index, name in enumerate("abc"):
        image, values = pairs[split, name]
        sample = source[index]
        np.testing.assert_array_equal(sample["image"], image)
        np.testing.assert_array_equal(sample["label"], np.where(values == 11, VOID, values))
        np.testing.assert_array_equal(source.label(index), sample["label"])


@pytest.mark.parametrize("split", ["train", "val"])
def test_cityscapes_gives_the_files_in_order(cityscapes, split):
    root, pairs = cityscapes
    source = Cityscapes(str(root), split, SIZE)
    names = sorted(name for part, name in pairs if part == split)
    assert len(source) == 3
    for index, name in enumerate(names):
        image, values = pairs[split, name]
        np.testing.assert_array_equal(source[index]["image"], image)
        expected = np.array([label.trainId for label in official_labels[:34]])[values]
        np.testing.assert_array_equal(source[index]["label"], expected)


@pytest.fixture
def sunrgbd(tmp_path, rng):
    pairs = {}
    for split, folder, numbers, offset in (
        ("train", "SUNRGBD-train_images", (1, 2, 5285), 5050),
        ("val", "SUNRGBD-test_images", (2, 5049, 5050), 0),
    ):
        for number in numbers:
            image, values = pairs[split, number] = random_pair(rng, 38)
            smooth = np.broadcast_to(image[:1, :1], image.shape)
            write(tmp_path / folder / f"img-{number:06}.jpg", smooth)
            write(tmp_path / f"sunrgbd_train_test_labels/img-{number + offset:06}.png", values)
    return tmp_path, pairs


@pytest.mark.parametrize("split", ["train", "val"])
def test_sunrgbd_pairs_the_numbers_of_both_parts(sunrgbd, split):
    root, pairs = sunrgbd
    source = SunRgbd(root, split, SIZE)
    numbers = sorted(number for part, number in pairs if part == split)
    assert len(source) == 3
    for index, number in enumerate(numbers):
        image, values = pairs[split, number]
        sample = source[index]
        np.testing.assert_allclose(
            sample["image"].astype(int), np.broadcast_to(image[:1, :1], image.shape), atol=8
        )
        np.testing.assert_array_equal(
            sample["label"], np.where(values == 0, VOID, values.astype(int) - 1)
        )


def test_sunrgbd_names_what_does_not_belong(sunrgbd):
    root, _ = sunrgbd
    train = root / "SUNRGBD-train_images"
    (train / "img-000002.jpg").rename(train / "img-2.jpg")
    (train / "img-000001.jpg").rename(train / "copy of img-000001.jpg")
    with pytest.raises(DataError) as caught:
        SunRgbd(root, "train", SIZE)
    assert str(caught.value).splitlines() == [
        f"{train}/copy of img-000001.jpg: not named img- and six digits; remove it",
        f"{train}/img-2.jpg: not named img- and six digits; remove it",
    ]


def write_folder(root, rng, palette, encode):
    """Pairs with the classes 0, 1, 2 and void, whose labels `encode` writes."""
    labels = {}
    (root / "palette.json").write_text(json.dumps(palette))
    for split in ("train", "val"):
        for name in ("b", "a"):
            image = rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
            label = labels[split, name] = rng.choice([0, 1, 2, VOID], SIZE).astype(np.uint8)
            write(root / split / "images" / f"{name}.png", image)
            write(root / split / "labels" / f"{name}.png", encode(label))
    return labels


def assert_labels(root, labels):
    for split in ("train", "val"):
        source = ImageFolder(root, split, SIZE)
        assert source.classes.names == ("road", "car", "tree")
        assert source.classes.colors == ((1, 2, 3), (200, 0, 0), (0, 0, 200))
        for index, name in enumerate("ab"):
            np.testing.assert_array_equal(source[index]["label"], labels[split, name])


GREY_PALETTE = {
    "classes": [
        {"name": "road", "color": [1, 2, 3], "value": 4},
        {"name": "car", "color": [200, 0, 0], "value": 1},
        {"name": "tree", "color": [0, 0, 200], "value": 250},
    ],
    "void": [0, 255],
}
COLOR_PALETTE = {
    "classes": [
        {key: value for key, value in entry.items() if key != "value"}
        for entry in GREY_PALETTE["classes"]
    ],
    "void": [[0, 0, 0], [9, 9, 9]],
}


def test_a_folder_with_values(tmp_path, rng):
    def encode(label):
        values = np.select([label == 0, label == 1, label == 2], [4, 1, 250], 0)
        values[(label == VOID) & (rng.random(SIZE) < 0.5)] = 255
        return values.astype(np.uint8)

    labels = write_folder(tmp_path, rng, GREY_PALETTE, encode)
    assert_labels(tmp_path, labels)
    bad = np.full(SIZE, 4, np.uint8)
    bad[5, 5] = 3
    write(tmp_path / "train/labels/a.png", bad)
    source = ImageFolder(tmp_path, "train", SIZE)
    with pytest.raises(
        DataError, match=r"a\.png: label value 3 is outside the palette 0..1, 4, 250, 255; "
    ):
        source[0]


def test_a_folder_with_colours(tmp_path, rng):
    def encode(label):
        colors = np.array([entry["color"] for entry in COLOR_PALETTE["classes"]] + [[9, 9, 9]])
        picture = colors[np.where(label == VOID, 3, label)]
        picture[(label == VOID) & (rng.random(SIZE) < 0.5)] = 0
        return picture.astype(np.uint8)

    labels = write_folder(tmp_path, rng, COLOR_PALETTE, encode)
    assert_labels(tmp_path, labels)
    bad = np.zeros((*SIZE, 3), np.uint8)
    bad[5, 5] = 200, 0, 1
    write(tmp_path / "train/labels/a.png", bad)
    write(tmp_path / "train/labels/b.png", bad[..., 0])
    source = ImageFolder(tmp_path, "train", SIZE)
    with pytest.raises(
        DataError, match=r"a\.png: label colour \(200, 0, 1\) is not in the palette"
    ):
        source[0]
    with pytest.raises(DataError, match=r"b\.png: label is not 8-bit RGB"):
        source[1]


def changed(palette, **fields):
    return {**palette, **fields}


ROAD = {"name": "road", "color": [1, 2, 3], "value": 4}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read .*No such file"),
        ("{", "is not JSON"),
        ([], "the palette must be an object"),
        ({}, "the palette has no classes"),
        ({"classes": [ROAD], "voids": []}, "the palette has the unknown field voids"),
        ({"classes": []}, "classes must be a list of 1 to 254"),
        ({"classes": [ROAD], "void": 255}, "void must be a list, got 255"),
        ({"classes": [{"name": "road"}]}, "a class has no color"),
        ({"classes": [changed(ROAD, name="")]}, "name must be a text, got ''"),
        ({"classes": [changed(ROAD, color=[1, 2])]}, "a color must be .red, green, blue."),
        ({"classes": [changed(ROAD, color=[1, 2, 256])]}, "a color must be .* got 256"),
        ({"classes": [changed(ROAD, value=True)]}, "value must be a whole number .* got True"),
        ({"classes": [ROAD, ROAD]}, "name 'road' is given twice"),
        ({"classes": [ROAD, changed(ROAD, name="car")]}, r"color \(1, 2, 3\) is given twice"),
        ({"classes": [ROAD], "void": [4]}, "value 4 is given twice"),
        ({"classes": COLOR_PALETTE["classes"], "void": [[1, 2, 3]]}, "color .* is given twice"),
        (
            {"classes": [ROAD, {"name": "car", "color": [0, 0, 0]}]},
            "give every class a value or none; car lacks one",
        ),
    ],
)
def test_what_is_wrong_with_a_palette_is_named(tmp_path, content, message):
    path = tmp_path / "palette.json"
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError, match=rf"palette\.json: {message}"):
        read_palette(path)


@pytest.mark.usefixtures("cityscapes", "sunrgbd")
def test_data_sets_are_opened_by_their_names(camvid, rng):
    root, _ = camvid
    write_folder(root, rng, COLOR_PALETTE, CITYSCAPES.paint)
    for kind, usual, count in (
        ("camvid", (360, 480), 3),
        ("cityscapes", (512, 1024), 3),
        ("sunrgbd", (480, 640), 3),
        ("folder", None, 2),
    ):
        dataset = open_dataset(f"{kind}:{root}", SIZE, seed=0)
        assert dataset.size == dataset.train.size == dataset.val.size == SIZE
        assert (len(dataset.train), len(dataset.val)) == (count, count)
        if usual:
            assert open_dataset(f"{kind}:{root}", None, seed=0).size == usual
    with pytest.raises(DataError, match="has no usual size"):
        open_dataset(f"folder:{root}", None, seed=0)
    for text in ("camvid", "synthetic:here", "imagenet:there", ""):
        with pytest.raises(DataError, match=f"unknown data '{text}'; choose synthetic, camvid:DIR"):
            open_dataset(text, None, seed=0)


def test_help_lists_every_data_set():
    assert usage() == (
        "synthetic (generated, no download), camvid:DIR, "
        "cityscapes:DIR (DIR holds leftImg8bit/ and gtFine/), sunrgbd:DIR, "
        "or folder:DIR (your own; see the README)"
    )


def test_original_labels_have_the_size_of_their_files(camvid):
    root, pairs = camvid
    source = CamVid(root, "val", (3, 5))
    values = pairs["val", "a"][1]
    np.testing.assert_array_equal(source.original_label(0), np.where(values == 11, VOID, values))


@pytest.mark.parametrize("size", [(5, 7), (24, 32), (1, 1), (6, 100)])
def test_any_size_may_be_asked(camvid, size):
    root, pairs = camvid
    sample = CamVid(root, "train", size)[0]
    assert sample["image"].shape == (*size, 3)
    assert sample["label"].shape == size
    assert sample["image"].dtype == sample["label"].dtype == np.uint8
    values = pairs["train", "a"][1]
    assert set(np.unique(sample["label"])) <= {*range(11), VOID}
    rows = ((np.arange(size[0]) + 0.5) * SIZE[0] / size[0]).astype(int)
    columns = ((np.arange(size[1]) + 0.5) * SIZE[1] / size[1]).astype(int)
    if size in ((24, 32), (1, 1)):  # elsewhere two pixels may be equally near
        expected = np.asarray(CAMVID.codes)[values[np.ix_(rows, columns)]]
        np.testing.assert_array_equal(sample["label"], expected)


def test_halving_averages_areas(camvid):
    root, pairs = camvid
    half = (SIZE[0] // 2, SIZE[1] // 2)
    means = pairs["train", "a"][0].reshape(half[0], 2, half[1], 2, 3).mean(axis=(1, 3))
    sample = CamVid(root, "train", half)[0]
    np.testing.assert_allclose(sample["image"], means, atol=0.51)


def test_jpeg_pictures_are_read_and_hidden_files_are_not(camvid):
    root, _ = camvid
    smooth = np.tile(np.linspace(0, 255, SIZE[1], dtype=np.uint8)[:, None], (SIZE[0], 1, 3))
    (root / "train" / "a.png").unlink()
    write(root / "train" / "a.jpg", smooth)
    (root / "train" / "._a.jpg").write_bytes(b"left by an archiver")
    source = CamVid(root, "train", SIZE)
    assert len(source) == 3
    np.testing.assert_allclose(source[0]["image"].astype(int), smooth.astype(int), atol=8)


def damage_missing_root(root):
    return root / "elsewhere", "no such directory"


def damage_missing_labels(root):
    (root / "trainannot").rename(root / "labels")
    return root, "trainannot: no such directory"


def damage_empty_folder(root):
    for path in (root / "train").iterdir():
        path.unlink()
    return root, "train: no files"


def damage_two_of_a_name(root):
    (root / "train" / "c.jpg").write_bytes((root / "train" / "c.png").read_bytes())
    return root, r"c\.png: same name as c\.jpg"


@pytest.mark.parametrize(
    "damage",
    [
        damage_missing_root,
        damage_missing_labels,
        damage_empty_folder,
        damage_two_of_a_name,
    ],
)
def test_a_damaged_tree_is_refused_at_once(camvid, damage):
    root, message = damage(camvid[0])
    with pytest.raises(DataError, match=message) as caught:
        CamVid(root, "train", SIZE)
    assert "\n" not in str(caught.value)


def test_all_files_of_one_name_are_named(camvid):
    root, _ = camvid
    for name in "ac":
        path = root / "train" / f"{name}.png"
        path.with_suffix(".jpg").write_bytes(path.read_bytes())
    with pytest.raises(DataError) as caught:
        CamVid(root, "train", SIZE)
    first, second = str(caught.value).splitlines()
    assert first == f"{root}/train/a.png: same name as a.jpg; remove one of the two"
    assert second == f"{root}/train/c.png: same name as c.jpg; remove one of the two"


def test_a_file_without_partner_is_a_bad_sample(camvid):
    root, _ = camvid
    (root / "train" / "a.png").unlink()
    (root / "trainannot" / "c.png").unlink()
    source = CamVid(root, "train", SIZE)
    assert len(source) == 3
    for read in (source.__getitem__, source.label, source.original_label):
        with pytest.raises(DataError, match=r"trainannot/a\.png: label without image"):
            read(0)
        assert read(1) is not None
        with pytest.raises(DataError, match=r"train/c\.png: image without label"):
            read(2)


def test_cityscapes_names_what_is_missing(cityscapes):
    root, _ = cityscapes
    label = root / "gtFine/train/ulm/ulm_000001_000019_gtFine_labelIds.png"
    label.rename(label.with_name("ulm_000001_000019_gtFine_labelTrainIds.png"))
    source = Cityscapes(root, "train", SIZE)
    with pytest.raises(DataError, match=r"ulm_000001_000019_leftImg8bit\.png: image without label"):
        source[2]
    (root / "gtFine").rename(root / "gtCoarse")
    with pytest.raises(DataError, match="gtFine/train: no such directory"):
        Cityscapes(root, "train", SIZE)


def truncated(data):
    return data[: len(data) // 2]


def emptied(_):
    return b""


def replaced(_):
    return b"<html>404</html>"


def scrambled(data):
    return data[:60] + bytes(len(data) - 120) + data[-60:]


@pytest.mark.parametrize("damage", [truncated, emptied, replaced, scrambled])
@pytest.mark.parametrize("folder", ["train", "trainannot"])
def test_a_damaged_file_is_named_when_read(camvid, damage, folder):
    root, _ = camvid
    path = root / folder / "b.png"
    path.write_bytes(damage(path.read_bytes()))
    source = CamVid(root, "train", SIZE)
    source[0]
    with pytest.raises(DataError, match=f"{folder}/b.png: .*fetch it again"):
        source[1]


@pytest.mark.parametrize("cut", [0.5, 0.9, 0.995])
def test_a_truncated_jpeg_is_not_filled_with_grey(camvid, rng, cut):
    root, _ = camvid
    path = root / "train" / "b.jpg"
    (root / "train" / "b.png").unlink()
    write(path, rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * cut)])
    with pytest.raises(DataError, match=r"b\.jpg"):
        CamVid(root, "train", SIZE)[1]


def test_a_file_that_cannot_be_opened_is_named(camvid):
    root, _ = camvid
    path = root / "train" / "b.png"
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match=r"b\.png: cannot be read"):
        CamVid(root, "train", SIZE)[1]


def test_a_value_outside_the_palette_is_named(camvid, cityscapes):
    root, pairs = camvid
    values = pairs["train", "b"][1].copy()
    values[3, 5] = 12
    write(root / "trainannot" / "b.png", values)
    for size in (SIZE, (1, 1)):
        with pytest.raises(
            DataError, match=r"b\.png: label value 12 is outside the palette 0\.\.11"
        ):
            CamVid(root, "train", size)[1]
    root, _ = cityscapes
    values[3, 5] = 34
    write(root / "gtFine/train/ulm/ulm_000001_000019_gtFine_labelIds.png", values)
    with pytest.raises(DataError, match=r"value 34 is outside the palette 0\.\.33"):
        Cityscapes(root, "train", SIZE)[2]


def test_a_pair_of_two_sizes_is_refused(camvid, rng):
    root, _ = camvid
    write(root / "trainannot" / "b.png", rng.integers(0, 12, (12, 15)).astype(np.uint8))
    with pytest.raises(DataError, match=r"b\.png: label is 12 x 15 but its image is 12 x 16"):
        CamVid(root, "train", SIZE)[1]


def test_labels_may_be_indices_into_a_palette(camvid):
    root, pairs = camvid
    path = root / "trainannot" / "b.png"
    values = pairs["train", "b"][1]
    expected = CamVid(root, "train", SIZE)[1]["label"]
    picture = Image.fromarray(values)
    picture.putpalette(np.arange(768, dtype=np.uint8)[::-1].tobytes())
    picture.save(path, bits=8)
    np.testing.assert_array_equal(CamVid(root, "train", SIZE)[1]["label"], expected)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"b\.png: truncated"):
        CamVid(root, "train", SIZE)[1]


def test_labels_in_other_formats_are_refused(camvid):
    root, pairs = camvid
    path = root / "trainannot" / "b.png"
    values = pairs["train", "b"][1]
    coloured = CAMVID.paint(np.where(values == 11, VOID, values))
    bits = cv2.imencode(".png", values % 2 * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])[1].tobytes()
    deep = cv2.imencode(".png", values.astype(np.uint16))[1].tobytes()
    for data in (cv2.imencode(".png", coloured)[1].tobytes(), bits, deep):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"b\.png: label is not 8-bit grey"):
            CamVid(root, "train", SIZE)[1]
    path.write_bytes(cv2.imencode(".jpg", values)[1].tobytes())
    with pytest.raises(DataError, match=r"b\.png: label is a JPEG"):
        CamVid(root, "train", SIZE)[1]


@pytest.mark.parametrize("size", [(0, 4), (4, -1), (4.0, 4), (4, 4, 3)])
def test_sizes_that_are_none_are_refused(camvid, size):
    with pytest.raises(ValueError, match="size must be"):
        CamVid(camvid[0], "train", size)


def test_unknown_splits_are_refused(camvid):
    for data_set in (CamVid, Cityscapes):
        with pytest.raises(ValueError, match="split must be 'train' or 'val', got 'test'"):
            data_set(camvid[0], "test", SIZE)
