"""The contract that every backend of the box convolution fulfils.

A backend works on planes. In the shapes below, `N` is the number of images, `C` the number of
channels, `F` the number of boxes of each channel, `H` the number of rows and `W` the number of
columns of an image. Boxes are `(x_min, x_max, y_min, y_max)` in pixels.

`registry` has the table of backends and chooses among them.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax
from jax import Array, lax

from jaxbox_kernels.common.strides import Strides

type Gradients = tuple[Array | None, Array | None]
"""The gradients with respect to `x` and to `theta`; `None` stands for one that is not needed."""


@dataclass(frozen=True)
class Options:
    """What a backend computes. Hashable, so that it can be a static argument of `jax.jit`.

    Attributes:
      normalize: whether the integral over a box is divided by the box's area.
      whole_pixels: whether all bounds of all boxes are known to lie on pixel edges, of which a
        backend may make use.
      needs_dx: whether `backward` computes the gradient with respect to `x`.
      channels_last: whether planes are transposed views of images with channels last, and results
        will be transposed back. Only for a backend with `reads_channels_last`.
      strides: the steps between outputs along y and along x, in pixels. Only for a backend with
        `has_strides`.
      input_size: the size `(H, W)` of the input, which `backward` needs where strides are not 1.
      strides_in_g: in `backward`, the steps between the outputs that were computed, if `g` was
        spread out over zeros in place of all others.
    """

    normalize: bool = True
    whole_pixels: bool = False
    needs_dx: bool = True
    channels_last: bool = False
    strides: Strides = (1, 1)
    input_size: tuple[int, int] | None = None
    strides_in_g: Strides = (1, 1)

    @property
    def is_strided(self) -> bool:
        """Whether not every pixel has an output."""
        return self.strides != (1, 1)

    @property
    def at_every_pixel(self) -> "Options":
        """The same options without strides, for a `g` that was spread out over zeros."""
        return dataclasses.replace(self, strides=(1, 1), input_size=None, strides_in_g=self.strides)


class Forward(Protocol):
    """Computes the output of the box convolution."""

    def __call__(self, x: Array, theta: Array, options: Options) -> Array:
        """Averages or integrates planes over boxes.

        Args:
          x: the input, `(N, C, H, W)`.
          theta: the boxes, `(C, F, 4)`.
          options: what to compute.

        Returns:
          The output, `(N, C, F, H, W)`, of the dtype of `x`; with strides,
          `(N, C, F, ceil(H / stride), ceil(W / stride))`.
        """


class Backward(Protocol):
    """Computes the gradients of the box convolution."""

    def __call__(self, x: Array | None, theta: Array, g: Array, options: Options) -> Gradients:
        """Computes the gradients that are needed, differentiably.

        Args:
          x: the input, `(N, C, H, W)`; `None` if the gradient with respect to `theta` is not
            needed.
          theta: the boxes, `(C, F, 4)`.
          g: the gradient with respect to the output, of its shape.
          options: what to compute.

        Returns:
          `dx`, the gradient with respect to `x`, of the dtype of `g`, and `dtheta`, the gradient
          with respect to `theta`; `None` in place of what is not needed.
        """


class Unsuitable(Protocol):
    """Tells whether a backend can compute a box convolution on the default device."""

    def __call__(self, x: jax.ShapeDtypeStruct, boxes: int) -> str | None:
        """Says why the backend cannot serve an input of this shape and dtype.

        Args:
          x: the shape `(N, C, H, W)` and the dtype of the input.
          boxes: the number `F` of boxes of each channel.

        Returns:
          The reason, a clause without a full stop; `None` if the backend can serve the input.
        """


@dataclass(frozen=True)
class Backend:
    """An implementation of the box convolution.

    Attributes:
      name: what users call it.
      forward: computes the output.
      backward: computes the gradients; can itself be differentiated.
      unsuitable: says why the backend cannot serve an input.
      maps_images: whether large images with channels last are transposed and computed one at a
        time, which takes less memory but keeps a GPU less busy.
      reads_channels_last: whether the backend reads and writes images with channels last in place,
        so that nothing need be transposed in memory.
      has_strides: whether the backend can compute at some positions only.
    """

    name: str
    forward: Forward
    backward: Backward
    unsuitable: Unsuitable
    maps_images: bool
    reads_channels_last: bool = False
    has_strides: bool = False


def always_suitable(x: jax.ShapeDtypeStruct, boxes: int) -> None:
    """The `unsuitable` of a backend that serves every input on every device."""
    del x, boxes


# Cached so that the same two backends give the same functions, which JAX need not compile again.
@functools.cache
def by_platform(platform: str, special: Backend, general: Backend) -> Backend:
    """Composes a backend of two by the platform that a program is compiled for.

    Args:
      platform: a platform of `jax.lax.platform_dependent`, as `"cuda"`.
      special: the backend for that platform.
      general: the backend for all other platforms.

    Returns:
      A backend that serves the inputs that `special` serves.
    """

    def compose(special: Callable[..., Any], general: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            *arrays, options = arguments
            branches = {platform: functools.partial(special, options=options)}
            default = functools.partial(general, options=options)
            return lax.platform_dependent(*arrays, default=default, **branches)

        return run

    return Backend(
        name=f"{special.name} on {platform}, else {general.name}",
        forward=compose(special.forward, general.forward),
        backward=compose(special.backward, general.backward),
        unsuitable=special.unsuitable,
        maps_images=special.maps_images,
        reads_channels_last=special.reads_channels_last,
        has_strides=special.has_strides and general.has_strides,
    )
