"""Drawing predictions, learning curves and confusion matrices with Matplotlib.

All functions return new figures and leave Matplotlib's global state alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from experiments.segmentation.data.classes import VOID, ClassSet
from experiments.segmentation.data.source import Sample
from experiments.segmentation.training.box_statistics import MEASURES


def draw_predictions(
    samples: Sequence[Sample], predictions: Sequence[NDArray[np.integer]], classes: ClassSet
) -> Figure:
    """Draws input, truth and prediction side by side, one sample in each row, and a legend.

    Args:
      samples: the samples to draw.
      predictions: the predicted classes of each sample, `(H, W)`.
      classes: the names and colours of the classes.
    """
    height, width = samples[0]["label"].shape
    row_height = 4.0 * height / width
    figure = Figure((12, row_height * len(samples) + 1.0), layout="constrained")
    rows = figure.subplots(len(samples), 3, squeeze=False)
    for row, sample, prediction in zip(rows, samples, predictions, strict=True):
        pictures = (sample["image"], classes.paint(sample["label"]), classes.paint(prediction))
        for axes, picture in zip(row, pictures, strict=True):
            axes.imshow(picture)
            axes.set_axis_off()
    for axes, title in zip(rows[0], ("input", "truth", "prediction"), strict=True):
        axes.set_title(title)
    seen = sorted(
        {int(c) for labels in (*(s["label"] for s in samples), *predictions) for c in labels.flat}
        - {VOID}
    )
    handles = [
        Patch(color=np.divide(classes.colors[c], 255).tolist(), label=classes.names[c])
        for c in seen
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=8, frameon=False)
    return figure


def draw_curves(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws training loss and held-out scores over the epochs.

    Args:
      records: the metrics of a run, one record for each epoch.
    """
    figure = Figure((8, 3.2), layout="constrained")
    loss, score = figure.subplots(1, 2)
    epochs = _values(records, "epoch")
    loss.plot(epochs, _values(records, "loss"), marker=".")
    loss.set(xlabel="epoch", ylabel="training loss")
    for metric, label in (("mean_iou", "mean IoU"), ("pixel_accuracy", "pixel accuracy")):
        score.plot(epochs, _values(records, metric), marker=".", label=label)
    score.set(xlabel="epoch", ylabel="held-out score", ylim=(0, 1))
    score.legend(frameon=False)
    for axes in (loss, score):
        axes.grid(alpha=0.3)
    return figure


def draw_box_statistics(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws how the boxes of each layer learnt over the epochs.

    Args:
      records: the metrics of a run with `--track-boxes`, one record for each epoch.
    """
    figure = Figure((11, 3.4), layout="constrained")
    panels = figure.subplots(1, len(MEASURES))
    layers = list(records[0]["boxes"])
    colors = colormaps["viridis"](np.linspace(0, 0.95, len(layers)))
    epochs = _values(records, "epoch")
    for axes, (measure, label) in zip(panels, MEASURES.items(), strict=True):
        for layer, color in zip(layers, colors, strict=True):
            values = [record["boxes"][layer][measure] for record in records]
            axes.plot(epochs, np.array(values, np.float64), color=color, label=layer)
        axes.set(xlabel="epoch", ylabel=label, ylim=(0, None))
        axes.grid(alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
    return figure


def draw_comparison(curves: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> Figure:
    """Draws held-out mean IoU over the epochs: each run thin, the mean of a network's runs thick.

    Args:
      curves: the metrics of each run of each network, by the network's name.
    """
    figure = Figure((8, 4.5), layout="constrained")
    axes = figure.subplots()
    for index, (name, runs) in enumerate(curves.items()):
        color = f"C{index}"
        for records in runs:
            axes.plot(*_curve(records), color=color, linewidth=0.6, alpha=0.6)
        epochs, scores = zip(*map(_curve, runs), strict=True)
        axes.plot(epochs[0], np.mean(scores, axis=0), color=color, label=f"{name} ({len(runs)})")
    axes.set(xlabel="epoch", ylabel="held-out mean IoU", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, title="network (runs)")
    return figure


def _curve(
    records: Sequence[Mapping[str, Any]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return _values(records, "epoch"), _values(records, "mean_iou")


def _values(records: Sequence[Mapping[str, Any]], metric: str) -> NDArray[np.float64]:
    """A metric in each record; NaN, which Matplotlib leaves out, where it is None."""
    return np.array([record[metric] for record in records], np.float64)


def draw_confusion(counts: NDArray[np.integer], classes: ClassSet) -> Figure:
    """Draws a confusion matrix as the share of each class that is predicted as each class.

    Args:
      counts: the confusion matrix, `(classes, classes)`, whose rows are labels.
      classes: the names of the classes.
    """
    size = 2.5 + 0.32 * len(classes)
    figure = Figure((size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    image = axes.imshow(shares, cmap="viridis", vmin=0, vmax=1)
    axes.set_xticks(range(len(classes)), classes.names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(classes)), classes.names, fontsize=8)
    axes.set(xlabel="predicted class", ylabel="labelled class")
    for (row, column), share in np.ndenumerate(shares):
        if share >= 0.01:
            color = "black" if share > 0.6 else "white"
            axes.text(
                column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=6, color=color
            )
    figure.colorbar(image, label="share of the class's pixels (cells: %)", shrink=0.8)
    return figure
