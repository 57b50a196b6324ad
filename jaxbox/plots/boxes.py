"""Figures of the boxes of a network's layers."""

from collections.abc import Mapping, Sequence

from jax.typing import ArrayLike
from matplotlib.figure import Figure

from jaxbox.analysis import BoxLayer
from jaxbox.arguments import check_count
from jaxbox.plots.checks import check_history, check_layers, check_pairs
from jaxbox.plots.panels import MAX_COLUMNS, MOST_DRAWN, Panel, draw_panels, limits_of
from jaxbox.plots.views import View, views_of

__all__ = ["draw_before_and_after", "draw_layers", "draw_training"]


def draw_layers(layers: Sequence[BoxLayer], *, most: int = MOST_DRAWN) -> Figure:
    """Draws the boxes of each layer. The more important a box is, the more opaque it is.

    Boxes of signals are bars, the most important one on top; those of volumes are drawn as they are
    seen from the front, from the side and from above.

    Args:
      layers: The layers of a network, at least one, as `jaxbox.analysis.box_layers` returns them.
      most: The number of boxes of a layer to draw, the most important ones.

    Returns:
      A figure with a panel for each layer, or three for one of volumes. The boxes of one channel
      have the same colour.

    Raises:
      TypeError: `layers` is no sequence of `BoxLayer`, or `most` no integer.
      ValueError: There are no layers, one does not fit together, or `most` is below 1.

    Example:
      >>> from flax import nnx
      >>> from jaxbox import analysis, models, plots
      >>> model = models.create("boxerfnet", 3, (16, 24), rngs=nnx.Rngs(0))
      >>> figure = plots.draw_layers(analysis.box_layers(model))
      >>> [panel.get_title() for panel in figure.axes if panel.get_title()][0]
      'box layer 1'
    """
    check_layers("layers", layers)
    most = check_count("most", most)
    views = [view for layer in layers for view in views_of(layer, most)]
    panels = [
        _panel(
            view, view.layer.name, view.layer.theta, limits_of(view.layer, [view.layer.theta], most)
        )
        for view in views
    ]
    return draw_panels(panels, min(len(panels), MAX_COLUMNS), most)


def draw_before_and_after(
    before: Sequence[BoxLayer], after: Sequence[BoxLayer], *, most: int = MOST_DRAWN
) -> Figure:
    """Draws the boxes of each layer before training, and below them the same boxes after training.

    Args:
      before: The layers of a network before training, at least one.
      after: The same layers after training. Their importance decides which boxes are drawn, and
        their opacity.
      most: The number of boxes of a layer to draw, the most important ones.

    Returns:
      A figure with two panels for each layer, or six for one of volumes.

    Raises:
      TypeError: `before` or `after` is no sequence of `BoxLayer`, or `most` no integer.
      ValueError: There are no layers, layers differ in number or shape, or `most` is below 1.

    Example:
      >>> from flax import nnx
      >>> from jaxbox import analysis, models, plots
      >>> before, after = (
      ...     analysis.box_layers(models.create("boxerfnet", 3, (16, 24), rngs=nnx.Rngs(seed)))
      ...     for seed in (0, 1)
      ... )
      >>> figure = plots.draw_before_and_after(before, after)
    """
    check_pairs(before, after)
    most = check_count("most", most)
    pairs = [
        (view, view.rectangles(old.theta))
        for old, new in zip(before, after, strict=True)
        for view in views_of(new, most)
    ]
    limits = [limits_of(view.layer, [old, view.layer.theta], most) for view, old in pairs]
    columns = min(len(pairs), MAX_COLUMNS)
    panels: list[Panel | None] = []
    for start in range(0, len(pairs), columns):
        row = range(start, min(start + columns, len(pairs)))
        for when in ("before", "after"):
            for i in row:
                view, old = pairs[i]
                theta = old if when == "before" else view.layer.theta
                panels.append(_panel(view, f"{view.layer.name}, {when}", theta, limits[i]))
            panels += [None] * (columns - len(row))
    return draw_panels(panels, columns, most)


def draw_training(
    layer: BoxLayer, history: Mapping[str, ArrayLike], *, most: int = MOST_DRAWN
) -> Figure:
    """Draws the boxes of a layer at several moments of training.

    Source: Burkov & Lempitsky 2018, Figure 2.

    Args:
      layer: The layer at the end of training. Its importance decides which boxes are drawn, and
        their opacity.
      history: The layer's boxes at each moment, of the shape of `layer.theta`, in order, by the
        caption of the moment.
      most: The number of boxes to draw, the most important ones.

    Returns:
      A figure with a panel for each moment, or three for boxes of volumes.

    Raises:
      TypeError: `layer` is no `BoxLayer`, `history` no mapping of captions to boxes, or `most` no
        integer.
      ValueError: There are no moments, boxes of another shape than the layer's, or `most` is
        below 1.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxbox import boxes, plots
      >>> from jaxbox.analysis import BoxLayer
      >>> start, end = (boxes.sample(key, (8, 4), (32, 64)) for key in map(jax.random.key, (0, 1)))
      >>> layer = BoxLayer("box layer 1", end, (32, 64), jnp.ones((8, 4)))
      >>> figure = plots.draw_training(layer, {"at first": start, "at last": end})
    """
    check_history(layer, history)
    most = check_count("most", most)
    views, columns = views_of(layer, most), min(len(history), MAX_COLUMNS)
    panels: list[Panel | None] = []
    for view in views:
        states = [view.rectangles(theta) for theta in history.values()]
        limits = limits_of(view.layer, states, most)
        panels += [
            _panel(view, caption, theta, limits)
            for caption, theta in zip(history, states, strict=True)
        ]
        panels += [None] * (-len(history) % columns)
    return draw_panels(panels, columns, most, title=layer.name)


def _panel(view: View, title: str, theta: ArrayLike, limits: tuple[float, float]) -> Panel:
    title = f"{title}, {view.title}" if view.title else title
    return Panel(title, view.layer, theta, limits, view.has_bars)
