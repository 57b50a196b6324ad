"""Weights from and for the authors' PyTorch code (github.com/shrubb/box-convolutions).

A `state_dict` there names an entry by the number of its block and by its place in it. A box is four
arrays, in units of a fixed fraction of the feature map, with `x` along the height, and counts the
pixels that it covers from its first to its last: a side here is half a pixel further out.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import ArrayLike, NDArray

from jaxbox.interop.state_dict import StateDict
from jaxbox.layers.box import BoxConv
from jaxbox.models import SegmentationNetwork, create
from jaxbox.models.blocks import InitialBlock, PReLU
from jaxbox.models.convolution import PatchConvTranspose, UpsamplingConv
from jaxbox.models.normalization import BatchNorm

# By their names there: the variable, and how to permute its axes.
type _Variables = dict[str, tuple[nnx.Variable, tuple[int, ...] | None]]

# What the authors' networks divide coordinates by, beside the size of the feature map.
_REPARAMETRIZATION: Final[Mapping[str, float]] = {
    "boxenet": 0.860,
    "boxenet-frozen": 0.860,
    "boxonlyenet": 0.510,
    "boxerfnet": 1.5625,
    "boxerfnet-frozen": 1.5625,
}
# Theirs, our axis of theta, the window's axis, and how far our side lies outwards, in pixels.
_SIDES: Final = (
    ("x_min", 2, 0, -0.5),
    ("x_max", 3, 0, 0.5),
    ("y_min", 0, 1, -0.5),
    ("y_max", 1, 1, 0.5),
)
_UNUSED = "num_batches_tracked"  # PyTorch counts batches and uses the count for nothing here


def from_pytorch(
    name: str,
    state: Mapping[str, ArrayLike] | str | os.PathLike[str],
    image_size: tuple[int, int],
    *,
    rngs: nnx.Rngs,
) -> SegmentationNetwork:
    """Builds a network with the weights of the authors' PyTorch code.

    Args:
      name: A key of `jaxbox.models.NETWORKS`.
      state: The `state_dict`, names to arrays; or a `.pth` file of one, for which torch must be
        installed.
      image_size: `(H, W)` in pixels with which the PyTorch network was built: it decides what a
        box's coordinates mean.
      rngs: The random keys; dropout keeps its own.

    Returns:
      The network, variant `"pytorch"`, in training mode. Class 0 is void, as there.

    Raises:
      ImportError: `state` is a file and torch is not installed.
      ValueError: Entries are missing, not known or of another shape, or the file holds something
        else than a `state_dict`.

    Example:
      >>> from flax import nnx
      >>> from jaxbox import interop, models
      >>> model = models.create("enet-minus", 3, (8, 16), variant="pytorch", rngs=nnx.Rngs(0))
      >>> state = interop.to_pytorch("enet-minus", model)
      >>> state["0.conv.weight"].shape
      (13, 3, 3, 3)
      >>> copy = interop.from_pytorch("enet-minus", state, (8, 16), rngs=nnx.Rngs(1))
    """
    if isinstance(state, str | os.PathLike):
        state = _read(Path(state))
    arrays = {key: np.asarray(value) for key, value in state.items()}
    arrays = {key: value for key, value in arrays.items() if not key.endswith(_UNUSED)}
    model = create(name, _num_classes(arrays), image_size, variant="pytorch", rngs=rngs)
    _check(arrays, to_pytorch(name, model))
    for prefix, layer in _layers(model):
        _load(layer, _own(arrays, prefix), name)
    return model


def to_pytorch(
    name: str, model: SegmentationNetwork, *, like: Mapping[str, ArrayLike] | None = None
) -> StateDict:
    """The `state_dict` with which the authors' PyTorch code computes what a network computes.

    Args:
      name: The network's name, a key of `jaxbox.models.NETWORKS`.
      model: A network of variant `"pytorch"`.
      like: The `state_dict` that the network was made from. Coordinates of boxes have no exact
        counterpart in the other unit; those that still mean the same are taken from here, bit for
        bit, and so are PyTorch's counts of batches.

    Returns:
      Names to arrays. Without `like`, PyTorch's counts of batches are left out: load it with
      `strict=False`.

    Raises:
      ValueError: `like` is of another network.
    """
    state = {
        f"{prefix}.{key}": value
        for prefix, layer in _layers(model)
        for key, value in _export(layer, name).items()
    }
    if like is None:
        return state
    given = {key: np.asarray(value) for key, value in like.items()}
    counts = {key: value for key, value in given.items() if key.endswith(_UNUSED)}
    _check({key: value for key, value in given.items() if key not in counts}, state)
    for prefix, layer in _layers(model):
        if isinstance(layer, BoxConv):
            own = _own(given, prefix)
            same = np.asarray(_theta(layer, own, name)) == np.asarray(layer.theta[...])
            for key, axis, _, _ in _SIDES:
                exact = state[f"{prefix}.{key}"]
                state[f"{prefix}.{key}"] = np.where(same[..., axis], own[key], exact)
    return state | counts


def _read(file: Path) -> Mapping[str, ArrayLike]:
    try:
        import torch  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise ImportError(f"reading {file} needs torch; install it, or pass a mapping") from error
    state = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(state, Mapping):
        raise ValueError(f"{file} must hold a state_dict, names to tensors; it is a {type(state)}.")
    for key, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(
                f"{file} must hold a state_dict, names to tensors; {key!r} is a {type(value)}."
            )
    return {key: value.numpy() for key, value in state.items()}


def _num_classes(arrays: Mapping[str, NDArray[Any]]) -> int:
    """The length of the last bias, which is the classifier's."""
    biases = [key for key in arrays if key.count(".") == 1 and key.endswith(".bias")]
    biases = [key for key in biases if key.split(".")[0].isdecimal()]
    if not biases:
        raise ValueError("state has no classifier: there is no entry 'N.bias'.")
    return len(arrays[max(biases, key=lambda key: int(key.split(".")[0]))])


