"""Entries of a `state_dict`, and how they become parameters."""

from collections.abc import Collection, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import ArrayLike, NDArray

type StateDict = dict[str, NDArray[Any]]

__all__ = ["StateDict", "assign", "check_names", "check_shape"]


def check_names(
    state: Mapping[str, ArrayLike], required: Collection[str], optional: Collection[str] = ()
) -> StateDict:
    """Returns the entries as arrays.

    Raises:
      ValueError: Entries are missing or not known.

    Example:
      >>> from jaxbox.interop.state_dict import check_names
      >>> check_names({"W": [1.0]}, ["W"], ["bias"])
      {'W': array([1.])}
    """
    missing = sorted(set(required) - state.keys())
    unknown = sorted(state.keys() - set(required) - set(optional))
    problems = [
        f"{what}: {', '.join(names)}"
        for what, names in (("missing", missing), ("unknown", unknown))
        if names
    ]
    if problems:
        raise ValueError(f"state does not fit the layer; {'; '.join(problems)}.")
    return {key: np.asarray(value) for key, value in state.items()}


def check_shape(name: str, array: NDArray[Any], axes: str, rank: int) -> None:
    """Checks the number of an entry's axes.

    Raises:
      ValueError: It is another.
    """
    if array.ndim != rank:
        raise ValueError(f"{name} must be {axes}, got shape {array.shape}.")


def assign(parameter: nnx.Variable[Any] | None, name: str, array: NDArray[Any]) -> None:
    """Sets a parameter.

    Raises:
      ValueError: The layer has no such parameter, or one of another shape.
    """
    shape = None if parameter is None else parameter.shape
    if parameter is None or array.shape != shape:
        raise ValueError(f"{name} must have the shape {shape} once converted, got {array.shape}.")
    parameter[...] = jnp.asarray(array, parameter.dtype)
