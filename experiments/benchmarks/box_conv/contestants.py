"""The layers that are timed, which directions of each, and the images that they are given."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

import jaxbox
from experiments.benchmarks.backend_function import differentiable
from experiments.benchmarks.box_conv.shapes import FULL, FULL_AND_PARTS, Direction, Shape
from experiments.benchmarks.box_conv.textbook import textbook
from jaxbox import boxes
from jaxbox_kernels.backend import Backend
from jaxbox_kernels.xla.backend import INTEGRAL_IMAGES, OVERLAP_MATRICES

type Platform = Literal["cpu", "gpu"]
type Layout = Literal["planes", "NHWC"]
type Layer = Callable[[Array, Array], Array]
"""A function of images and parameters, which are boxes or a convolution's kernel."""

PLANES, NHWC = "box_conv planes", "box_conv NHWC"
# The contestant that the others are compared with.
BASELINES: dict[Platform, str] = {"cpu": "textbook", "gpu": "xla"}
# If height and width add up to more, overlap matrices are far slower than integral images on CPU.
_LARGEST_MATRIX_SIZE = 400

box_conv_planes = partial(jaxbox.box_conv, channel_axis=-3)


@dataclass(frozen=True)
class Contestant:
    """A layer and the directions that are timed.

    Attributes:
      name: the name in tables.
      layer: the layer, a function of images and `parameters`.
      layout: the layout of images and output: `(B, C, H, W)` and `(B, C * F, H, W)` for planes;
        channels are last for NHWC.
      parameters: boxes `(C, F, 4)` in pixels, or a convolution's kernel.
      directions: the directions that are timed.
    """

    name: str
    layer: Layer
    layout: Layout
    parameters: Array
    directions: tuple[Direction, ...] = FULL


class Images(NamedTuple):
    """Random images.

    Attributes:
      x: the input of a layer.
      g: the gradient with respect to the output.
    """

    x: Array
    g: Array


def contestants(
    shape: Shape, dtype: str, conv: tuple[Direction, ...], platform: Platform
) -> list[Contestant]:
    """All contestants at a shape.

    Args:
      shape: the shape of images and boxes.
      dtype: the dtype of images.
      conv: the directions in which convolutions are timed; without any there are no convolutions.
      platform: the platform, which decides what box convolution is compared with.
    """
    listed = _on_gpu(shape) if platform == "gpu" else _on_cpu(shape)
    if conv:
        listed += [_convolution(shape, dtype, *form, conv) for form in ((3, 2), (15, 1))]
    return listed


def _on_cpu(shape: Shape) -> list[Contestant]:
    theta = sample_boxes(shape)
    integrals, matrices = map(_backend_layer, (INTEGRAL_IMAGES, OVERLAP_MATRICES))
    listed = [
        Contestant(PLANES, box_conv_planes, "planes", theta, FULL_AND_PARTS),
        _whole_pixels(theta, "forward", "forward+dx"),
        Contestant(NHWC, jaxbox.box_conv, "NHWC", theta),
        Contestant("integral images", integrals, "planes", theta),
    ]
    if shape.H + shape.W <= _LARGEST_MATRIX_SIZE:
        listed.append(Contestant("overlap matrices", matrices, "planes", theta))
    listed.append(Contestant(BASELINES["cpu"], textbook, "planes", theta, FULL_AND_PARTS))
    return listed


def _on_gpu(shape: Shape) -> list[Contestant]:
    theta = sample_boxes(shape)
    by_xla = partial(box_conv_planes, implementation="xla")
    copy = partial(_copy, boxes=shape.F)
    return [
        Contestant(PLANES, box_conv_planes, "planes", theta),
        _whole_pixels(theta, "forward"),
        Contestant(NHWC, jaxbox.box_conv, "NHWC", theta),
        Contestant(BASELINES["gpu"], by_xla, "planes", theta),
        Contestant("integral images", _backend_layer(INTEGRAL_IMAGES), "planes", theta),
        Contestant("copy of x for each box", copy, "planes", theta, ("forward",)),
    ]


def _whole_pixels(theta: Array, *directions: Direction) -> Contestant:
    layer = partial(box_conv_planes, whole_pixels=True)
    return Contestant(f"{PLANES}, whole pixels", layer, "planes", theta, directions)


def _copy(x: Array, theta: Array, *, boxes: int) -> Array:
    """Moves as many bytes as box convolution has to."""
    del theta
    # The change of sign keeps XLA from removing the copy.
    return jnp.repeat(-x, boxes, axis=1)


def _key(seed: int) -> Array:
    # XLA compiles this generator many times faster on CPU than the default one.
    return jax.random.key(seed, impl="rbg")


def sample_boxes(shape: Shape) -> Array:
    """Boxes `(C, F, 4)` from the distribution with which layers are initialised."""
    return boxes.sample(_key(0), (shape.C, shape.F), (shape.H, shape.W))


def square_boxes(shape: Shape, side: int) -> Array:
    """Square boxes `(C, F, 4)`; their centres in the middle half of the image never vary."""
    sizes = jnp.broadcast_to(jnp.array([shape.W, shape.H], jnp.float32), (shape.C, shape.F, 2))
    centres = sizes * jax.random.uniform(_key(4), sizes.shape, minval=-0.25, maxval=0.25)
    return jnp.stack([centres - side / 2, centres + side / 2], -1).reshape(shape.C, shape.F, 4)


def _backend_layer(backend: Backend) -> Layer:
    """A backend as a layer on planes."""
    box_conv = differentiable(backend)

    def layer(x: Array, theta: Array) -> Array:
        return lax.collapse(box_conv(x.astype(jnp.float32), theta), 1, 3).astype(x.dtype)

    return layer


def _convolution(
    shape: Shape, dtype: str, size: int, dilation: int, directions: tuple[Direction, ...]
) -> Contestant:
    """A depthwise convolution with as many outputs as there are boxes."""

    def convolve(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(1, 1),
            padding="SAME",
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=shape.C,
        )

    name = f"depthwise {size}x{size}" + (f", dilation {dilation}" if dilation > 1 else "")
    kernel = jax.random.normal(_key(1), (size, size, 1, shape.C * shape.F), dtype)
    return Contestant(name, convolve, "NHWC", kernel, directions)


def images(shape: Shape, dtype: str) -> dict[Layout, Images]:
    """Random images and gradients of a shape, the same in both layouts."""
    B, C, H, W, F = shape
    x = jax.random.normal(_key(2), (B, C, H, W), dtype)
    g = jax.random.normal(_key(3), (B, C * F, H, W), dtype)
    return {
        "planes": Images(x, g),
        "NHWC": Images(jnp.moveaxis(x, 1, -1), jnp.moveaxis(g, 1, -1)),
    }
