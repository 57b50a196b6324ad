"""Figures of panels, each of which shows the boxes of a layer around their output pixel."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from jaxbox.analysis import BoxLayer

__all__ = [
    "FIGURE_WIDTH",
    "MAX_COLUMNS",
    "MOST_DRAWN",
    "Panel",
    "draw_boxes",
    "draw_panels",
    "limits_of",
]

FIGURE_WIDTH = 8.0  # In inches.
MAX_COLUMNS = 4
MOST_DRAWN = 32  # The default number of boxes in a panel.
_FAINTEST = 0.08
_ASPECT_OF_BARS = 0.8  # The height of a panel of bars over its width.
_EXPLANATION = "pixels of the layer's feature map; the more opaque a box, the more important"
_MAP_STYLE: Final[Mapping[str, Any]] = {"color": "0.4", "linestyle": "--", "linewidth": 1.0}
_LIMIT_STYLE: Final[Mapping[str, Any]] = {"color": "0.75", "linestyle": "-", "linewidth": 1.0}


class Panel(NamedTuple):
    """The boxes of a layer at some moment of training.

    Attributes:
      title: The panel's title.
      layer: The layer, whose importance decides which boxes are drawn, and their opacity.
      theta: The boxes to draw, `(C, F, 4)`.
      limits: The largest `x` and `y` that the panel shows.
      has_bars: Whether boxes are bars of signals, whose places downwards mean nothing.
    """

    title: str
    layer: BoxLayer
    theta: ArrayLike
    limits: tuple[float, float]
    has_bars: bool = False


def draw_panels(
    panels: Sequence[Panel | None], columns: int, most: int, *, title: str = ""
) -> Figure:
    """Draws panels row by row.

    Args:
      panels: The panels; `None` leaves a place empty.
      columns: The number of panels in a row.
      most: The number of boxes to draw in a panel, the most important ones.
      title: The figure's title.
    """
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    heights = [_row_height(row, columns) for row in rows]
    figure = Figure((FIGURE_WIDTH, sum(heights) + 0.8), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, panel in zip(grid.flat, panels, strict=False):
        if panel is not None:
            draw_boxes(axes, panel, most)
            axes.set_title(panel.title, fontsize=9)
    figure.supxlabel(_EXPLANATION, fontsize=9)
    if any(panel is not None and panel.layer.window for panel in panels):
        _explain_frames(figure, title)
    elif title:
        figure.suptitle(title, fontsize=10)
    return figure


def draw_boxes(
    axes: Axes,
    panel: Panel,
    most: int,
    *,
    frame: tuple[float, float, float, float] | None = None,
) -> None:
    """Draws the boxes of a panel.

    Args:
      axes: The axes to draw in.
      panel: The boxes and the limits of the axes.
      most: The number of boxes to draw, the most important ones.
      frame: The dashed rectangle, `(x, y, width, height)`. Default: the size of the layer's feature
        map, with its middle at the output pixel, and around it a solid one, the limit of boxes.
    """
    layer, limits = panel.layer, panel.limits
    axes.set_axis_on()
    axes.set(xlim=(-limits[0], limits[0]), ylim=(limits[1], -limits[1]))
    axes.tick_params(labelsize=8)
    axes.axvline(0, color="0.8", linewidth=0.5, zorder=0)
    if panel.has_bars:
        axes.set_yticks([])
        _draw_length(axes, layer)
    else:
        axes.set_aspect("equal")
        axes.axhline(0, color="0.8", linewidth=0.5, zorder=0)
        _draw_frames(axes, layer, frame)
    importance = np.asarray(layer.importance, np.float64)
    relative = importance / max(importance.max(), np.finfo(np.float64).tiny)
    opacity = 1 - (1 - _FAINTEST) * (1 - relative)
    for channel, box in _most_important(layer, most):
        x_min, x_max, y_min, y_max = np.asarray(panel.theta, np.float64)[channel, box].tolist()
        color = channel if len(importance) > 1 else box
        axes.add_patch(
            Rectangle(
                (x_min, y_min),
                x_max - x_min,
                y_max - y_min,
                fill=panel.has_bars,
                linewidth=1,
                facecolor=f"C{color % 10}",
                edgecolor=f"C{color % 10}",
                alpha=float(opacity[channel, box]),
            )
        )


def _draw_frames(
    axes: Axes, layer: BoxLayer, frame: tuple[float, float, float, float] | None
) -> None:
    if frame is None and layer.window is not None:
        height, width = layer.window
        frame = (-width / 2, -height / 2, width, height)
        limit = Rectangle((-width, -height), 2 * width, 2 * height, fill=False, **_LIMIT_STYLE)
        axes.add_patch(limit)
    if frame is not None:
        axes.add_patch(Rectangle(frame[:2], *frame[2:], fill=False, **_MAP_STYLE))


def _draw_length(axes: Axes, layer: BoxLayer) -> None:
    """Marks the length of a signal, with its middle at the output, and the limit of boxes."""
    if layer.window is None:
        return
    length = layer.window[1]
    for x in (-length, length):
        axes.axvline(x, **_LIMIT_STYLE)
        axes.axvline(x / 2, **_MAP_STYLE)


def limits_of(
    layer: BoxLayer, states: Iterable[ArrayLike], most: int, *, framed: bool = True
) -> tuple[float, float]:
    """Returns the largest `x` and `y` needed to show the limit of boxes and the drawn boxes.

    Args:
      layer: The layer.
      states: Its boxes at several moments of training, each `(C, F, 4)`.
      most: The number of boxes to draw, the most important ones.
      framed: Whether the limit of boxes is drawn.
    """
    channels, indices = np.transpose(_most_important(layer, most))
    drawn = np.abs([np.asarray(theta)[channels, indices] for theta in states])
    h, w = (layer.window if framed else None) or (0.0, 0.0)
    x, y = (float(drawn[..., start : start + 2].max()) for start in (0, 2))
    return 1.05 * max(w, x), 1.05 * max(h, y)


def _explain_frames(figure: Figure, title: str) -> None:
    handles = [
        Line2D([], [], label="size of the feature map", **_MAP_STYLE),
        Line2D([], [], label="limit, beyond which no box may reach", **_LIMIT_STYLE),
    ]
    # As the legend's title, since it would be drawn over a figure's title.
    figure.legend(
        handles=handles,
        title=title or None,
        loc="outside upper center",
        ncols=2,
        frameon=False,
        fontsize=9,
        title_fontsize=10,
    )


def _row_height(row: Sequence[Panel | None], columns: int) -> float:
    """Returns the height in inches of the highest panel with its tick labels and title."""
    aspect = max(
        _ASPECT_OF_BARS if panel.has_bars else panel.limits[1] / panel.limits[0]
        for panel in row
        if panel is not None
    )
    return (FIGURE_WIDTH / columns - 0.5) * aspect + 0.6


def _most_important(layer: BoxLayer, most: int) -> list[tuple[int, int]]:
    """Returns the channel and box indices, the most important last, so that it is drawn on top."""
    order = np.argsort(np.asarray(layer.importance), axis=None)[-most:]
    channels, indices = np.unravel_index(order, np.shape(layer.importance))
    return list(zip(channels.tolist(), indices.tolist(), strict=True))
