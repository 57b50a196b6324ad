"""Weights from and for a `BoxConv2d` of the authors' code (github.com/shrubb/box-convolutions).

Boxes are four arrays there, `x_min`, `x_max`, `y_min` and `y_max`, where `x` runs along the height.
Their unit is a fixed fraction of the largest expected feature map. They are the first and the last
pixel that a box covers, which are half a pixel inside its bounds.

`docs/migrating/box_convolutions.md` says what else differs: which boxes are valid, and how they are
rounded to whole pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, get_args

import numpy as np
from flax import nnx
from numpy.typing import ArrayLike, NDArray

from jaxbox import symmetric_boxes
from jaxbox.arguments import check_choice, check_number
from jaxbox.boxes import Window, check_window
from jaxbox.interop.state_dict import (
    StateDict,
    assign,
    check_shape,
    read_state_dict,
    restore_unchanged,
)
from jaxbox.layers.box import BoxConv

__all__ = [
    "BOUNDS",
    "InvalidBoxes",
    "box_from_pytorch",
    "box_to_pytorch",
    "load_boxes",
    "write_boxes",
]

InvalidBoxes = Literal["error", "project"]
"""What to do with boxes whose bounds are in the wrong order."""

# The authors' name of a bound, its index in theta, the axis of the window along which it lies, and
# our bound minus theirs in pixels.
_BOUNDS: Final = (
    ("x_min", 2, 0, -0.5),
    ("x_max", 3, 0, 0.5),
    ("y_min", 0, 1, -0.5),
    ("y_max", 1, 1, 0.5),
)

BOUNDS: Final = tuple(name for name, *_ in _BOUNDS)
"""The names of the four arrays of boxes."""

# The default of the authors' `BoxConv2d`.
_FACTOR: Final = 8.0


def box_from_pytorch(
    state: Mapping[str, ArrayLike],
    window: Sequence[float],
    *,
    reparametrization_factor: float = _FACTOR,
    invalid_boxes: InvalidBoxes = "error",
    **options: Any,
) -> BoxConv:
    """Builds a layer with the boxes of a `BoxConv2d`.

    Args:
      state: The module's state dict, names to arrays: `x_min`, `x_max`, `y_min` and `y_max`, each
        `(in_planes, num_filters)`. A checkpoint `{"state_dict": ...}` is opened, and prefixes
        `module.` and `model.` are left out.
      window: The module's `(max_input_h, max_input_w)` in pixels. The unit of its coordinates
        depends on it.
      reparametrization_factor: The module's factor of this name, on which the unit depends too.
      invalid_boxes: What to do with boxes whose bounds are in the wrong order, which the authors'
        code would clip before using them: `"error"` to refuse them, or `"project"` to replace them
        by the nearest valid boxes.
      **options: Other options of :class:`jaxbox.layers.BoxConv`, such as `normalize`, `trainable`
        and `channel_axis`. With `channel_axis=-3` features are in PyTorch's order.

    Returns:
      The layer.

    Raises:
      TypeError: `state` is not a mapping of names to arrays of real numbers, or another argument is
        of the wrong type.
      ValueError: An array is missing, unknown, of the wrong shape, or not finite; the bounds of a
        box are in the wrong order; `window` is not two positive numbers of pixels;
        `reparametrization_factor` is not positive; `invalid_boxes` is unknown.

    Example:
      >>> import numpy as np
      >>> from jaxbox.interop import box_from_pytorch
      >>> bounds = {"x_min": -2.0, "x_max": 1.0, "y_min": 0.0, "y_max": 9.0}  # First, last pixels.
      >>> size = {"x_min": 64, "x_max": 64, "y_min": 128, "y_max": 128}
      >>> state = {name: np.full((1, 1), bounds[name] / (8 * size[name])) for name in bounds}
      >>> layer = box_from_pytorch(state, (64, 128))
      >>> layer.theta[0, 0].tolist()
      [-0.5, 9.5, -2.5, 1.5]
    """
    window = _check_window(window)
    factor = float(check_number("reparametrization_factor", reparametrization_factor))
    check_choice("invalid_boxes", invalid_boxes, get_args(InvalidBoxes))
    arrays = read_state_dict(state, BOUNDS)
    shape = arrays["x_min"].shape
    check_shape("x_min", arrays["x_min"], "(in_planes, num_filters)", rank=2)
    for name in BOUNDS:
        check_shape(name, arrays[name], "(in_planes, num_filters)", shape=shape)
    layer = BoxConv(*shape, window=window, rngs=nnx.Rngs(0), **options)
    if layer.symmetric:
        raise ValueError("symmetric must be False: the original has no symmetric boxes.")
    if layer.causal:
        raise ValueError("causal must be False: the original has no causal boxes.")
    load_boxes(layer, "", arrays, factor, invalid_boxes)
    return layer


def box_to_pytorch(
    layer: BoxConv,
    *,
    reparametrization_factor: float = _FACTOR,
    like: Mapping[str, ArrayLike] | None = None,
) -> StateDict:
    """Returns the state dict with which a `BoxConv2d` computes the same.

    The `BoxConv2d` has to be made with the layer's `window` as `max_input_h` and `max_input_w`, and
    with its `normalize`. A symmetric layer is written as the boxes that it stands for.

    Args:
      layer: The layer, of images, with a window. The original has no strides, and zeros outside the
        image.
      reparametrization_factor: The factor of this name of the `BoxConv2d`.
      like: The state dict that the layer was made from. Conversion rounds coordinates; those that
        have not changed are copied from it, bit for bit and in its dtype, and so are prefixes of
        names.

    Returns:
      The state dict, names to arrays.

    Raises:
      TypeError: `layer` is not a `BoxConv`, or `reparametrization_factor` not a number.
      ValueError: `layer` has what the original has not, or no window; `like` does not fit it;
        `reparametrization_factor` is not positive.

    Example:
      >>> from flax import nnx
      >>> from jaxbox.interop import box_to_pytorch
      >>> from jaxbox.layers import BoxConv
      >>> state = box_to_pytorch(BoxConv(16, 4, window=(64, 128), rngs=nnx.Rngs(0)))
      >>> {name: array.shape for name, array in state.items()}
      {'x_min': (16, 4), 'x_max': (16, 4), 'y_min': (16, 4), 'y_max': (16, 4)}
    """
    if not isinstance(layer, BoxConv):
        raise TypeError(f"layer must be a BoxConv, got {type(layer).__name__}.")
    factor = float(check_number("reparametrization_factor", reparametrization_factor))
    if layer.num_dims != 2 or set(layer.strides) != {1} or layer.padding != "zeros":
        raise ValueError(
            "layer must have two spatial axes, strides of 1 and padding='zeros', as the original "
            f"has; it has num_dims={layer.num_dims}, strides={layer.strides} and "
            f"padding={layer.padding!r}."
        )
    state = write_boxes(layer, factor)
    if like is None:
        return state
    window = _window_of(layer)
    before = box_from_pytorch(
        like,
        window,
        reparametrization_factor=factor,
        invalid_boxes="project",
        min_size=layer.min_size,
    )
    return restore_unchanged(state, write_boxes(before, factor), like)


def load_boxes(
    layer: BoxConv,
    prefix: str,
    arrays: Mapping[str, NDArray[Any]],
    factor: float,
    invalid_boxes: InvalidBoxes,
) -> None:
    """Sets a layer's boxes to those of the authors' code.

    Args:
      layer: The layer, with a window.
      prefix: What stands before the names of the arrays in messages.
      arrays: The four arrays by the names in `BOUNDS`.
      factor: The `reparametrization_factor`.
      invalid_boxes: What to do with boxes whose bounds are in the wrong order.

    Raises:
      ValueError: A bound is too large or of another shape, or bounds are in the wrong order and
        `invalid_boxes` is `"error"`.
    """
    theta = np.empty((*arrays["x_min"].shape, len(_BOUNDS)), np.float64)
    for name, index, axis, offset in _BOUNDS:
        theta[..., index] = arrays[name].astype(np.float64) * _unit(layer, factor, axis) + offset
    names = f"{prefix}x_min, x_max, y_min and y_max"
    assign(layer.theta, f"the boxes {names}", theta)
    low, high = layer.theta[...][..., 0::2], layer.theta[...][..., 1::2]
    inverted = int((low >= high).any(-1).sum())
    if inverted and invalid_boxes == "error":
        raise ValueError(
            f"the boxes {names} must have bounds in ascending order; {inverted} have not. The "
            "authors' code would clip them before using them; invalid_boxes='project' does so here."
        )
    if inverted:
        layer.theta[...] = layer.valid_theta


def write_boxes(layer: BoxConv, factor: float) -> StateDict:
    """Returns a layer's boxes as the four arrays of the authors' code.

    Args:
      layer: The layer, with a window.
      factor: The `reparametrization_factor`.

    Raises:
      ValueError: The layer has no window.
    """
    theta = layer.theta[...]
    boxes = np.asarray(symmetric_boxes.to_boxes(theta) if layer.symmetric else theta, np.float64)
    return {
        name: ((boxes[..., index] - offset) / _unit(layer, factor, axis)).astype(np.float32)
        for name, index, axis, offset in _BOUNDS
    }


def _check_window(window: Sequence[float]) -> Window:
    size = check_window(window)
    if len(size) != 2:
        raise ValueError(f"window must be (max_input_h, max_input_w), got {size}.")
    return size


def _window_of(layer: BoxConv) -> Window:
    if layer.window is None:
        raise ValueError(
            "layer must have a window, on which the unit of the authors' coordinates depends."
        )
    return layer.window


def _unit(layer: BoxConv, factor: float, axis: int) -> float:
    """Returns the unit of the authors' coordinates along an axis of the window, in pixels."""
    return _window_of(layer)[axis] * factor
