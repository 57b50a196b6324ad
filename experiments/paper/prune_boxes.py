"""Removes boxes from a trained network, and shows what it loses and saves.

Opens a run of cityscapes_boxenet.py, removes the boxes that shrank to the minimum size, or those
that contribute least to their blocks, and prints for each choice: the remaining boxes, parameters
and multiply-adds, and the scores on the held-out images. No network is trained again. Writes the
same to pruning.json in the run's directory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optax
import tyro
from numpy.typing import NDArray
from tqdm import tqdm

from experiments.common.command_line import check_list, check_whole, read_settings
from experiments.common.memory import keep_freed_memory
from experiments.common.outputs import json_output, write_json
from experiments.common.program import UserError
from experiments.segmentation.data.source import Source
from experiments.segmentation.input.pipeline import evaluation_batches, read_ahead
from experiments.segmentation.saved_run import check_run, open_run
from experiments.segmentation.training.confusion_matrix import Scores, format_score
from experiments.segmentation.training.settings import check_batch_fits
from experiments.segmentation.training.trainer import Trainer
from jaxbox import analysis, models
from jaxbox.models.cost import cost
from jaxbox.models.pruning import contributions, prune


@dataclass(frozen=True)
class Settings:
    """Removes boxes from a trained network."""

    run: tyro.conf.Positional[Path]
    """Directory of the run, which is the --out of cityscapes_boxenet.py."""
    shares: tuple[float, ...] = (0.25, 0.5)
    """Shares of all boxes to remove, of those that contribute least."""
    batch_size: int = 8
    """Number of images in a batch."""
    data: str | None = None
    """Where the run's data set is now, such as camvid:DIR, if it was moved."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program."""
    settings = read_settings(Settings, arguments, description=__doc__)
    keep_freed_memory()
    if not all(0 <= share <= 1 for share in settings.shares):
        raise UserError(f"--shares must be from 0 to 1; got {settings.shares}")
    check_list("--shares", settings.shares)
    check_whole("--batch-size", settings.batch_size, 1)
    check_run(settings.run)
    file = json_output(settings.run / "pruning.json", ("removed", "boxes"), None)
    file.check()
    run = open_run(settings.run, settings.data, history=False)
    check_batch_fits(settings.batch_size, run.size)
    if not analysis.box_layers(run.trained):
        raise UserError(f"the network in {settings.run} has no boxes")
    rows = []
    print("| removed | boxes | parameters | multiply-adds | pixel accuracy | mean IoU |")
    print("|---|---|---|---|---|---|")
    chosen = choices(run.trained, settings.shares)
    for removed, keep in tqdm(chosen.items(), desc="pruning", unit="network", disable=None):
        pruned = prune(run.trained, keep)
        scores = evaluate(pruned, run.val, settings.batch_size)
        row = describe(pruned, run.size, keep, scores)
        rows.append({"removed": removed, **row})
        with tqdm.external_write_mode():
            print(table_row(removed, row), flush=True)
    write_json(file, rows)


def table_row(removed: str, row: Mapping[str, Any]) -> str:
    """A row of the table.

    Args:
      removed: the text that describes what was removed.
      row: a result of `describe`.
    """
    scores = " | ".join(format_score(row[name], ".4f") for name in ("pixel_accuracy", "mean_iou"))
    counts = f"{row['boxes']} | {row['parameters']:,} | {row['multiply_adds']:,}"
    return f"| {removed} | {counts} | {scores} |"


def choices(
    model: models.SegmentationNetwork, shares: Sequence[float]
) -> dict[str, list[NDArray[np.bool_]]]:
    """Which boxes to keep in each layer, for each choice of what to remove.

    Args:
      model: the trained network.
      shares: the shares of all boxes to remove, of those that contribute least.

    Returns:
      For each layer a mask of the boxes to keep, by the text that describes the choice.
    """
    layers = analysis.box_layers(model)
    measured = [np.asarray(contribution) for contribution in contributions(model)]
    small = [np.asarray(analysis.at_minimum(layer.theta)) for layer in layers]
    order = np.argsort(np.concatenate([np.ravel(each) for each in measured]), stable=True)
    starts = np.cumsum([each.size for each in measured])[:-1]
    chosen = {
        "nothing": [np.ones_like(each) for each in small],
        "minimum size": [~each for each in small],
    }
    for share in shares:
        keep = np.ones(order.size, bool)
        keep[order[: round(share * order.size)]] = False
        chosen[f"least {share:.0%}"] = [
            mask.reshape(each.shape)
            for mask, each in zip(np.split(keep, starts), measured, strict=True)
        ]
    return chosen


def evaluate(model: models.SegmentationNetwork, val: Source, batch_size: int) -> Scores:
    """The scores of a network on held-out images."""
    trainer = Trainer(model, optax.identity(), np.ones(len(val.classes)))
    batches = read_ahead(evaluation_batches(val, batch_size))
    return trainer.evaluate(trainer.initial, trainer.on_devices(batches))


def describe(
    model: models.SegmentationNetwork,
    size: tuple[int, int],
    keep: Sequence[NDArray[np.bool_]],
    scores: Scores,
) -> dict[str, Any]:
    """A row of the table, by the names in pruning.json.

    Args:
      model: the network without the removed boxes.
      size: `(H, W)` of the images in pixels, for counting multiply-adds.
      keep: the masks of the boxes that were kept, one for each layer.
      scores: the scores of the network.
    """
    counted = cost(model, size)
    return {
        "boxes": int(sum(mask.sum() for mask in keep)),
        "parameters": counted.parameters,
        "multiply_adds": counted.multiply_adds,
        "pixel_accuracy": float(scores.pixel_accuracy),
        "mean_iou": float(scores.mean_iou),
    }
