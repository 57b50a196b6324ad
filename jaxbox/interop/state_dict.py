"""PyTorch state dicts, and how their arrays become parameters and come back."""

import re
import reprlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "StateDict",
    "assign",
    "check_shape",
    "open_state_dict",
    "read_state_dict",
    "restore_unchanged",
    "shapes",
    "split_prefix",
]

type StateDict = dict[str, NDArray[Any]]

# The keys under which checkpoints keep a state dict, beside the epoch and the optimizer's state.
_WRAPPERS: Final = ("state_dict", "model_state_dict", "model")
# What `DataParallel`, `torch.compile` and a module that holds the network put before each name.
_PREFIX: Final = re.compile(r"((?:module|model|_orig_mod)\.)+")


def open_state_dict(state: Mapping[str, Any]) -> StateDict:
    """Returns the arrays of a state dict by their names, without what was wrapped around it.

    A checkpoint `{"state_dict": ..., "epoch": ...}` is opened, also one within another, and
    prefixes `module.` and `model.` that all names have are left out.

    Args:
      state: The state dict or the checkpoint. Its values are arrays or PyTorch's tensors.

    Returns:
      The names and the arrays.

    Raises:
      TypeError: `state` is not a mapping of names to arrays of real numbers.
      ValueError: An array has a number that is not finite.

    Example:
      >>> from jaxbox.interop.state_dict import open_state_dict
      >>> open_state_dict({"epoch": 3, "state_dict": {"module.W": [1.0]}})
      {'W': array([1.])}
    """
    state = _unwrap(state)
    for name in state:
        if not isinstance(name, str):
            raise TypeError(f"the names in a state dict must be strings, got {name!r}.")
    prefix = split_prefix(state)
    return {name[len(prefix) :]: _to_array(name, value) for name, value in state.items()}


def split_prefix(state: Mapping[str, Any]) -> str:
    """Returns the prefix that `open_state_dict` leaves out of the names, perhaps empty."""
    state = _unwrap(state)
    found = {match[0] if (match := _PREFIX.match(name)) else "" for name in state}
    return found.pop() if len(found) == 1 else ""


def read_state_dict(
    state: Mapping[str, ArrayLike], required: Collection[str], optional: Collection[str] = ()
) -> StateDict:
    """Opens the state dict of a layer and checks its names.

    Args:
      state: The state dict, names to arrays, or a checkpoint with it; see `open_state_dict`.
      required: The names that it must have.
      optional: The names that it may have besides.

    Returns:
      The same names with NumPy arrays.

    Raises:
      TypeError: `state` is not a mapping of names to arrays of real numbers.
      ValueError: A name is missing or unknown, or a number is not finite.

    Example:
      >>> from jaxbox.interop.state_dict import read_state_dict
      >>> read_state_dict({"W": [1.0]}, ["W"], ["bias"])
      {'W': array([1.])}
    """
    arrays = open_state_dict(state)
    missing = sorted(set(required) - arrays.keys())
    unknown = sorted(arrays.keys() - set(required) - set(optional))
    problems = [
        f"{what}: {', '.join(names)}"
        for what, names in (("missing", missing), ("unknown", unknown))
        if names
    ]
    if problems:
        hint = ""
        if any(
            name.rpartition(".")[2] in {n.rpartition(".")[2] for n in required} for name in unknown
        ):
            hint = " Give it the names of one layer only, without the path of the layer."
        raise ValueError(f"state does not fit the layer; {'; '.join(problems)}.{hint}")
    return arrays


def check_shape(
    name: str,
    array: NDArray[Any],
    axes: str,
    *,
    rank: int | None = None,
    shape: tuple[int, ...] | None = None,
    may_be_empty: bool = False,
) -> None:
    """Checks the shape of an array, or only the number of its axes.

    Args:
      name: The name of the array, for the error message.
      array: The array.
      axes: The axes that it should have, in words, for the error message.
      rank: The number of axes that it should have.
      shape: The shape that it should have.
      may_be_empty: Whether an axis may have no elements.

    Raises:
      ValueError: The array has another shape.
    """
    wrong = array.shape != shape if shape is not None else array.ndim != rank
    if wrong or (0 in array.shape and not may_be_empty):
        expected = axes if shape is None else f"{axes} = {shape}"
        raise ValueError(f"{name} must have the shape {expected}, got {array.shape}.")


def assign(parameter: nnx.Variable[Any] | None, name: str, array: NDArray[Any]) -> None:
    """Sets a parameter to an array of a state dict.

    Args:
      parameter: The parameter, or `None` if the layer does not have it.
      name: The name of the array, for the error message.
      array: The array, with its axes in the order of the parameter's.

    Raises:
      ValueError: The layer does not have the parameter, it has another shape, or a number is too
        large for its dtype.
    """
    shape = None if parameter is None else parameter.shape
    if parameter is None or array.shape != shape:
        raise ValueError(f"{name} must have the shape {shape} once converted, got {array.shape}.")
    with np.errstate(over="ignore"):
        value = np.asarray(array, np.dtype(parameter.dtype))
    if not np.isfinite(np.asarray(value, np.float64)).all():
        raise ValueError(f"{name} has numbers that are too large for {parameter.dtype}.")
    parameter[...] = jnp.asarray(value)


def restore_unchanged(
    state: StateDict, before: StateDict, like: Mapping[str, ArrayLike]
) -> StateDict:
    """Copies what has not changed from the state dict that a layer or a network was made from.

    Conversion rounds some numbers. Those that are still what reading `like` gave are copied from
    it, bit for bit and in its dtype, and so are prefixes of the names.

    Args:
      state: The state dict of the layer, as it is written.
      before: The state dict of the layer as it was read from `like`, as it is written.
      like: The state dict that the layer was made from.

    Returns:
      The state dict with the names and dtypes of `like`.

    Raises:
      ValueError: `like` is the state dict of another layer.
    """
    old = open_state_dict(like)
    if shapes(state) != shapes(before) or shapes(state) != shapes(old):
        raise ValueError("like must be the state dict that the layer or network was made from.")
    prefix = split_prefix(like)
    with np.errstate(over="ignore"):
        return {
            prefix + name: np.where(
                state[name] == before[name], array, state[name].astype(array.dtype)
            )
            for name, array in old.items()
        }


def shapes(state: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each array of a state dict."""
    return {name: array.shape for name, array in state.items()}


def _unwrap(state: Any, wrappers: Sequence[str] = _WRAPPERS) -> Mapping[str, Any]:
    if not isinstance(state, Mapping):
        raise TypeError(
            f"state must be a state dict, a mapping of names to arrays; got {type(state).__name__}."
        )
    for key in wrappers:
        if isinstance(state.get(key), Mapping):
            return _unwrap(state[key], [other for other in wrappers if other != key])
    return state


def _to_array(name: str, value: Any) -> NDArray[Any]:
    if hasattr(value, "detach"):  # A tensor of PyTorch, perhaps on a GPU, perhaps a parameter.
        value = value.detach().cpu()
        # NumPy has no bfloat16, which float32 holds exactly.
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"state must not have masked arrays; {name!r} is one.")
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.empty(0, object)
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer)):
        raise TypeError(
            f"state must be a mapping of names to arrays of real numbers; {name!r} is "
            f"{f'of dtype {array.dtype}' if array.ndim else reprlib.repr(value)}."
        )
    bad = array.size - np.isfinite(np.asarray(array, np.float64)).sum()
    if bad:
        raise ValueError(f"{name} must be finite; {bad} of its {array.size} numbers are not.")
    return array
