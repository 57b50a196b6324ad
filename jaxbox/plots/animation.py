"""An animation of a layer's boxes through training."""

import io
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import IO

import numpy as np
from jax.typing import ArrayLike
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from jaxbox.analysis import BoxLayer
from jaxbox.arguments import check_count
from jaxbox.plots.checks import check_history, to_reals
from jaxbox.plots.panels import MOST_DRAWN, Panel, draw_boxes, limits_of
from jaxbox.plots.views import View, views_of

__all__ = ["animate_training"]

_LAST_FRAME_FACTOR = 20  # How many times as long as the others the last frame lasts.


def animate_training(
    layer: BoxLayer,
    history: Mapping[str, ArrayLike],
    path: str | PathLike[str] | IO[bytes],
    *,
    most: int = MOST_DRAWN,
    milliseconds: int = 100,
    image: ArrayLike | None = None,
) -> None:
    """Writes the boxes of a layer through training as an animated GIF.

    Source: Burkov & Lempitsky 2018, Figure 2.

    Args:
      layer: The layer at the end of training. Its importance decides which boxes are drawn, and
        their opacity.
      history: The layer's boxes in each frame, of the shape of `layer.theta`, in order, by the
        frame's caption.
      path: The file to write, a path or an open file.
      most: The number of boxes to draw, the most important ones.
      milliseconds: The duration of a frame. The last frame lasts 20 times as long.
      image: Grey values `(h, w)` to draw below boxes of images, whose output pixel is
        `(h // 2, w // 2)`.

    Raises:
      TypeError: An argument is of the wrong type.
      ValueError: There are no frames, boxes of another shape than the layer's, or a number is out
        of range.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxbox import boxes, plots
      >>> from jaxbox.analysis import BoxLayer
      >>> start, end = (boxes.sample(key, (8, 4), (32, 64)) for key in map(jax.random.key, (0, 1)))
      >>> layer = BoxLayer("box layer 1", end, (32, 64), jnp.ones((8, 4)))
      >>> plots.animate_training(layer, {"at first": start, "at last": end}, "boxes.gif")
    """
    if not isinstance(path, str | PathLike | io.IOBase):
        raise TypeError(f"path must be a path or a binary file, got {path!r}.")
    check_history(layer, history)
    most = check_count("most", most)
    milliseconds = check_count("milliseconds", milliseconds)
    if image is not None:
        image = to_reals("image", image)
        if image.ndim != 2 or not image.size:
            raise ValueError(f"image must be (h, w), got shape {image.shape}.")
        if np.shape(layer.theta)[-1] != 4:
            raise ValueError("image must be None where boxes are not those of images.")
    views = views_of(layer, most)
    limits = [
        _limits(view, [view.rectangles(theta) for theta in history.values()], most, image)
        for view in views
    ]
    frames = [
        [
            Panel(view.title, view.layer, view.rectangles(theta), limit, view.has_bars)
            for view, limit in zip(views, limits, strict=True)
        ]
        for theta in history.values()
    ]
    first, *others = _share_palette(
        [
            _draw_frame(caption, panels, most, image)
            for caption, panels in zip(history, frames, strict=True)
        ]
    )
    first.save(
        path,
        format="GIF",
        save_all=True,
        append_images=others,
        duration=[milliseconds] * len(others) + [_LAST_FRAME_FACTOR * milliseconds],
        loop=0,
        optimize=True,
    )


def _limits(
    view: View, states: Sequence[ArrayLike], most: int, image: NDArray[np.float64] | None
) -> tuple[float, float]:
    limits = limits_of(view.layer, states, most, framed=image is None)
    if image is None:
        return limits
    x, y, _, _ = _frame_of(image)
    return max(limits[0], -1.05 * x), max(limits[1], -1.05 * y)


def _draw_frame(
    caption: str, panels: Sequence[Panel], most: int, image: ArrayLike | None
) -> Image.Image:
    figure = Figure((4.0 * len(panels), 4.2), layout="constrained")
    figure.suptitle(caption, fontsize=11)
    frame = None
    if image is not None:
        frame = _frame_of(image)
    for panel, axes in zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True):
        if frame is not None:
            x, y, w, h = frame
            extent = (x, x + w, y + h, y)
            axes.imshow(np.asarray(image), cmap="gray_r", alpha=0.3, extent=extent)
        draw_boxes(axes, panel, most, frame=frame)
        axes.set_title(panel.title, fontsize=9)
    frames = ""
    if image is not None:
        frames = " (dashed: image)"
    elif panels[0].layer.window is not None:
        frames = " (dashed: feature map; solid: limit of boxes)"
    figure.supxlabel(f"pixels{frames}", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return Image.open(buffer).convert("RGB")


def _frame_of(image: ArrayLike) -> tuple[float, float, float, float]:
    """Returns the `(x, y, width, height)` of an image around its pixel `(h // 2, w // 2)`."""
    h, w = np.shape(image)
    return -(w // 2) - 0.5, -(h // 2) - 0.5, w, h


def _share_palette(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """Gives all frames the same palette, so that the GIF stores only what changes."""
    # The usual median cut turns thin coloured lines grey. Maximum coverage alone tints greys.
    colors = frames[-1].quantize(192, Image.Quantize.MAXCOVERAGE).getpalette() or []
    greys = np.repeat(np.linspace(0, 255, 64).round().astype(int), 3).tolist()
    palette = Image.new("P", (1, 1))
    palette.putpalette([*colors[: 3 * 192], *greys])
    return [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
