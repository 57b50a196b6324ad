"""Writes one HTML page that shows what a run learnt, to be opened in any browser.

The page has the network's predictions to leaf through, the boxes of every layer on their way
through training, their importance, receptive fields before and after training, learning curves and
the confusion matrix. It loads nothing from anywhere, so that it can be kept, sent and opened
without a network. What a run of an older program did not record, the page names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from tqdm import tqdm

from experiments.common.command_line import check_whole, read_settings
from experiments.common.json_files import JsonError, read_json
from experiments.common.memory import keep_freed_memory
from experiments.common.outputs import OutputFile
from experiments.common.program import UserError
from experiments.segmentation.data.errors import DataError
from experiments.segmentation.page.box_motion import box_motion
from experiments.segmentation.page.document import PAGE_MARK, document
from experiments.segmentation.page.predictions import Shown, show_predictions
from experiments.segmentation.page.receptive_fields import receptive_fields
from experiments.segmentation.page.scores import curves, score_table
from experiments.segmentation.saved_run import SavedRun, check_run, open_run
from experiments.segmentation.training.box_history import read_box_history
from experiments.segmentation.training.metrics_log import read_metrics

_MOST_IMAGES = 200


@dataclass(frozen=True)
class Settings:
    """Writes a page to look at a run in a browser."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """Directory of the run, which is the --out of cityscapes_boxenet.py."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """The page. Default: page.html in the run's directory."""
    images: int = 12
    """Number of held-out images to show predictions for."""
    data: Annotated[str | None, tyro.conf.arg(metavar="NAME:DIR")] = None
    """Where the run's data set is now, such as camvid:DIR, if it was moved."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program."""
    settings = read_settings(Settings, arguments, description=__doc__)
    keep_freed_memory()
    check_whole("--images", settings.images, 1, _MOST_IMAGES)
    check_run(settings.run)
    out = settings.out or settings.run / "page.html"
    file = OutputFile(out, lambda data: PAGE_MARK in data, "--out" if settings.out else None)
    file.check()
    history = read_box_history(settings.run)
    run = open_run(settings.run, settings.data, history=not history)
    file.write(document(_content(settings, run, history)))
    print(f"open {out} in a browser")


def _content(settings: Settings, run: SavedRun, history: Mapping[int, Any]) -> dict[str, Any]:
    """All that the page shows, as JSON."""
    missing: list[str] = []
    records = read_metrics(settings.run)
    if not records:
        missing.append("There are no learning curves, since no epoch was finished.")
    with tqdm(total=3, desc="page", unit="part", disable=None) as bar:
        shown = _predictions(settings, run, missing)
        bar.update()
        counts = _evaluated(settings.run, run)
        if counts is None and shown is not None:
            counts = shown.counts
            missing.append(
                f"The confusion matrix is of the {len(shown.pictures)} images that are shown. The "
                "subcommand evaluate counts all held-out images at the size of their labels."
            )
        boxes = box_motion(run, history)
        if boxes and not history:
            missing.append(
                "Boxes are shown at the few steps of which a checkpoint was kept, since the run "
                "was trained by a program that did not record them after each epoch."
            )
        bar.update()
        fields = None if shown is None else receptive_fields(run, shown.samples)
        bar.update()
    return {
        "title": f"{run.name} on {run.settings.data.partition(':')[0]}",
        "run": settings.run.resolve().name,
        "step": int(run.state.step),
        "steps": run.settings.steps,
        "steps_per_epoch": _steps_per_epoch(records),
        "size": list(run.size),
        "classes": [
            {"name": name, "color": list(color)}
            for name, color in zip(run.classes.names, run.classes.colors, strict=True)
        ],
        "missing": missing,
        "predictions": shown.pictures if shown else [],
        "boxes": boxes,
        "fields": fields,
        "curves": curves(records),
        "scores": None if counts is None else score_table(counts, run.classes),
    }


def _steps_per_epoch(records: Sequence[Mapping[str, Any]]) -> float | None:
    """The number of steps in an epoch, or None where no record tells."""
    return next((each["step"] / each["epoch"] for each in records if each["epoch"]), None)


def _predictions(settings: Settings, run: SavedRun, missing: list[str]) -> Shown | None:
    """The predictions, or None if the data set is not there."""
    try:
        return show_predictions(run, settings.images)
    except DataError as error:
        if settings.data is not None:
            raise
        reason = str(error).splitlines()[0]
        missing.append(
            f"There are no predictions and no receptive fields, since the data set cannot be read "
            f"({reason}). The option --data says where it is now."
        )
        return None


def _evaluated(directory: Path, run: SavedRun) -> np.ndarray | None:
    """The confusion matrix that `evaluate` wrote for the newest state, or None."""
    file = directory / "evaluation.json"
    if not file.is_file():
        return None
    try:
        content = read_json(file)
        counts = np.array(content["confusion"], np.int64)
        step = content["step"]
    except (JsonError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{file} is damaged ({error}); remove it") from error
    if counts.shape != (len(run.classes),) * 2 or (counts < 0).any():
        raise UserError(f"{file} is damaged (confusion is of {counts.shape}); remove it")
    return counts if step == int(run.state.step) else None
