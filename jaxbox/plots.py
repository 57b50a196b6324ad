"""Pictures of the numbers in `jaxbox.analysis`.

Needs Matplotlib: `pip install "jaxbox[plots]"`. Every function returns a figure of its own, to be
saved with `figure.savefig(path)`, and leaves Matplotlib's global state alone. Figures are 8 inches
wide: at 100 dots an inch, 800 pixels.

Boxes are drawn around the cross at the pixel that they compute, `y` downwards as in images; a
feature map laid around that pixel is dashed.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxbox import analysis, boxes
from jaxbox.analysis import BoxLayer

try:
    from matplotlib import colormaps
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from PIL import Image
except ImportError as error:
    raise ImportError(
        "jaxbox.plots needs Matplotlib and Pillow; install them with: pip install 'jaxbox[plots]'"
    ) from error

__all__ = [
    "animate_training",
    "draw_areas",
    "draw_before_and_after",
    "draw_energy",
    "draw_histograms",
    "draw_layers",
    "draw_training",
]

_WIDTH = 8.0  # inches
_COLUMNS = 4
_FAINTEST = 0.08
_MOST_DRAWN = 32
_EXPLANATION = "pixels of the layer's feature map (dashed: its size); opacity: importance"


def draw_layers(layers: Sequence[BoxLayer], *, most: int = _MOST_DRAWN) -> Figure:
    """Draws the boxes of each layer around the centre, the more opaque the more important.

    Args:
      layers: Of one network, at least one; `jaxbox.analysis.box_layers` lists them.
      most: How many boxes of a layer to draw, the most important ones.

    Returns:
      A figure with a panel for each layer. Boxes of one channel share a colour.

    Raises:
      ValueError: There are no layers.

    Example:
      >>> from flax import nnx
      >>> from jaxbox import analysis, models, plots
      >>> model = models.create("boxerfnet", 3, (16, 24), rngs=nnx.Rngs(0))
      >>> figure = plots.draw_layers(analysis.box_layers(model))
      >>> [panel.get_title() for panel in figure.axes if panel.get_title()][0]
      'box layer 1'
    """
    _check_any("layers", layers)
    panels = [
        _Panel(layer.name, layer, layer.theta, _limits(layer, [layer.theta], most))
        for layer in layers
    ]
    return _draw_panels(panels, min(len(panels), _COLUMNS), most)


def draw_before_and_after(
    before: Sequence[BoxLayer], after: Sequence[BoxLayer], *, most: int = _MOST_DRAWN
) -> Figure:
    """Draws the boxes of each layer before training above the same boxes after it.

    Args:
      before: The layers of a network before training, at least one.
      after: The same layers after training. Their importance decides which boxes are drawn, and how
        opaque.
      most: How many boxes of a layer to draw, the most important ones.

    Returns:
      A figure with two panels for each layer.

    Raises:
      ValueError: There are no layers, or not as many before as after.

    Example:
      >>> from flax import nnx
      >>> from jaxbox import analysis, models, plots
      >>> before, after = (
      ...     analysis.box_layers(models.create("boxerfnet", 3, (16, 24), rngs=nnx.Rngs(seed)))
      ...     for seed in (0, 1)
      ... )
      >>> figure = plots.draw_before_and_after(before, after)
    """
    _check_pairs(before, after)
    limits = [
        _limits(new, [old.theta, new.theta], most) for old, new in zip(before, after, strict=True)
    ]
    columns = min(len(after), _COLUMNS)
    panels: list[_Panel | None] = []
    for start in range(0, len(after), columns):
        band = range(start, min(start + columns, len(after)))
        for states, when in ((before, "before"), (after, "after")):
            panels += [
                _Panel(f"{after[i].name}, {when}", after[i], states[i].theta, limits[i])
                for i in band
            ]
            panels += [None] * (columns - len(band))
    return _draw_panels(panels, columns, most)


def draw_training(
    layer: BoxLayer, history: Mapping[str, ArrayLike], *, most: int = _MOST_DRAWN
) -> Figure:
    """Draws the boxes of a layer through training, as a strip.

    Source: Burkov & Lempitsky 2018, Figure 2.

    Args:
      layer: The layer at the end of training; its importance decides which boxes are drawn, and how
        opaque.
      history: The layer's boxes `(C, F, 4)` at some moments, in order, each under its caption.
      most: How many boxes to draw, the most important ones.

    Returns:
      A figure with a panel for each moment.

    Raises:
      ValueError: There are no moments, or boxes of another shape than the layer's.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxbox import boxes, plots
      >>> from jaxbox.analysis import BoxLayer
      >>> start, end = (boxes.sample(key, (8, 4), (32, 64)) for key in map(jax.random.key, (0, 1)))
      >>> layer = BoxLayer("box layer 1", end, (32, 64), jnp.ones((8, 4)))
      >>> figure = plots.draw_training(layer, {"at first": start, "at last": end})
    """
    _check_history(layer, history)
    limits = _limits(layer, history.values(), most)
    panels = [_Panel(caption, layer, theta, limits) for caption, theta in history.items()]
    figure = _draw_panels(panels, min(len(panels), _COLUMNS), most)
    figure.suptitle(layer.name, fontsize=10)
    return figure


def animate_training(
    layer: BoxLayer,
    history: Mapping[str, ArrayLike],
    path: str | PathLike[str],
    *,
    most: int = _MOST_DRAWN,
    milliseconds: int = 100,
    image: ArrayLike | None = None,
) -> None:
    """Writes the boxes of a layer through training as an animated GIF.

    Source: Burkov & Lempitsky 2018, Figure 2.

    Args:
      layer: As in `draw_training`.
      history: As in `draw_training`; each moment is a frame.
      path: The file to write.
      most: How many boxes to draw, the most important ones.
      milliseconds: How long a frame lasts; the last lasts 20 times as long.
      image: `(h, w)`, grey values to lay under the boxes so that the cross is on its pixel
        `(h // 2, w // 2)`.

    Raises:
      ValueError: There are no moments, or boxes of another shape than the layer's.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxbox import boxes, plots
      >>> from jaxbox.analysis import BoxLayer
      >>> start, end = (boxes.sample(key, (8, 4), (32, 64)) for key in map(jax.random.key, (0, 1)))
      >>> layer = BoxLayer("box layer 1", end, (32, 64), jnp.ones((8, 4)))
      >>> plots.animate_training(layer, {"at first": start, "at last": end}, "boxes.gif")
    """
    _check_history(layer, history)
    limits = _limits(layer, history.values(), most)
    frame = None
    if image is not None:
        h, w = np.shape(image)
        frame = (-(w // 2) - 0.5, -(h // 2) - 0.5, w, h)
        limits = max(limits[0], -1.05 * frame[0]), max(limits[1], -1.05 * frame[1])
    pictures = []
    for caption, theta in history.items():
        figure = Figure((4.0, 4.2), layout="constrained")
        axes = figure.subplots()
        if frame is not None:
            x, y, w, h = frame
            extent = (x, x + w, y + h, y)
            axes.imshow(np.asarray(image), cmap="gray_r", alpha=0.3, extent=extent)
        _draw_boxes(axes, layer, theta, most, limits=limits, frame=frame)
        axes.set_title(caption, fontsize=11)
        axes.set_xlabel("pixels", fontsize=9)
        pictures.append(_render(figure))
    first, *others = _share_palette(pictures)
    durations = [milliseconds] * len(others) + [20 * milliseconds]
    first.save(
        path,
        format="GIF",
        save_all=True,
        append_images=others,
        duration=durations,
        loop=0,
        optimize=True,
    )


def draw_areas(layers: Sequence[BoxLayer]) -> Figure:
    """Plots the areas of boxes against their importance, a colour for each layer.

    Source: Burkov & Lempitsky 2018, Figure 3.

    Args:
      layers: Of one network, at least one.

    Returns:
      A figure; both scales are logarithmic.

    Raises:
      ValueError: There are no layers.

    Example:
      >>> from flax import nnx
      >>> from jaxbox import analysis, models, plots
      >>> model = models.create("boxerfnet", 3, (16, 24), rngs=nnx.Rngs(0))
      >>> figure = plots.draw_areas(analysis.box_layers(model))
      >>> figure.axes[0].get_ylabel()
      'area of the box (square pixels)'
    """
    _check_any("layers", layers)
    figure = Figure((_WIDTH, 4.5), layout="constrained")
    axes = figure.subplots()
    for index, layer in enumerate(layers):
        importance, areas = np.ravel(layer.importance), np.ravel(boxes.area(layer.theta))
        color = _layer_color(index, len(layers))
        axes.scatter(importance, areas, s=10, alpha=0.7, color=color, lw=0, label=layer.name)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="importance of the box",
        ylabel="area of the box (square pixels)",
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False, fontsize=9, markerscale=2)
    return figure


def draw_energy(curves: Mapping[str, ArrayLike], *, title: str = "") -> Figure:
    """Plots the cumulative gradient energy `E(r)` of several networks.

    Source: Burkov & Lempitsky 2018, Figure 4.

    Args:
      curves: `E(r)` for `r = 0, 1, 2, ...` pixels, `(R,)`, of each network by its name.
      title: Of the figure.

    Returns:
      A figure.

    Raises:
      ValueError: There are no curves.

    Example:
      >>> from jaxbox import plots
      >>> figure = plots.draw_energy({"ENet": [0.1, 0.6, 1.0], "BoxENet": [0.1, 0.4, 1.0]})
      >>> [line.get_label() for line in figure.axes[0].lines]
      ['ENet', 'BoxENet']
    """
    _check_any("curves", curves)
    figure = Figure((_WIDTH, 4.0), layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        axes.plot(np.asarray(curve), label=name)
    axes.set(
        xlabel="radius r of the window (pixels of the image)",
        ylabel="share of the gradient inside, E(r)",
        ylim=(0, 1.02),
        xlim=(0, max(len(np.asarray(curve)) for curve in curves.values()) - 1),
        title=title,
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    return figure


def draw_histograms(before: Sequence[BoxLayer], after: Sequence[BoxLayer]) -> Figure:
    """Draws histograms of the boxes of all layers before and after training.

    Of their widths, heights and areas, on logarithmic scales, and of how symmetric they are about
    the vertical axis (`jaxbox.analysis.symmetry`).

    Args:
      before: The layers of a network before training, at least one.
      after: The same layers after training.

    Returns:
      A figure.

    Raises:
      ValueError: There are no layers, or not as many before as after.

    Example:
      >>> from flax import nnx
      >>> from jaxbox import analysis, models, plots
      >>> before, after = (
      ...     analysis.box_layers(models.create("boxerfnet", 3, (16, 24), rngs=nnx.Rngs(seed)))
      ...     for seed in (0, 1)
      ... )
      >>> figure = plots.draw_histograms(before, after)
    """
    _check_pairs(before, after)
    measured = [_measure(layers) for layers in (before, after)]
    figure = Figure((_WIDTH, 5.5), layout="constrained")
    for axes, label in zip(figure.subplots(2, 2).flat, measured[0], strict=True):
        old, new = (values[label] for values in measured)
        largest = max(old.max(), new.max())
        if "pixels" in label:
            bins = np.geomspace(1.0, max(float(largest), 2.0), 31)
            axes.set_xscale("log")
        else:
            bins = np.linspace(0.0, 1.0, 31)
        # Of the smallest boxes some are a rounding error smaller than a pixel.
        old, new = (np.clip(values, bins[0], bins[-1]) for values in (old, new))
        axes.hist(old, bins, color="0.75", label="before training")
        axes.hist(new, bins, color="C0", histtype="step", linewidth=1.5, label="after training")
        axes.set(xlabel=label, ylabel="boxes")
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False
    )
    return figure


class _Panel(NamedTuple):
    """Boxes to draw: a state of a layer's."""

    title: str
    layer: BoxLayer
    theta: ArrayLike
    limits: tuple[float, float]


