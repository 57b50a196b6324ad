"""Figures of the boxes of a network's layers."""

from collections.abc import Mapping, Sequence

from jax.typing import ArrayLike
from matplotlib.figure import Figure

from jaxbox.analysis import BoxLayer
from jaxbox.arguments import check_count
from jaxbox.plots.checks import check_history, check_layers, check_pairs
from jaxbox.plots.panels import MAX_COLUMNS, MOST_DRAWN, Panel, draw_panels, limits_of

__all__ = ["draw_before_and_after", "draw_layers", "draw_training"]


def draw_layers(layers: Sequence[BoxLayer], *, most: int = MOST_DRAWN) -> Figure:
    """Draws the boxes of each layer. The more important a box is, the more opaque it is.

    Args:
      layers: The layers of a network, at least one, as `jaxbox.analysis.box_layers` returns them.
      most: The number of boxes of a layer to draw, the most important ones.

    Returns:
      A figure with a panel for each layer. The boxes of one channel have the same colour.

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
    panels = [
        Panel(layer.name, layer, layer.theta, limits_of(layer, [layer.theta], most))
        for layer in layers
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
      A figure with two panels for each layer.

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
    limits = [
        limits_of(new, [old.theta, new.theta], most) for old, new in zip(before, after, strict=True)
    ]
    columns = min(len(after), MAX_COLUMNS)
    panels: list[Panel | None] = []
    for start in range(0, len(after), columns):
        row = range(start, min(start + columns, len(after)))
        for states, when in ((before, "before"), (after, "after")):
            panels += [
                Panel(f"{after[i].name}, {when}", after[i], states[i].theta, limits[i]) for i in row
            ]
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
      history: The layer's boxes `(C, F, 4)` at each moment, in order, by the caption of the moment.
      most: The number of boxes to draw, the most important ones.

    Returns:
      A figure with a panel for each moment.

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
    limits = limits_of(layer, history.values(), most)
    panels = [Panel(caption, layer, theta, limits) for caption, theta in history.items()]
    figure = draw_panels(panels, min(len(panels), MAX_COLUMNS), most)
    figure.suptitle(layer.name, fontsize=10)
    return figure
