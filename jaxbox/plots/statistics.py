"""Charts of areas, gradient energy and histograms."""

from collections.abc import Mapping, Sequence

import numpy as np
from jax.typing import ArrayLike
from matplotlib.figure import Figure
from numpy.typing import NDArray

from jaxbox import analysis, boxes
from jaxbox.analysis import BoxLayer
from jaxbox.plots.checks import check_by_name, check_layers, check_pairs, to_reals
from jaxbox.plots.layer_style import layer_style
from jaxbox.plots.panels import FIGURE_WIDTH

__all__ = ["draw_areas", "draw_energy", "draw_histograms"]

# By the number of dimensions.
_SIZE_LABELS = {
    1: "length of the box (pixels)",
    2: "area of the box (square pixels)",
    3: "volume of the box (cubic pixels)",
}


def draw_areas(layers: Sequence[BoxLayer]) -> Figure:
    """Plots the areas of boxes, or lengths or volumes, against their importance.

    Source: Burkov & Lempitsky 2018, Figure 3.

    Args:
      layers: The layers of a network, at least one.

    Returns:
      A figure with two logarithmic scales.

    Raises:
      TypeError: `layers` is no sequence of `BoxLayer`.
      ValueError: There are no layers, or one does not fit together.

    Example:
      >>> from flax import nnx
      >>> from jaxbox import analysis, models, plots
      >>> model = models.create("boxerfnet", 3, (16, 24), rngs=nnx.Rngs(0))
      >>> figure = plots.draw_areas(analysis.box_layers(model))
      >>> figure.axes[0].get_ylabel()
      'area of the box (square pixels)'
    """
    check_layers("layers", layers)
    figure = Figure((FIGURE_WIDTH, 4.5), layout="constrained")
    axes = figure.subplots()
    for index, layer in enumerate(layers):
        style = layer_style(index)
        importance, areas = np.ravel(layer.importance), np.ravel(boxes.area(layer.theta))
        axes.scatter(
            importance,
            areas,
            s=14,
            alpha=0.7,
            color=style.color,
            marker=style.marker,
            lw=0,
            label=layer.name,
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="importance of the box",
        ylabel=_size_label(layers),
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False, fontsize=9, markerscale=2)
    return figure


def _size_label(layers: Sequence[BoxLayer]) -> str:
    ranks = {np.shape(layer.theta)[-1] // 2 for layer in layers}
    return _SIZE_LABELS[ranks.pop()] if len(ranks) == 1 else "size of the box"


def draw_energy(curves: Mapping[str, ArrayLike], *, title: str = "") -> Figure:
    """Plots the cumulative gradient energy `E(r)` of several networks.

    Source: Burkov & Lempitsky 2018, Figure 4.

    Args:
      curves: `E(r)` for `r = 0, 1, 2, ...` pixels, `(R,)`, of each network, by its name.
      title: The figure's title.

    Returns:
      A figure with a line for each network.

    Raises:
      TypeError: `curves` is no mapping of names to real numbers, or `title` no string.
      ValueError: There are no curves, or one is not `(R,)`.

    Example:
      >>> from jaxbox import plots
      >>> figure = plots.draw_energy({"ENet": [0.1, 0.6, 1.0], "BoxENet": [0.1, 0.4, 1.0]})
      >>> [line.get_label() for line in figure.axes[0].lines]
      ['ENet', 'BoxENet']
    """
    check_by_name("curves", curves)
    if not isinstance(title, str):
        raise TypeError(f"title must be a string, got {title!r}.")
    reals = {
        name: to_reals(f"curves of {name!r}", curve, finite=False) for name, curve in curves.items()
    }
    for name, curve in reals.items():
        if curve.ndim != 1 or not curve.size:
            raise ValueError(f"curves must be (R,), got shape {curve.shape} for {name!r}.")
    figure = Figure((FIGURE_WIDTH, 4.0), layout="constrained")
    axes = figure.subplots()
    for name, curve in reals.items():
        axes.plot(curve, label=name)
    axes.set(
        xlabel="radius r of the window (pixels of the image)",
        ylabel="share of the gradient inside, E(r)",
        ylim=(0, 1.02),
        xlim=(0, max(1, *(len(curve) - 1 for curve in reals.values()))),
        title=title,
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    return figure


def draw_histograms(before: Sequence[BoxLayer], after: Sequence[BoxLayer]) -> Figure:
    """Draws histograms of the boxes of all layers before and after training.

    Widths, heights and areas are on logarithmic scales. The fourth histogram is of the symmetry
    about the vertical axis, `jaxbox.analysis.symmetry`.

    Args:
      before: The layers of a network before training, at least one.
      after: The same layers after training.

    Returns:
      A figure with four panels.

    Raises:
      TypeError: `before` or `after` is no sequence of `BoxLayer`.
      ValueError: There are no layers, or layers differ in number or shape.

    Example:
      >>> from flax import nnx
      >>> from jaxbox import analysis, models, plots
      >>> before, after = (
      ...     analysis.box_layers(models.create("boxerfnet", 3, (16, 24), rngs=nnx.Rngs(seed)))
      ...     for seed in (0, 1)
      ... )
      >>> figure = plots.draw_histograms(before, after)
    """
    check_pairs(before, after)
    measured = [_measure(layers) for layers in (before, after)]
    figure = Figure((FIGURE_WIDTH, 5.5), layout="constrained")
    for axes, label in zip(figure.subplots(2, 2).flat, measured[0], strict=True):
        old, new = (values[label] for values in measured)
        largest = max(old.max(), new.max())
        if "pixels" in label:
            bins = np.geomspace(1.0, max(float(largest), 2.0), 31)
            axes.set_xscale("log")
        else:
            bins = np.linspace(0.0, 1.0, 31)
        # Some of the smallest boxes are smaller than a pixel by a rounding error.
        old, new = (np.clip(values, bins[0], bins[-1]) for values in (old, new))
        axes.hist(old, bins, color="0.75", label="before training")
        axes.hist(new, bins, color="C0", histtype="step", linewidth=1.5, label="after training")
        axes.set(xlabel=label, ylabel="boxes")
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False
    )
    return figure


def _measure(layers: Sequence[BoxLayer]) -> dict[str, NDArray[np.floating]]:
    theta = np.concatenate([np.reshape(layer.theta, (-1, 4)) for layer in layers])
    return {
        "width (pixels)": theta[:, 1] - theta[:, 0],
        "height (pixels)": theta[:, 3] - theta[:, 2],
        "area (square pixels)": np.asarray(boxes.area(theta)),
        "symmetry about the vertical axis": np.asarray(analysis.symmetry(theta)),
    }
