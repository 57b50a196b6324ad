"""Random changes of training samples: image and label together, in the stated range."""

import numpy as np
import pytest

from experiments.segmentation.data.camvid import CAMVID
from experiments.segmentation.input.augmentation import Augmentation, RandomAugmentation, warp

PAPER = Augmentation(flip=0.5, rotation=7.5, scale=0.12)


def random_sample(rng, height, width):
    return {
        "image": rng.integers(0, 256, (height, width, 3)).astype(np.uint8),
        "label": rng.integers(0, 11, (height, width)).astype(np.uint8),
    }


def source_positions(height, width, mirrored, degrees, factor):
    """Where each pixel of the result comes from, rows and columns, by the definition."""
    angle = np.deg2rad(degrees)
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    y, x = rows - (height - 1) / 2, columns - (width - 1) / 2
    # Back through: mirrored, turned counter-clockwise (y points down), `factor` times larger.
    x, y = (
        (np.cos(angle) * x - np.sin(angle) * y) / factor,
        (np.sin(angle) * x + np.cos(angle) * y) / factor,
    )
    if mirrored:
        x = -x
    return y + (height - 1) / 2, x + (width - 1) / 2


def bilinear(image, rows, columns):
    rows = np.clip(rows, 0, image.shape[0] - 1)
    columns = np.clip(columns, 0, image.shape[1] - 1)
    top = np.minimum(rows.astype(int), image.shape[0] - 2)
    left = np.minimum(columns.astype(int), image.shape[1] - 2)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    pixels = image.astype(np.float64)
    upper = pixels[top, left] * (1 - right) + pixels[top, left + 1] * right
    lower = pixels[top + 1, left] * (1 - right) + pixels[top + 1, left + 1] * right
    return upper * (1 - down) + lower * down


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_map_is_the_stated_one(rng, mirrored):
    """Image and label against the definition, borders included."""
    height, width = 37, 52
    sample = random_sample(rng, height, width)
    # Slopes of at most 8 a pixel, since positions are rounded to 1/32 of a pixel.
    corners = rng.integers(0, 64, (5, 7, 3)).astype(np.float64)
    image = bilinear(corners, *np.mgrid[: 4 : height * 1j, : 6 : width * 1j]).round()
    sample["image"] = image.astype(np.uint8)
    for _ in range(5):
        degrees, factor = rng.uniform(-170, 170), rng.uniform(0.6, 1.5)
        warped = warp(sample, mirrored=mirrored, degrees=degrees, factor=factor)
        rows, columns = source_positions(height, width, mirrored, degrees, factor)
        np.testing.assert_allclose(warped["image"], bilinear(image, rows, columns), atol=1.5)
        near = [np.abs(p - np.floor(p) - 0.5) < 1 / 16 for p in (rows, columns)]
        sure = ~(near[0] | near[1])
        row, column = (
            np.clip(np.round(p).astype(int), 0, n - 1)
            for p, n in ((rows, height), (columns, width))
        )
        assert sure.mean() > 0.5
        np.testing.assert_array_equal(warped["label"][sure], sample["label"][row, column][sure])


def test_image_and_label_stay_aligned(rng):
    """An image painted from the label still shows the label's colours, but where classes meet."""
    height, width = 60, 80
    label = np.kron(rng.integers(0, 11, (5, 5)), np.ones((12, 16), int)).astype(np.uint8)
    sample = {"image": CAMVID.paint(label), "label": label}
    augment = RandomAugmentation(PAPER)
    for _ in range(20):
        changed = augment.random_map(sample, rng)
        label = changed["label"]
        assert label.shape == (height, width)
        padded = np.pad(label, 1, mode="edge")
        neighbours = [
            padded[dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)
        ]
        inside = np.all([n == label for n in neighbours], axis=0)
        assert inside.mean() > 0.5
        np.testing.assert_array_equal(changed["image"][inside], CAMVID.paint(label)[inside])


@pytest.mark.parametrize("limits", [Augmentation(), Augmentation(flip=0), Augmentation(flip=1)])
def test_without_turning_and_scaling_pixels_only_change_places(rng, limits):
    sample = random_sample(rng, 3, 5)
    original = {key: value.copy() for key, value in sample.items()}
    seen = set()
    for _ in range(60):
        changed = RandomAugmentation(limits).random_map(sample, rng)
        mirrored = bool((changed["label"] != original["label"]).any())
        seen.add(mirrored)
        columns = slice(None, None, -1 if mirrored else 1)
        for key, value in original.items():
            np.testing.assert_array_equal(changed[key], value[:, columns])
            np.testing.assert_array_equal(sample[key], value)
    assert seen == {0: {False}, 0.5: {True, False}, 1: {True}}[limits.flip]


def test_a_positive_angle_turns_counter_clockwise():
    label = np.zeros((9, 9), np.uint8)
    label[4, 8] = 1  # To the right of the centre; a quarter of a turn brings it above.
    sample = {"image": CAMVID.paint(label), "label": label}
    turned = warp(sample, mirrored=False, degrees=90, factor=1)
    assert np.argwhere(turned["label"]).tolist() == [[0, 4]]
    np.testing.assert_array_equal(turned["image"], CAMVID.paint(turned["label"]))


def test_mirroring_comes_before_turning():
    label = np.zeros((9, 9), np.uint8)
    label[4, 8] = 1
    sample = {"image": CAMVID.paint(label), "label": label}
    turned = warp(sample, mirrored=True, degrees=90, factor=1)
    assert np.argwhere(turned["label"]).tolist() == [[8, 4]]


def test_changes_fill_their_range(rng, monkeypatch):
    drawn = []

    def record(sample, **change):
        drawn.append(change)
        return sample

    monkeypatch.setattr("experiments.segmentation.input.augmentation.warp", record)
    count = 4000
    for _ in range(count):
        RandomAugmentation(PAPER).random_map(None, rng)
    for name, center, limit in (("degrees", 0, 7.5), ("factor", 1, 0.12)):
        values = (np.array([change[name] for change in drawn]) - center) / limit
        assert np.all(np.abs(values) <= 1 + 1e-9)
        # Of a uniform distribution: its mean, its share in every tenth, each within 7 deviations.
        assert abs(values.mean()) < 7 / np.sqrt(3 * count)
        shares = np.histogram(values, 10, (-1, 1))[0] / count
        np.testing.assert_allclose(shares, 0.1, atol=7 * 0.3 / np.sqrt(count))
    mirrored = np.mean([change["mirrored"] for change in drawn])
    assert abs(mirrored - 0.5) < 7 * 0.5 / np.sqrt(count)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flip": -0.1}, "flip must be from 0 to 1, got -0.1"),
        ({"flip": 1.1}, "flip must be from 0 to 1, got 1.1"),
        ({"rotation": -1}, "rotation must be at least 0 and less than 180 degrees, got -1"),
        ({"rotation": 180}, "rotation must be .* got 180"),
        ({"scale": 1}, "scale must be at least 0 and less than 1, got 1"),
        ({"scale": float("nan")}, "scale must be .* got nan"),
    ],
)
def test_bad_limits_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**change)
