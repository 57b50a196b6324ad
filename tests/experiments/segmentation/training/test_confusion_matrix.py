"""The confusion matrix against Cityscapes' own evaluation, and its counting."""

import jax.numpy as jnp
import numpy as np
import pytest
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official  # noqa: N813
from cityscapesscripts.helpers.labels import labels as official_labels
from flax import nnx
from PIL import Image

from experiments.segmentation.data.cityscapes import CITYSCAPES
from experiments.segmentation.data.classes import VOID
from experiments.segmentation.training.confusion_matrix import (
    ConfusionMatrix,
    count_pixels,
    merge_classes,
    scores_of,
)

RAW_OF_CLASS = np.array([CITYSCAPES.codes.index(c) for c in range(len(CITYSCAPES))], np.uint8)


@nnx.jit
def update(metric, predictions, labels):
    metric.update(predictions=predictions, labels=labels)


def official_ious(tmp_path, predictions, raw_labels):
    args = official.args
    args.evalInstLevelScore = False
    matrix = official.generateMatrix(args)
    for prediction, raw in zip(predictions, raw_labels, strict=True):
        Image.fromarray(RAW_OF_CLASS[prediction]).save(tmp_path / "prediction.png")
        Image.fromarray(raw).save(tmp_path / "truth.png")
        official.evaluatePair(
            str(tmp_path / "prediction.png"), str(tmp_path / "truth.png"), matrix, {}, {}, args
        )
    ious = {
        label.trainId: official.getIouScoreForLabel(label.id, matrix, args)
        for label in official_labels
        if label.id >= 0 and not label.ignoreInEval
    }
    by_name = {
        label.name: ious[label.trainId] for label in official_labels if label.trainId in ious
    }
    mean = official.getScoreAverage(by_name, args)
    categories = {
        name: official.getIouScoreForCategory(name, matrix, args)
        for name in dict.fromkeys(CITYSCAPES.categories)
    }
    return np.array([ious[c] for c in range(len(CITYSCAPES))]), mean, categories


def _classes_of_categories():
    names = dict.fromkeys(CITYSCAPES.categories)
    return [[c for c, own in enumerate(CITYSCAPES.categories) if own == name] for name in names]


@pytest.mark.parametrize("absent", [(), (0, 6, 18), tuple(range(1, 19))])
def test_agrees_with_the_official_evaluation(tmp_path, rng, absent):
    present = np.setdiff1d(np.arange(19), absent)
    raw_present = np.setdiff1d(np.arange(34), RAW_OF_CLASS[list(absent)])
    raw = rng.choice(raw_present, (3, 20, 30)).astype(np.uint8)
    labels = CITYSCAPES.decode(raw)
    guess = rng.choice(present, labels.shape)
    predictions = np.where((labels != VOID) & (rng.random(labels.shape) < 0.6), labels, guess)

    metric = ConfusionMatrix(len(CITYSCAPES))
    for prediction, label in zip(predictions, labels, strict=True):
        update(metric, jnp.asarray(prediction), jnp.asarray(label))
    scores = metric.compute()

    ious, mean, categories = official_ious(tmp_path, predictions, raw)
    np.testing.assert_allclose(scores.iou, ious, rtol=1e-12)
    np.testing.assert_allclose(scores.mean_iou, mean, rtol=1e-12)
    assert np.isnan(scores.iou).sum() == len(absent)
    merged = scores_of(merge_classes(metric.counts(), _classes_of_categories()))
    np.testing.assert_allclose(merged.iou, list(categories.values()), rtol=1e-12)
    valid = labels != VOID
    np.testing.assert_allclose(scores.pixel_accuracy, (predictions == labels)[valid].mean())


def test_rows_are_labels_and_columns_predictions(rng):
    labels, predictions = rng.integers(0, 5, (2, 4, 6, 7), dtype=np.int32)
    expected = np.zeros((5, 5), np.int64)
    np.add.at(expected, (labels, predictions), 1)
    metric = ConfusionMatrix(5)
    update(metric, jnp.asarray(predictions), jnp.asarray(labels))
    np.testing.assert_array_equal(metric.counts(), expected)


def test_logits_count_as_their_largest_channel(rng):
    labels = jnp.asarray(rng.integers(0, 5, (2, 6, 7), dtype=np.int32))
    logits = jnp.asarray(rng.normal(size=(2, 6, 7, 5)), jnp.bfloat16)
    by_logits, by_class = ConfusionMatrix(5), ConfusionMatrix(5)
    update(by_logits, logits, labels)
    update(by_class, jnp.argmax(logits, axis=-1), labels)
    np.testing.assert_array_equal(by_logits.counts(), by_class.counts())


