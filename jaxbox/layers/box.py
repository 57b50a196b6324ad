"""The box convolution as a Flax NNX layer."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Final, Never, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype, Initializer
from jax import lax

from jaxbox import boxes, symmetric_boxes
from jaxbox.arguments import (
    check_callable,
    check_choice,
    check_count,
    check_dtype,
    check_flag,
    check_rngs,
    sizes_per_axis,
    to_array,
)
from jaxbox.layers.parameters import NO_METADATA, check_metadata
from jaxbox.ops.box_conv import Implementation, Padding, box_conv
from jaxbox_kernels.common import layout

__all__ = [
    "BOX_TAG",
    "DEFAULT_WINDOW",
    "BoxConv",
    "FrozenBoxes",
    "choose_num_dims",
    "choose_theta_init",
    "with_boxes",
]

# The `tag` in the metadata of a Param that holds boxes; `window` stands beside it.
BOX_TAG: Final = "box"

# What the layer itself says about theta.
_OWN_METADATA: Final = frozenset({"tag", "window", "num_dims", "symmetric", "causal"})

# The window in which boxes start, and by which their steps are scaled, if a layer has none.
DEFAULT_WINDOW: Final[boxes.Window] = (32, 32)


class FrozenBoxes(nnx.Variable[jax.Array]):
    """Boxes that are not trained: no `nnx.Param`, hence without gradient and optimizer state."""


class BoxConv(nnx.Module):
    """Averages every channel over learnable boxes: `num_boxes` outputs for each input channel.

    It maps `(..., H, W, in_features)` to `(..., H, W, in_features * num_boxes)` or, with
    `channel_axis=-3`, `(..., in_features, H, W)` to `(..., in_features * num_boxes, H, W)`. Box `f`
    of channel `c` is output channel `c * num_boxes + f`. See :func:`jaxbox.box_conv` for the
    formula.

    The boxes are the only parameter, `theta`: `(in_features, num_boxes, 4)`, in pixels, the last
    axis `(x_min, x_max, y_min, y_max)`. It has the metadata `tag="box"` and `window`, by which
    :mod:`jaxbox.optim` finds it.

    The layer computes with :attr:`valid_theta`, the valid boxes nearest to `theta`, whatever an
    optimizer does to the parameter. Use :func:`jaxbox.optim.constrain` all the same: it keeps the
    parameter itself valid, so that boxes do not lose time far outside.

    Source: Burkov & Lempitsky 2018, section 3.1.

    Args:
      in_features: The number of channels of the input.
      num_boxes: The number of boxes for each channel.
      *positional: Nothing. `window` has to be given by name, lest it be taken for the kernel size
        that `flax.nnx.Conv` has in this place.
      window: The size `(h, w)` in pixels of the feature maps that the layer will see, `(l,)` for
        signals or `(d, h, w)` for volumes. Boxes start inside it and are kept in
        `[-w, w] x [-h, h]`. The layer accepts maps of other sizes too.
      example: An array or `jax.ShapeDtypeStruct` of the input's shape to take the window from, in
        place of `window`. With neither, boxes start as in a 32 x 32 window and only their minimum
        size is enforced.
      num_dims: The number of spatial axes: 1 for signals, 2 for images, 3 for volumes. By default
        the length of `window`, or 2.
      min_size: The least width and height, in pixels, of the boxes that the layer computes with.
      normalize: Whether to divide by the area of the box. Without it the layer integrates.
      strides: The steps between outputs in pixels, one for all axes or one for each.
      padding: What is outside the feature map: `"zeros"`, `"edge"` or `"partial"`. See
        :func:`jaxbox.box_conv`.
      whole_pixels: Whether to round the boxes to whole pixels, for which the layer is faster. They
        do not train then. See :func:`jaxbox.box_conv`.
      channel_axis: The axis of the channels: -1, or before the spatial axes (-3 for images), which
        saves transpositions. See :func:`jaxbox.box_conv`.
      dtype: The dtype that the input is cast to, which is also that of the output. By default it is
        the input's own.
      param_dtype: The dtype of theta. Keep float32 in bfloat16 models.
      symmetric: Whether boxes are their own mirror images about the vertical axis. Theta then holds
        three numbers of each box, `(y_min, y_max, width)`; see :mod:`jaxbox.symmetric_boxes`.
      causal: Whether boxes see nothing after their output along the first spatial axis, which is
        time in signals and videos: they are kept in `[-w, 1/2]` there, and start in it.
      trainable: Whether theta is an `nnx.Param`. Otherwise it is a `FrozenBoxes`, which gradients
        and optimizers with respect to `nnx.Param` leave alone.
      theta_init: The initializer of theta, by default `boxes.initializer(window)`. One that
        `nnx.with_partitioning` wraps says how theta is spread over the devices of a mesh.
      theta_metadata: Further metadata of theta, such as `{"out_sharding": ("model", None, None)}`,
        as `flax.nnx.Conv` takes for its kernel.
      implementation: The implementation of the operation, as in :func:`jaxbox.box_conv`.
      rngs: The random keys; the stream `params` is used.

    Raises:
      TypeError: An argument is of the wrong type, or `window` is not given by name.
      ValueError: `window` and `example` are both given, or do not fit; a number is out of range;
        `channel_axis` or `implementation` is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxbox.layers import BoxConv
      >>> layer = BoxConv(16, 4, window=(64, 128), rngs=nnx.Rngs(0))
      >>> layer.theta.shape, layer.window
      ((16, 4, 4), (64, 128))
      >>> layer(jnp.ones((2, 64, 128, 16))).shape
      (2, 64, 128, 64)
    """

    def __init__(
        self,
        in_features: int,
        num_boxes: int,
        *positional: Never,
        window: Sequence[float] | None = None,
        example: jax.Array | jax.ShapeDtypeStruct | None = None,
        num_dims: int | None = None,
        min_size: float = 1.0,
        normalize: bool = True,
        strides: int | Sequence[int] = 1,
        padding: Padding = "zeros",
        whole_pixels: bool = False,
        channel_axis: int = -1,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        symmetric: bool = False,
        causal: bool = False,
        trainable: bool = True,
        theta_init: Initializer | None = None,
        theta_metadata: Mapping[str, Any] = NO_METADATA,
        implementation: Implementation | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        if positional:
            raise TypeError(
                "window must be given by name, as window=(h, w) in pixels: BoxConv has no kernel "
                "size, and num_boxes is the number of boxes of each input channel; got "
                f"{', '.join(map(repr, (in_features, num_boxes, *positional)))}."
            )
        self.num_dims = choose_num_dims(num_dims, window)
        layout.describe(channel_axis, self.num_dims)  # Raises where it is unknown.
        check_choice("padding", padding, get_args(Padding))
        check_choice("implementation", implementation, (None, *get_args(Implementation)))
        for name, flag in (
            ("normalize", normalize),
            ("whole_pixels", whole_pixels),
            ("trainable", trainable),
            ("symmetric", symmetric),
            ("causal", causal),
        ):
            check_flag(name, flag)
        if dtype is not None:
            check_dtype("dtype", dtype)
        check_dtype("param_dtype", param_dtype)
        self.in_features = check_count("in_features", in_features)
        self.num_boxes = check_count("num_boxes", num_boxes)
        window = self._choose_window(window, example, channel_axis)
        boxes.check_min_size(min_size, window, causal=causal)
        if symmetric and self.num_dims != 2:
            raise ValueError(f"symmetric boxes are for images; num_dims is {self.num_dims}.")
        if symmetric and causal:
            raise ValueError("boxes are symmetric or causal, not both; got True for each.")
        if theta_init is None:
            size = window or DEFAULT_WINDOW[:1] * self.num_dims
            theta_init = choose_theta_init(size, symmetric=symmetric, causal=causal)
        check_callable("theta_init", theta_init)
        metadata = check_metadata("theta_metadata", theta_metadata, _OWN_METADATA)
        check_rngs(rngs)

        self.min_size = float(min_size)
        self.normalize = normalize
        self.strides = sizes_per_axis("strides", strides, self.num_dims)
        self.padding: Padding = padding
        self.whole_pixels = whole_pixels
        self.channel_axis = channel_axis
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.implementation = implementation
        self.symmetric = symmetric
        self.causal = causal
        numbers = 3 if symmetric else 2 * self.num_dims
        variable = nnx.Param if trainable else FrozenBoxes
        self.theta: nnx.Variable[jax.Array] = variable(
            theta_init(rngs.params(), (self.in_features, self.num_boxes, numbers), param_dtype),
            tag=BOX_TAG,
            window=window,
            num_dims=self.num_dims,
            symmetric=symmetric,
            causal=causal,
            **metadata,
        )

    def _choose_window(
        self,
        window: Sequence[float] | None,
        example: jax.Array | jax.ShapeDtypeStruct | None,
        channel_axis: int,
    ) -> boxes.Window | None:
        """Returns the window that is given, or that of the example, or none."""
        if example is None:
            return None if window is None else boxes.check_window(window)
        if window is not None:
            raise ValueError(f"Give window or example, not both; window is {window}.")
        shape = getattr(example, "shape", None)
        if shape is None:
            raise TypeError(f"example must be an array or a jax.ShapeDtypeStruct, got {example!r}.")
        if len(shape) < self.num_dims + 1 or shape[channel_axis] != self.in_features:
            axes = layout.describe(channel_axis, self.num_dims)
            raise ValueError(
                f"example must be {axes} with C = in_features = {self.in_features}, got shape "
                f"{shape}."
            )
        size, _ = layout.spatial_size(shape, channel_axis, self.num_dims)
        if 0 in size:
            raise ValueError(f"example must have pixels, got shape {shape}.")
        return boxes.check_window(size)

    @property
    def window(self) -> boxes.Window | None:
        """The `(h, w)` that boxes are kept in; `None` if only their minimum size is enforced."""
        window: boxes.Window | None = self.theta.get_metadata("window")
        return window

    @property
    def valid_theta(self) -> jax.Array:
        """The boxes that the layer computes with, `(in_features, num_boxes, 4)` in pixels.

        Valid boxes are those of `theta`, bit for bit; others are projected into the window by
        :func:`jaxbox.boxes.project`, infinite ones too. A NaN stays a NaN and makes the outputs of
        its box NaN, lest the mistake go unseen. The gradient with respect to `theta` is that with
        respect to these boxes (straight-through), so that an invalid box goes on learning.
        """
        theta = self.theta[...]
        constant = lax.stop_gradient(theta)
        valid = _project(
            constant, self.window, self.min_size, symmetric=self.symmetric, causal=self.causal
        )
        learnt = _with_gradient_of(theta, valid)
        return symmetric_boxes.to_boxes(learnt) if self.symmetric else learnt

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the boxes.

        Args:
          x: The feature map, `(..., H, W, in_features)` or, with `channel_axis=-3`,
            `(..., in_features, H, W)`, of a floating dtype.

        Returns:
          The averages, with `in_features * num_boxes` channels and each spatial axis divided by its
          stride and rounded up, of the layer's `dtype` or else of that of `x`.

        Raises:
          TypeError: `x` is not of a real floating dtype.
          ValueError: The shape of `x` does not fit.
        """
        return box_conv(
            jnp.asarray(to_array("x", x), self.dtype),
            self.valid_theta,
            normalize=self.normalize,
            strides=self.strides,
            padding=self.padding,
            whole_pixels=self.whole_pixels,
            channel_axis=self.channel_axis,
            implementation=self.implementation,
        )


