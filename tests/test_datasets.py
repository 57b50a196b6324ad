"""CamVid and Cityscapes on small generated trees, whole and damaged."""

import cv2
import numpy as np
import pytest
from cityscapesscripts.helpers.labels import labels as official_labels

from segmentation.camvid import CamVid
from segmentation.cityscapes import Cityscapes
from segmentation.classes import CAMVID, CITYSCAPES, VOID, ClassSet
from segmentation.errors import DataError

SIZE = (12, 16)


@pytest.fixture
def rng():
    return np.random.default_rng()


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


@pytest.mark.parametrize("classes", [CITYSCAPES, CAMVID])
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


def test_jpeg_pictures_and_hidden_files(camvid):
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


def damage_image_without_label(root):
    (root / "trainannot" / "b.png").unlink()
    return root, r"train/b\.png: image without label"


def damage_label_without_image(root):
    (root / "train" / "c.png").unlink()
    return root, r"trainannot/c\.png: label without image"


def damage_two_of_a_name(root):
    (root / "train" / "c.jpg").write_bytes((root / "train" / "c.png").read_bytes())
    return root, r"c\.png: same name as c\.jpg"


@pytest.mark.parametrize(
    "damage",
    [
        damage_missing_root,
        damage_missing_labels,
        damage_empty_folder,
        damage_image_without_label,
        damage_label_without_image,
        damage_two_of_a_name,
    ],
)
def test_a_damaged_tree_is_refused_at_once(camvid, damage):
    root, message = damage(camvid[0])
    with pytest.raises(DataError, match=message) as caught:
        CamVid(root, "train", SIZE)
    assert "\n" not in str(caught.value)


def test_cityscapes_names_what_is_missing(cityscapes):
    root, _ = cityscapes
    label = root / "gtFine/train/ulm/ulm_000001_000019_gtFine_labelIds.png"
    label.rename(label.with_name("ulm_000001_000019_gtFine_labelTrainIds.png"))
    with pytest.raises(DataError, match=r"ulm_000001_000019_leftImg8bit\.png: image without label"):
        Cityscapes(root, "train", SIZE)
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
def test_sizes_are_checked(camvid, size):
    with pytest.raises(ValueError, match="size must be"):
        CamVid(camvid[0], "train", size)


def test_splits_are_checked(camvid):
    for data_set in (CamVid, Cityscapes):
        with pytest.raises(ValueError, match="split must be 'train' or 'val', got 'test'"):
            data_set(camvid[0], "test", SIZE)
