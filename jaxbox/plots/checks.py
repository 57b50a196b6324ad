"""Checks of arguments that several drawing functions share."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from jaxbox.analysis import BoxLayer

__all__ = ["check_history", "check_not_empty", "check_pairs"]


def check_not_empty(name: str, values: Sequence[Any] | Mapping[str, Any]) -> None:
    """Raises `ValueError` if there is no element."""
    if not values:
        raise ValueError(f"{name} must have at least one element, got none.")


def check_pairs(before: Sequence[BoxLayer], after: Sequence[BoxLayer]) -> None:
    """Raises `ValueError` if there are no layers, or not as many before training as after it."""
    check_not_empty("after", after)
    if len(before) != len(after):
        raise ValueError(f"before must have {len(after)} layers, as after, got {len(before)}.")


def check_history(layer: BoxLayer, history: Mapping[str, ArrayLike]) -> None:
    """Raises `ValueError` if there are no boxes, or boxes of another shape than the layer's."""
    check_not_empty("history", history)
    for caption, theta in history.items():
        if np.shape(theta) != np.shape(layer.theta):
            raise ValueError(
                f"history must have boxes {np.shape(layer.theta)} as the layer, got shape "
                f"{np.shape(theta)} for {caption!r}."
            )