def _check(arrays: Mapping[str, NDArray[Any]], expected: StateDict) -> None:
    missing = sorted(expected.keys() - arrays.keys())
    unknown = sorted(arrays.keys() - expected.keys())
    misshapen = [
        f"{key} is {arrays[key].shape}, must be {expected[key].shape}"
        for key in sorted(expected.keys() & arrays.keys())
        if arrays[key].shape != expected[key].shape
    ]
    problems = [
        f"{what}: {', '.join(names)}"
        for what, names in (
            ("missing", missing),
            ("unknown", unknown),
            ("of another shape", misshapen),
        )
        if names
    ]
    if problems:
        raise ValueError(f"state does not fit the network; {'; '.join(problems)}.")


def _layers(model: SegmentationNetwork) -> Iterator[tuple[str, nnx.Module]]:
    """Every layer with weights, and what PyTorch's names of them begin with."""
    for index, block in enumerate(model.blocks):
        initial = isinstance(block, InitialBlock)
        names = {
            "conv": "conv" if initial else "0",
            "norm": "bn" if initial else "1",
            "activation": "prelu" if initial else "output_activation",
            "branch": "main_branch",
            "skip": "skip_connection",
        }
        for attribute, name in names.items():
            yield from _within(f"{index}.{name}", getattr(block, attribute, None))
    yield str(len(model.blocks)), model.classifier


def _own(arrays: Mapping[str, NDArray[Any]], prefix: str) -> StateDict:
    """The entries of one layer."""
    start = f"{prefix}."
    return {key[len(start) :]: value for key, value in arrays.items() if key.startswith(start)}


def _within(prefix: str, layer: Any) -> Iterator[tuple[str, nnx.Module]]:
    if isinstance(layer, nnx.Sequential):
        for index, part in enumerate(layer.layers):
            yield from _within(f"{prefix}.{index}", part)
    elif isinstance(layer, nnx.Module) and not isinstance(layer, nnx.Dropout):
        yield prefix, layer


def _variables(layer: Any) -> _Variables:
    """The variables of a layer."""
    if isinstance(layer, PReLU):
        return {"weight": (layer.slope, None)}
    if isinstance(layer, BatchNorm):
        return {
            "weight": (layer.scale, None),
            "bias": (layer.bias, None),
            "running_mean": (layer.mean, None),
            "running_var": (layer.var, None),
        }
    is_transposed = isinstance(layer, PatchConvTranspose | UpsamplingConv)
    kernel: _Variables = {"weight": (layer.kernel, (2, 3, 0, 1) if is_transposed else (3, 2, 0, 1))}
    if layer.bias is not None:
        kernel["bias"] = (layer.bias, None)
    return kernel


def _export(layer: nnx.Module, name: str) -> StateDict:
    if isinstance(layer, BoxConv):
        theta = np.asarray(layer.theta[...], np.float64)
        return {
            key: ((theta[..., axis] - outwards) / _unit(layer, name, side)).astype(np.float32)
            for key, axis, side, outwards in _SIDES
        }
    return {
        key: np.asarray(variable[...] if axes is None else variable[...].transpose(axes))
        for key, (variable, axes) in _variables(layer).items()
    }


def _load(layer: nnx.Module, arrays: Mapping[str, NDArray[Any]], name: str) -> None:
    if isinstance(layer, BoxConv):
        layer.theta[...] = _theta(layer, arrays, name)
        return
    for key, (variable, axes) in _variables(layer).items():
        array = arrays[key] if axes is None else arrays[key].transpose(np.argsort(axes))
        variable[...] = jnp.asarray(array, variable.dtype)


def _theta(layer: BoxConv, arrays: Mapping[str, NDArray[Any]], name: str) -> jnp.ndarray:
    theta = np.empty(layer.theta.shape, np.float64)
    for key, axis, side, outwards in _SIDES:
        theta[..., axis] = arrays[key].astype(np.float64) * _unit(layer, name, side) + outwards
    return jnp.asarray(theta, layer.theta.dtype)


def _unit(layer: BoxConv, name: str, side: int) -> float:
    """How many pixels 1 means in the authors' coordinates."""
    if layer.window is None:
        raise ValueError("a box layer without a window has no counterpart in the authors' code.")
    return layer.window[side] * _REPARAMETRIZATION[name]