def test_a_class_only_predicted_counts_as_zero_and_one_in_neither_is_left_out():
    metric = ConfusionMatrix(4)
    metric.update(predictions=jnp.array([0, 0, 2, 3]), labels=jnp.array([0, 0, 0, VOID]))
    scores = metric.compute()
    np.testing.assert_allclose(scores.iou, [2 / 3, np.nan, 0, np.nan])
    assert scores.mean_iou == pytest.approx(1 / 3)
    assert scores.pixel_accuracy == pytest.approx(2 / 3)


def test_nothing_counted_gives_nan_without_a_warning():
    metric = ConfusionMatrix(3)
    metric.update(predictions=jnp.array([0, 1]), labels=jnp.array([VOID, VOID]))
    scores = metric.compute()
    assert np.isnan([*scores.iou, scores.mean_iou, scores.pixel_accuracy]).all()


def test_counts_beyond_32_bits_are_exact():
    metric = ConfusionMatrix(2)
    zeros = jnp.zeros((1 << 20,), jnp.int32)
    update(metric, zeros, zeros)
    metric.low[...] = metric.low[...].at[0].add(jnp.uint32(2**32 - 2**20 - 1))
    assert metric.counts()[0, 0] == 2**32 - 1
    update(metric, zeros, zeros)
    update(metric, zeros[:1], zeros[:1])
    assert metric.counts()[0, 0] == 2**32 + 2**20
    assert metric.compute().mean_iou == 1


def test_counting_compiles_once_and_reset_forgets():
    compiled = 0

    @nnx.jit
    def counted_update(metric, predictions, labels):
        nonlocal compiled
        compiled += 1
        metric.update(predictions=predictions, labels=labels)

    metric = ConfusionMatrix(3)
    labels = jnp.array([[0, 1, 2]])
    for _ in range(3):
        counted_update(metric, labels, labels)
    assert compiled == 1
    assert metric.counts().sum() == 9
    metric.reset()
    assert metric.counts().sum() == 0


@pytest.mark.parametrize(("prediction", "label"), [(3, 0), (-1, 0), (0, 3), (0, -1), (VOID, 0)])
def test_values_that_are_no_class_are_reported_not_lost(prediction, label):
    metric = ConfusionMatrix(3)
    metric.update(predictions=jnp.array([0, prediction]), labels=jnp.array([0, label]))
    with pytest.raises(ValueError, match="1 pixels have a label or prediction outside"):
        metric.compute()


def test_bad_arguments_are_refused():
    metric = ConfusionMatrix(3)
    labels = jnp.zeros((2, 4), jnp.int32)
    with pytest.raises(ValueError, match="predictions must be"):
        metric.update(predictions=jnp.zeros((2, 5), jnp.int32), labels=labels)
    with pytest.raises(ValueError, match="predictions must be"):
        metric.update(predictions=jnp.zeros((2, 4, 4)), labels=labels)
    with pytest.raises(TypeError, match="labels must be integers"):
        metric.update(predictions=labels, labels=jnp.zeros((2, 4)))
    for classes in (0, 256):
        with pytest.raises(ValueError, match="classes must be"):
            ConfusionMatrix(classes)


def test_serves_as_a_part_of_a_multi_metric():
    metrics = nnx.MultiMetric(scores=ConfusionMatrix(2))
    labels = jnp.array([0, 1])
    metrics.update(predictions=labels, labels=labels, loss=jnp.float32(1.5))
    assert metrics.compute()["scores"].mean_iou == 1


def test_class_accuracy_is_the_mean_share_of_each_class_that_is_right():
    # 3 of 4, 0 of 2, and a class without pixels.
    scores = scores_of(np.array([[3, 1, 0], [2, 0, 0], [0, 0, 0]]))
    np.testing.assert_array_equal(scores.accuracy, [0.75, 0, np.nan])
    assert scores.class_accuracy == 0.375
    assert scores.pixel_accuracy == 0.5
    np.testing.assert_allclose(scores.iou, [0.5, 0, np.nan])


def test_counting_on_the_host_is_counting_on_the_device(rng):
    labels = rng.choice([*range(5), VOID], (2, 9, 7)).astype(np.int32)
    predictions = rng.integers(0, 5, labels.shape, dtype=np.int32)
    metric = ConfusionMatrix(5)
    update(metric, jnp.asarray(predictions), jnp.asarray(labels))
    np.testing.assert_array_equal(count_pixels(labels, predictions, 5), metric.counts())
