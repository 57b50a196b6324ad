"""Checks of arguments that several drawing functions share."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from jaxbox.analysis import BoxLayer
from jaxbox.arguments import check_sequence
from jaxbox.boxes import check_window

__all__ = [
    "check_by_name",
    "check_history",
    "check_layer",
    "check_layers",
    "check_pairs",
    "to_reals",
]


def check_layers(name: str, layers: Sequence[BoxLayer]) -> None:
    """Checks the layers of a network.

    Raises:
      TypeError: They are no sequence of `BoxLayer`, or an array is not of real numbers.
      ValueError: There are none, or one does not fit together.
    """
    check_sequence(name, layers, "BoxLayer")
    if not len(layers):
        raise ValueError(f"{name} must have at least one element, got none.")
    for layer in layers:
        check_layer(name, layer)


def check_layer(name: str, layer: BoxLayer) -> None:
    """Checks the boxes of a layer and their importance.

    Raises:
      TypeError: It is no `BoxLayer`, or an array is not of real numbers.
      ValueError: It has no boxes, a shape does not fit, or a number is not finite.
    """
    if not isinstance(layer, BoxLayer):
        raise TypeError(
            f"{name} must be of jaxbox.analysis.BoxLayer, got a {type(layer).__name__}."
        )
    if not isinstance(layer.name, str):
        raise TypeError(f"{name} must have a name that is a string, got {layer.name!r}.")
    theta = to_reals(f"theta of {name}", layer.theta)
    if not jnp.issubdtype(np.asarray(layer.theta).dtype, jnp.floating):
        raise TypeError(f"theta of {name} must be of a real floating dtype, got integers.")
    importance = to_reals(f"importance of {name}", layer.importance)
    if theta.ndim != 3 or theta.shape[-1] not in (2, 4, 6) or not theta.size:
        raise ValueError(
            f"theta of {name} must be (C, F, 4) (or (C, F, 2) for signals or (C, F, 6) for "
            f"volumes), got shape {theta.shape}."
        )
    if importance.shape != theta.shape[:2]:
        raise ValueError(
            f"importance of {name} must be (C, F) = {theta.shape[:2]}, got shape "
            f"{importance.shape}."
        )
    if layer.window is not None:
        try:
            window = check_window(layer.window)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name} has a wrong window: {error}") from None
        if 2 * len(window) != theta.shape[-1]:
            sizes = ("(l,)", "(h, w)", "(d, h, w)")[theta.shape[-1] // 2 - 1]
            raise ValueError(f"{name} has a wrong window: it must be {sizes}, got {window}.")


def check_pairs(before: Sequence[BoxLayer], after: Sequence[BoxLayer]) -> None:
    """Checks the layers of a network before and after training.

    Raises:
      TypeError: They are no sequences of `BoxLayer`.
      ValueError: There are no layers, not as many before training as after it, or layers of
        another shape.
    """
    check_layers("before", before)
    check_layers("after", after)
    if len(before) != len(after):
        raise ValueError(f"before must have {len(after)} layers, as after, got {len(before)}.")
    shapes = [[np.shape(layer.theta) for layer in layers] for layers in (before, after)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"before must have the boxes of after, of shapes {shapes[1]}; got {shapes[0]}."
        )


def check_history(layer: BoxLayer, history: Mapping[str, ArrayLike]) -> None:
    """Checks a layer and its boxes at several moments.

    Raises:
      TypeError: `layer` is no `BoxLayer`, or `history` no mapping of captions to boxes.
      ValueError: There are no boxes, or boxes of another shape than the layer's.
    """
    check_layer("layer", layer)
    check_by_name("history", history)
    for caption, theta in history.items():
        if to_reals(f"history of {caption!r}", theta).shape != np.shape(layer.theta):
            raise ValueError(
                f"history must have boxes {np.shape(layer.theta)} as the layer, got shape "
                f"{np.shape(theta)} for {caption!r}."
            )


def check_by_name(name: str, values: Mapping[str, Any]) -> None:
    """Checks a mapping by names.

    Raises:
      TypeError: It is no mapping, or a key is no string.
      ValueError: It is empty.
    """
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise TypeError(f"{name} must be a mapping by names, got {type(values).__name__}.")
    if not values:
        raise ValueError(f"{name} must have at least one element, got none.")


def to_reals(name: str, value: ArrayLike, *, finite: bool = True) -> NDArray[np.float64]:
    """Returns an argument as an array of real numbers.

    Args:
      name: The name of the argument, for the error message.
      value: The array, of integers or floats.
      finite: Whether the numbers have to be finite.

    Raises:
      TypeError: `value` is no array of integers or floats.
      ValueError: A number is not finite.
    """
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # Nested lists of different lengths.
        array = np.empty(0, object)
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.integer, jnp.floating)):
        raise TypeError(f"{name} must be an array of real numbers, got {type(value).__name__}.")
    reals = array.astype(np.float64)
    if finite and not np.isfinite(reals).all():
        raise ValueError(f"{name} must be finite.")
    return reals
