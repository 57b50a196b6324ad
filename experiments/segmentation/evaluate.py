"""The `evaluate` subcommand: a run's scores on its validation split at full resolution."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray
from tqdm import tqdm

from experiments.common.outputs import json_output, write_json
from experiments.common.pictures import save_figure
from experiments.segmentation.data.classes import ClassSet
from experiments.segmentation.drawing import draw_confusion
from experiments.segmentation.input.pipeline import evaluation_batches, read_ahead
from experiments.segmentation.run_pictures import run_picture
from experiments.segmentation.saved_run import SavedRun, check_run, most_likely, open_run
from experiments.segmentation.training.confusion_matrix import (
    Scores,
    count_pixels,
    format_score,
    merge_classes,
    scores_of,
)


@dataclass(frozen=True)
class EvaluateSettings:
    """Scores a trained network on the validation images at the resolution of their labels.

    Prints each class's intersection over union and accuracy, their means, and those over categories
    where the data set has them; writes evaluation.json and confusion.png into the run.
    """

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """Directory of the run, whose newest checkpoint is used."""
    data: Annotated[str | None, tyro.conf.arg(metavar="NAME:DIR")] = None
    """Where the run's data set is now, such as camvid:DIR, if it was moved."""


def evaluate(settings: EvaluateSettings) -> None:
    """Runs the subcommand."""
    figures = json_output(settings.run / "evaluation.json", ("step", "confusion"), None)
    confusion = run_picture(settings.run, "confusion")
    check_run(settings.run)
    for file in (figures, confusion):
        file.check()
    opened = open_run(settings.run, settings.data, history=False)
    classes = opened.val.classes
    counts = _full_resolution_counts(opened)
    print(_table(classes, counts))
    report = {"step": int(opened.state.step), **_report(classes, counts)}
    write_json(figures, report)
    save_figure(draw_confusion(counts, classes), confusion, dpi=100)
    print(f"evaluation.json and confusion.png are in {settings.run}")


def _full_resolution_counts(opened: SavedRun) -> NDArray[np.int64]:
    """The confusion matrix of the validation split at the resolution of its label files."""
    val = opened.val
    counts = np.zeros((len(val.classes),) * 2, np.int64)
    bar = tqdm(_logits(opened), total=len(val), unit="img", desc="evaluating", disable=None)
    for index, logits in enumerate(bar):
        label = val.original_label(index)
        counts += count_pixels(label, most_likely(logits, label.shape), len(val.classes))
    return counts


def _logits(opened: SavedRun) -> Iterator[NDArray[np.float32]]:
    """The logits of each validation image, in order."""
    trainer, state, val = opened.trainer, opened.state, opened.val
    batches = evaluation_batches(val, opened.settings.training.batch_size)

    def with_padding() -> Iterator[NDArray[np.float32]]:
        for batch in trainer.on_devices(read_ahead(batches)):
            logits = trainer.logits(state.params, state.model_state, batch["image"])
            yield from np.asarray(logits, np.float32)

    return islice(with_padding(), len(val))


def _by_category(classes: ClassSet, counts: NDArray[np.int64]) -> tuple[list[str], Scores] | None:
    """The names of the categories and their scores, or None if the data set has no categories."""
    if classes.categories is None:
        return None
    names = list(dict.fromkeys(classes.categories))
    groups = [[c for c, own in enumerate(classes.categories) if own == name] for name in names]
    return names, scores_of(merge_classes(counts, groups))


def _report(classes: ClassSet, counts: NDArray[np.int64]) -> dict[str, Any]:
    report = _as_json(classes.names, scores_of(counts))
    by_category = _by_category(classes, counts)
    if by_category:
        report["categories"] = _as_json(*by_category)
    return {**report, "confusion": counts.tolist()}


def _as_json(names: Sequence[str], scores: Scores) -> dict[str, Any]:
    def named(values: NDArray[np.float64]) -> dict[str, float]:
        return dict(zip(names, values.tolist(), strict=True))

    return {
        "mean_iou": scores.mean_iou,
        "class_accuracy": scores.class_accuracy,
        "pixel_accuracy": scores.pixel_accuracy,
        "iou": named(scores.iou),
        "accuracy": named(scores.accuracy),
    }


def _table(classes: ClassSet, counts: NDArray[np.int64]) -> str:
    scores = scores_of(counts)
    lines = [f"{'class':<20}{'IoU':>7}{'accuracy':>10}", *_rows(classes.names, scores)]
    lines += [f"{'all pixels':<20}{'':>7}{format_score(scores.pixel_accuracy):>10}"]
    by_category = _by_category(classes, counts)
    if by_category:
        names, merged = by_category
        lines += ["", f"{'category':<20}{'IoU':>7}{'accuracy':>10}", *_rows(names, merged)]
    return "\n".join(lines)


def _rows(names: Sequence[str], scores: Scores) -> list[str]:
    """A line for each name, and one for the means."""
    ious, accuracies = scores.iou.tolist(), scores.accuracy.tolist()
    rows = [
        *zip(names, ious, accuracies, strict=True),
        ("mean", scores.mean_iou, scores.class_accuracy),
    ]
    return [
        f"{name:<20}{format_score(iou):>7}{format_score(accuracy):>10}"
        for name, iou, accuracy in rows
    ]
