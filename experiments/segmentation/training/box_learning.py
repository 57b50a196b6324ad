"""Variants of how boxes start and move in training, by name, for studies of how they learn.

Each variant differs from the library's own in one respect, so that runs that differ in nothing else
tell what it is worth.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from experiments.segmentation.training.smoothed_boxes import SmoothedBoxConv
from jaxbox import boxes, models

# The share of training before which `slow-start` raises the steps of boxes, and that after which
# `early-stop` leaves boxes where they are.
_SLOW_START = 0.2
_EARLY_STOP = 0.6


@dataclass(frozen=True)
class BoxLearning:
    """How boxes start and move.

    Attributes:
      summary: what differs from the library's own, for the table of a study.
      step_scale: the factor on the steps of boxes.
      own_size: whether steps are fractions of twice the box's own size, not of the window.
      schedule: the factor on the steps as a function of the share of training that has passed.
      start: the initializer for a window, or None for the library's.
      block_scale: the initial factor of the BatchNorm after the boxes, or None for the library's.
      smoothing: the half-width in pixels of the band over which sides see their gradient, or 0.
      redraw: whether boxes at the minimum size are drawn anew in the first half of training.
      averaging: the decay of the moving average that takes the place of the gradient, or 0.
    """

    summary: str
    step_scale: float = 1.0
    own_size: bool = False
    schedule: Callable[[jax.Array], jax.Array] | None = None
    start: Callable[[boxes.Window], Callable[..., jax.Array]] | None = None
    block_scale: float | None = None
    smoothing: float = 0.0
    redraw: bool = False
    averaging: float = 0.0

    @property
    def moves_differently(self) -> bool:
        """Whether the steps of boxes are not the library's."""
        return self.step_scale != 1 or self.own_size or self.schedule is not None


def log_uniform_near_origin(window: Sequence[float]) -> Callable[..., jax.Array]:
    """An initializer of small boxes near the origin and a few large ones.

    Widths and heights are log-uniform from 1.5 pixels to the window's, centres normal with a
    quarter of the box's size as their deviation.

    Args:
      window: the size `(h, w)` of the feature map in pixels.
    """

    def init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
        size_key, centre_key = jax.random.split(key)
        h, w = window
        axes = (*shape[:-1], 2)
        largest = jnp.broadcast_to(jnp.array([w, h], dtype), axes)
        exponent = jax.random.uniform(size_key, axes, dtype)
        size = 1.5 * (largest / 1.5) ** exponent
        centre = 0.25 * size * jax.random.normal(centre_key, axes, dtype)
        bounds = jnp.stack([centre - size / 2, centre + size / 2], axis=-1)
        return boxes.project(bounds.reshape(*shape), (h / 2, w / 2))

    return init


def half_window(window: Sequence[float]) -> Callable[..., jax.Array]:
    """The library's initializer for a window half as high and half as wide.

    Args:
      window: the size `(h, w)` of the feature map in pixels.
    """
    h, w = window
    return boxes.initializer((max(h / 2, 1.0), max(w / 2, 1.0)))


def _slow_start(passed: jax.Array) -> jax.Array:
    return jnp.minimum(passed / _SLOW_START, 1.0)


def _early_stop(passed: jax.Array) -> jax.Array:
    """Takes the cosine of the learning rate to its end at `_EARLY_STOP`."""
    own = 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(passed / _EARLY_STOP, 1.0)))
    common = 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(passed, 1.0)))
    return jnp.where(common > 0, own / jnp.where(common > 0, common, 1.0), 0.0)


LIBRARY: Final = "library"
"""The name of the library's own."""

BOX_LEARNING: Final[Mapping[str, BoxLearning]] = MappingProxyType(
    {
        LIBRARY: BoxLearning("as the library does it"),
        "double-steps": BoxLearning("steps twice as long", step_scale=2.0),
        "half-steps": BoxLearning("steps half as long", step_scale=0.5),
        "quarter-steps": BoxLearning("steps a quarter as long", step_scale=0.25),
        "eighth-steps": BoxLearning("steps an eighth as long", step_scale=0.125),
        "own-size-steps": BoxLearning("steps in fractions of twice the box's size", own_size=True),
        "slow-start": BoxLearning(
            f"steps grow from 0 over the first {100 * _SLOW_START:.0f}% of training",
            schedule=_slow_start,
        ),
        "early-stop": BoxLearning(
            f"steps fall to 0 over the first {100 * _EARLY_STOP:.0f}% of training",
            schedule=_early_stop,
        ),
        "log-sizes": BoxLearning(
            "initial sizes log-uniform, centres near the origin", start=log_uniform_near_origin
        ),
        "half-window": BoxLearning("boxes start in half the window", start=half_window),
        "full-scale": BoxLearning("the BatchNorm after the boxes starts at 1", block_scale=1.0),
        "smooth-gradient": BoxLearning(
            "sides see their gradient in the image averaged over 3x3 pixels", smoothing=1.5
        ),
        "redraw": BoxLearning("boxes at the minimum size are drawn anew", redraw=True),
        "averaged-gradient": BoxLearning(
            "gradients are averaged over about 50 batches", averaging=0.98
        ),
        "frozen": BoxLearning("boxes stay as they start", step_scale=0.0),
        "frozen-log-sizes": BoxLearning(
            "boxes start as with log-sizes, and stay so",
            step_scale=0.0,
            start=log_uniform_near_origin,
        ),
    }
)
"""The variants by name."""


def prepare_boxes(model: models.SegmentationNetwork, name: str, rngs: nnx.Rngs) -> None:
    """Changes in place how the boxes of a network start and see their gradients.

    Args:
      model: the network with its initial parameters.
      name: a name in `BOX_LEARNING`.
      rngs: the random keys; the stream `params` is used.
    """
    variant = BOX_LEARNING[name]
    for _, block in model.box_blocks():
        layer, norm = block.boxes, block.norm_after_boxes
        if variant.start is not None and layer.window is not None:
            theta = layer.theta[...]
            layer.theta[...] = variant.start(layer.window)(rngs.params(), theta.shape, theta.dtype)
        if variant.block_scale is not None:
            norm.scale[...] = jnp.full_like(norm.scale[...], variant.block_scale)
        if variant.smoothing:
            block.boxes = SmoothedBoxConv(layer, variant.smoothing)
