"""Boxes of signals and volumes as rectangles, which are drawn as those of images are."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxbox.analysis import BoxLayer

__all__ = ["View", "views_of"]

_BAR = 0.7  # The height of the bar that stands for a box of a signal; the next is 1 below.

# The axes (0 is x, 1 is y, 2 is z) that are drawn to the right and downwards.
_SIDES_OF_VOLUMES = {
    "from the front": (0, 1),
    "from the side": (2, 1),
    "from above": (0, 2),
}


class View(NamedTuple):
    """The boxes of a layer as they are drawn in one panel.

    Attributes:
      title: How the boxes are seen; empty where there is one view only.
      layer: The layer, with rectangles `(C, F, 4)` as its boxes and a window `(h, w)`.
      axes: The axes (0 is x, 1 is y, 2 is z) that are drawn to the right and downwards; bars have
        no second one.
    """

    title: str
    layer: BoxLayer
    axes: tuple[int, int | None]

    @property
    def has_bars(self) -> bool:
        """Whether each box is a bar in a row of its own, whose height means nothing."""
        return self.axes[1] is None

    def rectangles(self, theta: ArrayLike) -> NDArray[np.float64]:
        """Returns boxes of the layer, at any moment of training, as rectangles `(C, F, 4)`."""
        bounds = np.asarray(theta, np.float64)
        right, down = self.axes
        along_x = bounds[..., 2 * right : 2 * right + 2]
        if down is None:
            along_y = np.asarray(self.layer.theta)[..., 2:]
        else:
            along_y = bounds[..., 2 * down : 2 * down + 2]
        return np.concatenate([along_x, along_y], axis=-1)


def views_of(layer: BoxLayer, most: int) -> list[View]:
    """Lists the views in which the boxes of a layer are drawn.

    Boxes of images are seen as they are. Those of volumes are seen from three sides, and those of
    signals are bars, the most important one on top.

    Args:
      layer: The layer, whose boxes have two, four or six numbers.
      most: The number of boxes that are drawn.
    """
    rank = np.shape(layer.theta)[-1] // 2
    if rank == 1:
        return [_bars(layer, most)]
    if rank == 2:
        return [View("", layer, (0, 1))]
    return [_seen(title, layer, axes) for title, axes in _SIDES_OF_VOLUMES.items()]


def _bars(layer: BoxLayer, most: int) -> View:
    importance = np.asarray(layer.importance)
    places = np.empty(importance.size)
    places[np.argsort(-importance, axis=None, kind="stable")] = np.arange(importance.size)
    middle = places.reshape(importance.shape) - (min(most, importance.size) - 1) / 2
    rows = np.stack([middle - _BAR / 2, middle + _BAR / 2], axis=-1)
    rectangles = np.concatenate([np.asarray(layer.theta), rows], axis=-1, dtype=np.float32)
    window = None if layer.window is None else (1.0, layer.window[0])
    return View("", layer._replace(theta=jnp.asarray(rectangles), window=window), (0, None))


def _seen(title: str, layer: BoxLayer, axes: tuple[int, int]) -> View:
    right, down = axes
    sizes = layer.window
    window = None if sizes is None else (sizes[-1 - down], sizes[-1 - right])
    view = View(title, layer._replace(window=window), axes)
    rectangles = jnp.asarray(view.rectangles(layer.theta), jnp.float32)
    return view._replace(layer=view.layer._replace(theta=rectangles))