def _draw_panels(panels: Sequence[_Panel | None], columns: int, most: int) -> Figure:
    """Panels row by row; where there is `None`, none."""
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    heights = [_row_height(row, columns) for row in rows]
    figure = Figure((_WIDTH, sum(heights) + 0.5), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, panel in zip(grid.flat, panels, strict=False):
        if panel is not None:
            _draw_boxes(axes, panel.layer, panel.theta, most, limits=panel.limits)
            axes.set_title(panel.title, fontsize=9)
    figure.supxlabel(_EXPLANATION, fontsize=9)
    return figure


def _row_height(row: Sequence[_Panel | None], columns: int) -> float:
    """Inches for the highest panel, beside its numbers and below its title."""
    aspect = max(panel.limits[1] / panel.limits[0] for panel in row if panel is not None)
    return (_WIDTH / columns - 0.5) * aspect + 0.6


def _measure(layers: Sequence[BoxLayer]) -> dict[str, NDArray[np.floating]]:
    theta = np.concatenate([np.reshape(layer.theta, (-1, 4)) for layer in layers])
    return {
        "width (pixels)": theta[:, 1] - theta[:, 0],
        "height (pixels)": theta[:, 3] - theta[:, 2],
        "area (square pixels)": np.asarray(boxes.area(theta)),
        "symmetry about the vertical axis": np.asarray(analysis.symmetry(theta)),
    }


def _draw_boxes(
    axes: Axes,
    layer: BoxLayer,
    theta: ArrayLike,
    most: int,
    *,
    limits: tuple[float, float],
    frame: tuple[float, float, float, float] | None = None,
) -> None:
    """Draws boxes of a layer, of which `theta` may be another state.

    `limits` are how far `x` and `y` go, `frame` is `(x, y, width, height)` of what is dashed:
    by default the layer's feature map around the centre.
    """
    axes.set_axis_on()
    axes.set(xlim=(-limits[0], limits[0]), ylim=(limits[1], -limits[1]), aspect="equal")
    axes.tick_params(labelsize=8)
    axes.axhline(0, color="0.8", linewidth=0.5, zorder=0)
    axes.axvline(0, color="0.8", linewidth=0.5, zorder=0)
    if frame is None and layer.window is not None:
        height, width = layer.window
        frame = (-width / 2, -height / 2, width, height)
    if frame is not None:
        axes.add_patch(Rectangle(frame[:2], *frame[2:], fill=False, ls="--", ec="0.6"))
    importance = np.asarray(layer.importance, np.float64)
    relative = importance / max(importance.max(), np.finfo(np.float64).tiny)
    opacity = 1 - (1 - _FAINTEST) * (1 - relative)
    for channel, box in _most_important(layer, most):
        x_min, x_max, y_min, y_max = np.asarray(theta, np.float64)[channel, box].tolist()
        color = channel if len(importance) > 1 else box
        axes.add_patch(
            Rectangle(
                (x_min, y_min),
                x_max - x_min,
                y_max - y_min,
                fill=False,
                linewidth=1,
                edgecolor=f"C{color % 10}",
                alpha=float(opacity[channel, box]),
            )
        )


def _most_important(layer: BoxLayer, most: int) -> list[tuple[int, int]]:
    """Channels and boxes, the most important last, so that they lie on top."""
    order = np.argsort(np.asarray(layer.importance), axis=None)[-most:]
    channels, indices = np.unravel_index(order, np.shape(layer.importance))
    return list(zip(channels.tolist(), indices.tolist(), strict=True))


def _limits(layer: BoxLayer, states: Iterable[ArrayLike], most: int) -> tuple[float, float]:
    """How far `x` and `y` must go to show the feature map and the drawn boxes of all states."""
    channels, indices = np.transpose(_most_important(layer, most))
    drawn = np.abs([np.asarray(theta)[channels, indices] for theta in states])
    h, w = layer.window or (0.0, 0.0)
    x, y = (drawn[..., start : start + 2].max() for start in (0, 2))
    return 1.05 * max(w / 2, x), 1.05 * max(h / 2, y)


def _layer_color(index: int, number: int) -> Any:
    """Colours from blue to yellow for the layers from the first to the last."""
    return colormaps["viridis"](0.92 * index / max(number - 1, 1))


def _render(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return Image.open(buffer).convert("RGB")


def _share_palette(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """One palette for all frames, so that what stays the same is not stored again."""
    # The usual median cut makes thin coloured lines grey, coverage alone tints what is grey.
    colors = frames[-1].quantize(192, Image.Quantize.MAXCOVERAGE).getpalette() or []
    greys = np.repeat(np.linspace(0, 255, 64).round().astype(int), 3).tolist()
    palette = Image.new("P", (1, 1))
    palette.putpalette([*colors[: 3 * 192], *greys])
    return [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]


def _check_any(name: str, values: Sequence[Any] | Mapping[str, Any]) -> None:
    if not values:
        raise ValueError(f"{name} must have at least one element, got none.")


def _check_pairs(before: Sequence[BoxLayer], after: Sequence[BoxLayer]) -> None:
    _check_any("after", after)
    if len(before) != len(after):
        raise ValueError(f"before must have {len(after)} layers, as after, got {len(before)}.")


def _check_history(layer: BoxLayer, history: Mapping[str, ArrayLike]) -> None:
    _check_any("history", history)
    for caption, theta in history.items():
        if np.shape(theta) != np.shape(layer.theta):
            raise ValueError(
                f"history must have boxes {np.shape(layer.theta)} as the layer, got shape "
                f"{np.shape(theta)} for {caption!r}."
            )
