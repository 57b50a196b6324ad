"""PyTorch state dicts, and how their arrays become parameters."""

from collections.abc import Collection, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import ArrayLike, NDArray

__all__ = ["StateDict", "assign", "check_rank", "read_state_dict"]

type StateDict = dict[str, NDArray[Any]]


def read_state_dict(
    state: Mapping[str, ArrayLike], required: Collection[str], optional: Collection[str] = ()
) -> StateDict:
    """Checks the names in a state dict and returns it with NumPy arrays.

    Args:
      state: The state dict, names to arrays.
      required: The names that it must have.
      optional: The names that it may have besides.

    Returns:
      The same names with NumPy arrays.

    Raises:
      ValueError: A name is missing or unknown.

    Example:
      >>> from jaxbox.interop.state_dict import read_state_dict
      >>> read_state_dict({"W": [1.0]}, ["W"], ["bias"])
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


def check_rank(name: str, array: NDArray[Any], axes: str, rank: int) -> None:
    """Checks the number of axes of an array.

    Args:
      name: The name of the array, for the error message.
      array: The array.
      axes: The axes that it should have, in words, for the error message.
      rank: The number of axes that it should have.

    Raises:
      ValueError: The array has another number of axes.
    """
    if array.ndim != rank:
        raise ValueError(f"{name} must be {axes}, got shape {array.shape}.")


def assign(parameter: nnx.Variable[Any] | None, name: str, array: NDArray[Any]) -> None:
    """Sets a parameter to an array of a state dict.

    Args:
      parameter: The parameter, or `None` if the layer does not have it.
      name: The name of the array, for the error message.
      array: The array, with its axes in the order of the parameter's.

    Raises:
      ValueError: The layer does not have the parameter, or it has another shape.
    """
    shape = None if parameter is None else parameter.shape
    if parameter is None or array.shape != shape:
        raise ValueError(f"{name} must have the shape {shape} once converted, got {array.shape}.")
    parameter[...] = jnp.asarray(array, parameter.dtype)
