"""Weights from and for the authors' PyTorch code (github.com/shrubb/box-convolutions).

Their state dict names an array by the index of its block and its place in the block. Boxes are
four arrays, `x_min`, `x_max`, `y_min` and `y_max`, where `x` runs along the height. Their unit is a
fixed fraction of the feature map. They are the first and the last pixel that a box covers, which
are half a pixel inside its bounds.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import ArrayLike, NDArray

from jaxbox.interop.state_dict import StateDict
from jaxbox.layers.box import BoxConv
from jaxbox.models import SegmentationNetwork, create
from jaxbox.models.blocks import Block, InitialBlock, PReLU, TransposedUpsampling
from jaxbox.models.convolution import PatchConvTranspose, UpsamplingConv
from jaxbox.models.normalization import BatchNorm

__all__ = ["from_pytorch", "to_pytorch"]

# The variables of a layer by their PyTorch names, each with the permutation of its axes.
type _Variables = dict[str, tuple[nnx.Variable[Array], tuple[int, ...] | None]]

# The factor by which the authors' networks divide coordinates, besides the feature map's size.
_REPARAMETRIZATION: Final[Mapping[str, float]] = {
    "boxenet": 0.860,
    "boxenet-frozen": 0.860,
    "boxonlyenet": 0.510,
    "boxerfnet": 1.5625,
    "boxerfnet-frozen": 1.5625,
}
# The authors' name of a bound, its index in theta, the axis of the window along which it lies, and
# our bound minus theirs in pixels.
_BOUNDS: Final = (
    ("x_min", 2, 0, -0.5),
    ("x_max", 3, 0, 0.5),
    ("y_min", 0, 1, -0.5),
    ("y_max", 1, 1, 0.5),
)
# BatchNorm's count of batches, which PyTorch does not use in these networks.
_UNUSED = "num_batches_tracked"


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
      state: The state dict, or the path of a `.pth` file of one, which requires torch.
      image_size: The size `(H, W)` in pixels with which the PyTorch network was built. The unit of
        the boxes' coordinates depends on it.
      rngs: The random keys, which dropout keeps.

    Returns:
      The network, of variant `"pytorch"`, in training mode. Its class 0 is void.

    Raises:
      ImportError: `state` is a path and torch is not installed.
      ValueError: The file is not a state dict, or the state dict does not fit the network: arrays
        are missing, unknown or of another shape.

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
        _load(layer, _arrays_of(prefix, arrays), name)
    return model


def to_pytorch(
    name: str, model: SegmentationNetwork, *, like: Mapping[str, ArrayLike] | None = None
) -> StateDict:
    """Returns the state dict with which the authors' PyTorch code computes the same network.

    Args:
      name: The network's name, a key of `jaxbox.models.NETWORKS`.
      model: A network of variant `"pytorch"`.
      like: The state dict that the network was made from. Conversion rounds the coordinates of
        boxes; those that have not changed are copied from here, bit for bit, and so are PyTorch's
        counts of batches.

    Returns:
      The state dict. Without `like` it has no counts of batches: load it with `strict=False`.

    Raises:
      ValueError: `like` is the state dict of another network.
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
            old = _arrays_of(prefix, given)
            unchanged = np.asarray(_theta(layer, old, name)) == np.asarray(layer.theta[...])
            for key, index, _, _ in _BOUNDS:
                new = state[f"{prefix}.{key}"]
                state[f"{prefix}.{key}"] = np.where(unchanged[..., index], old[key], new)
    return state | counts


def _layers(model: SegmentationNetwork) -> Iterator[tuple[str, nnx.Module]]:
    """Returns every layer with weights and the prefix of its PyTorch names."""
    for index, block in enumerate(model.blocks):
        for name, layer in _named_layers(block).items():
            if isinstance(layer, nnx.Module) and not isinstance(layer, nnx.Dropout):
                yield f"{index}.{name}", layer
    yield str(len(model.blocks)), model.classifier


def _named_layers(block: Block) -> dict[str, Any]:
    """Returns a block's layers by their PyTorch names. Layers of a sequence are numbered there."""
    if isinstance(block, InitialBlock):
        return {"conv": block.conv, "bn": block.norm, "prelu": block.activation}
    if isinstance(block, TransposedUpsampling):
        return {"0": block.conv, "1": block.norm}
    sequences = {"main_branch": "branch", "skip_connection": "skip"}
    numbered = {
        f"{name}.{number}": layer
        for name, attribute in sequences.items()
        for number, layer in enumerate(getattr(block, attribute, ()))
    }
    return {**numbered, "output_activation": getattr(block, "activation", None)}


def _arrays_of(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> StateDict:
    """Returns the arrays of one layer by their names in it."""
    start = f"{prefix}."
    return {key[len(start) :]: value for key, value in arrays.items() if key.startswith(start)}


def _export(layer: nnx.Module, name: str) -> StateDict:
    if isinstance(layer, BoxConv):
        theta = np.asarray(layer.theta[...], np.float64)
        return {
            key: ((theta[..., index] - offset) / _unit(layer, name, axis)).astype(np.float32)
            for key, index, axis, offset in _BOUNDS
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


def _variables(layer: Any) -> _Variables:
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


def _theta(layer: BoxConv, arrays: Mapping[str, NDArray[Any]], name: str) -> Array:
    theta = np.empty(layer.theta.shape, np.float64)
    for key, index, axis, offset in _BOUNDS:
        theta[..., index] = arrays[key].astype(np.float64) * _unit(layer, name, axis) + offset
    return jnp.asarray(theta, layer.theta.dtype)


def _unit(layer: BoxConv, name: str, axis: int) -> float:
    """Returns the unit of the authors' coordinates along an axis of the window, in pixels."""
    if layer.window is None:
        raise ValueError("a box layer without a window has no counterpart in the authors' code.")
    return layer.window[axis] * _REPARAMETRIZATION[name]


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
    """Returns the length of the classifier's bias, which has the highest index."""
    biases = [key for key in arrays if key.count(".") == 1 and key.endswith(".bias")]
    biases = [key for key in biases if key.split(".")[0].isdecimal()]
    if not biases:
        raise ValueError("state has no classifier: there is no entry 'N.bias'.")
    return len(arrays[max(biases, key=lambda key: int(key.split(".")[0]))])


def _check(arrays: Mapping[str, NDArray[Any]], expected: StateDict) -> None:
    problems = {
        "missing": sorted(expected.keys() - arrays.keys()),
        "unknown": sorted(arrays.keys() - expected.keys()),
        "of another shape": [
            f"{key} is {arrays[key].shape}, must be {expected[key].shape}"
            for key in sorted(expected.keys() & arrays.keys())
            if arrays[key].shape != expected[key].shape
        ],
    }
    messages = [f"{what}: {', '.join(names)}" for what, names in problems.items() if names]
    if messages:
        raise ValueError(f"state does not fit the network; {'; '.join(messages)}.")