# Compiled, because the operations one by one are slow in a model that is not.
@functools.partial(jax.jit, static_argnames=("window", "min_size", "symmetric", "causal"))
def _project(
    theta: jax.Array,
    window: boxes.Window | None,
    min_size: float,
    *,
    symmetric: bool,
    causal: bool,
) -> jax.Array:
    """Returns the nearest valid boxes, also of boxes with infinite bounds."""
    # Without a window nothing else makes bounds finite. A quarter leaves room for the widths.
    largest = float(jnp.finfo(theta.dtype).max) / 4  # type: ignore[no-untyped-call]
    finite = jnp.clip(theta, -largest, largest)
    if symmetric:
        return symmetric_boxes.project(finite, window, min_size=min_size)
    return boxes.project(finite, window, min_size=min_size, causal=causal)


@jax.custom_jvp
def _with_gradient_of(theta: jax.Array, value: jax.Array) -> jax.Array:
    """Returns `value`, whose derivative is taken for that of `theta` (straight-through)."""
    del theta
    return value


@_with_gradient_of.defjvp
def _with_gradient_of_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    return primals[1], tangents[0]


def with_boxes(layer: BoxConv, theta: jax.Array) -> BoxConv:
    """Returns a copy of a layer with other boxes and all of its options.

    Args:
      layer: The layer.
      theta: The boxes of the copy, `(in_features, num_boxes, ...)`, in the form of the layer's own.

    Example:
      >>> from flax import nnx
      >>> from jaxbox.layers.box import BoxConv, with_boxes
      >>> layer = BoxConv(4, 2, padding="edge", rngs=nnx.Rngs(0))
      >>> fewer = with_boxes(layer, layer.theta[1:, :1])
      >>> fewer.in_features, fewer.num_boxes, fewer.padding
      (3, 1, 'edge')
    """
    copy = nnx.clone(layer)
    copy.in_features, copy.num_boxes = theta.shape[:2]
    copy.theta = type(layer.theta).from_metadata(theta, layer.theta.get_metadata())
    return copy


def choose_theta_init(window: boxes.Window, *, symmetric: bool, causal: bool) -> Initializer:
    """Returns the initializer of boxes that start inside a window."""
    if symmetric:
        return symmetric_boxes.initializer(window)
    return boxes.initializer(window, causal=causal)


def choose_num_dims(num_dims: int | None, window: Sequence[float] | None) -> int:
    """Returns the number of spatial axes that is given, or that of the window, or 2.

    Raises:
      TypeError: `window` is not a sequence of numbers.
      ValueError: `num_dims` is not 1, 2 or 3, or not the length of `window`; `window` is not one to
        three positive finite numbers.
    """
    of_window = None if window is None else len(boxes.check_window(window))
    if num_dims is None:
        return of_window or 2
    check_choice("num_dims", num_dims, (1, 2, 3))
    if of_window not in (None, num_dims):
        raise ValueError(f"num_dims must be the length of window {window}; got {num_dims}.")
    return num_dims
