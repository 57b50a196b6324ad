"""Drawing predictions, learning curves and confusion matrices with Matplotlib.

All functions return new figures and leave Matplotlib's global state alone.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from experiments.segmentation.data.classes import VOID, ClassSet
from experiments.segmentation.data.source import Sample
from experiments.segmentation.training.box_statistics import MEASURES
from jaxbox.plots.layer_style import layer_style

_DIGIT_INCHES = 0.32  # The side of a cell of the confusion matrix in which digits can be read.
_LEAST_SHARE_WRITTEN = 0.01


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
        _mark_epochs(axes)
    return figure


def draw_box_statistics(records: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws how the boxes of each layer learnt over the epochs.

    Args:
      records: the metrics of a run with `--track-boxes`, one record for each epoch.
    """
    figure = Figure((11, 3.4), layout="constrained")
    panels = figure.subplots(1, len(MEASURES))
    layers = list(records[0]["boxes"])
    epochs = _values(records, "epoch")
    for axes, (measure, label) in zip(panels, MEASURES.items(), strict=True):
        for index, layer in enumerate(layers):
            style = layer_style(index)
            values = [record["boxes"][layer][measure] for record in records]
            line = {"color": style.color, "linestyle": style.line, "marker": "."}
            axes.plot(epochs, np.array(values, np.float64), label=layer, **line)
        axes.set(xlabel="epoch", ylabel=label, ylim=(0, None))
        _mark_epochs(axes)
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
    _mark_epochs(axes)
    axes.legend(frameon=False, title="network (runs)")
    return figure


def _curve(
    records: Sequence[Mapping[str, Any]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return _values(records, "epoch"), _values(records, "mean_iou")


def _values(records: Sequence[Mapping[str, Any]], metric: str) -> NDArray[np.float64]:
    """A metric in each record; NaN, which Matplotlib leaves out, where it is None."""
    return np.array([record[metric] for record in records], np.float64)


def _mark_epochs(axes: Axes) -> None:
    """Puts ticks at whole epochs only, and a grid."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)


def draw_confusion(counts: NDArray[np.integer], classes: ClassSet) -> Figure:
    """Draws a confusion matrix as the share of each class that is predicted as each class.

    Classes that occur neither in labels nor in predictions are named below it, not drawn.

    Args:
      counts: the confusion matrix, `(classes, classes)`, whose rows are labels.
      classes: the names of the classes.
    """
    occurs = (counts.sum(axis=0) + counts.sum(axis=1)) > 0
    if not occurs.any():  # which is so if every label is void; an empty matrix cannot be drawn
        occurs[:] = True
    names = [name for name, here in zip(classes.names, occurs, strict=True) if here]
    absent = [name for name, here in zip(classes.names, occurs, strict=True) if not here]
    shares = label_shares(counts)[np.ix_(occurs, occurs)]
    side = max(5.5, _DIGIT_INCHES * len(names))
    figure = Figure((side + 2.5, side + 1.7), layout="constrained")
    axes = figure.subplots()
    # The diagonal dominates: a root keeps confusions of a few per cent visible beside it.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted class", ylabel="labelled class")
    font = 11 if side > 1.3 * _DIGIT_INCHES * len(names) else 9
    for (row, column), share in np.ndenumerate(shares):
        if share >= _LEAST_SHARE_WRITTEN:
            color = "white" if share > 0.35 else "black"
            text = f"{100 * share:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=font, color=color)
    figure.colorbar(image, label="share of the class's pixels (cells: %)", shrink=0.8)
    if absent:
        text = textwrap.fill(f"not in these images: {', '.join(absent)}", round(14 * side))
        figure.supxlabel(text, fontsize=9)
    return figure


def label_shares(counts: NDArray[np.integer]) -> NDArray[np.float64]:
    """The rows of a confusion matrix, each divided by its sum; 0 for classes without labels.

    Args:
      counts: the confusion matrix, `(classes, classes)`, whose rows are labels.
    """
    totals = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
