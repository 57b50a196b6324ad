"""How the layers of a network are told apart in one chart: by colour, marker and line."""

from typing import NamedTuple

__all__ = ["LayerStyle", "layer_style"]

# Okabe and Ito's colours, which people with any kind of colour vision tell apart. Their yellow is
# left out, since it is hardly seen on white.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
_MARKERS = ("o", "^", "s", "D", "v", "P")
_LINES = ("-", "--", ":", "-.")


class LayerStyle(NamedTuple):
    """The style of a layer in Matplotlib's words.

    Attributes:
      color: The colour of its points and lines.
      marker: The marker of its points.
      line: The style of its lines.
    """

    color: str
    marker: str
    line: str


def layer_style(index: int) -> LayerStyle:
    """Returns the style of a layer; no two of the first 28 layers share one.

    Args:
      index: The number of the layer in its network, from 0.

    Example:
      >>> from jaxbox.plots.layer_style import layer_style
      >>> layer_style(0) == layer_style(7), layer_style(0).color == layer_style(7).color
      (False, True)
    """
    colors_used, color = divmod(index, len(_COLORS))
    return LayerStyle(
        _COLORS[color], _MARKERS[colors_used % len(_MARKERS)], _LINES[colors_used % len(_LINES)]
    )
