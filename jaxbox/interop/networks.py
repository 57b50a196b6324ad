"""Weights from and for the authors' PyTorch code (github.com/shrubb/box-convolutions).

Their state dict names an array by the index of its block and its place in the block. How boxes are
stored there is in :mod:`jaxbox.interop.box`.
"""

import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import ArrayLike, NDArray

from jaxbox.arguments import check_choice
from jaxbox.interop.box import BOUNDS, InvalidBoxes, load_boxes, write_boxes
from jaxbox.interop.state_dict import (
    StateDict,
    assign,
    check_shape,
    open_state_dict,
    restore_unchanged,
    shapes,
)
from jaxbox.layers.box import BoxConv
from jaxbox.models import NETWORKS, SegmentationNetwork, create
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
# BatchNorm's count of batches, which PyTorch does not use in these networks.
_UNUSED = "num_batches_tracked"


def from_pytorch(
    name: str,
    state: Mapping[str, ArrayLike] | str | os.PathLike[str],
    image_size: tuple[int, int],
    *,
    invalid_boxes: InvalidBoxes = "error",
    rngs: nnx.Rngs,
) -> SegmentationNetwork:
    """Builds a network with the weights of the authors' PyTorch code.

    Args:
      name: A key of `jaxbox.models.NETWORKS`.
      state: The state dict, or the path of a `.pth` file of one, which requires torch. A checkpoint
        `{"state_dict": ...}` is opened, and prefixes `module.` and `model.` are left out.
      image_size: The size `(H, W)` in pixels with which the PyTorch network was built. The unit of
        the boxes' coordinates depends on it.
      invalid_boxes: What to do with boxes whose bounds are in the wrong order, which the authors'
        code would clip before using them: `"error"` to refuse them, or `"project"` to replace them
        by the nearest valid boxes.
      rngs: The random keys, which dropout keeps.

    Returns:
      The network, of variant `"pytorch"`, in training mode. Its class 0 is void.

    Raises:
      ImportError: `state` is a path and torch is not installed.
      TypeError: `state` is not a mapping of names to arrays of real numbers.
      ValueError: `name` or `invalid_boxes` is unknown; arrays are missing, unknown, of another
        shape or not finite; a variance is negative, or the bounds of a box are in the wrong order.

    Example:
      >>> from flax import nnx
      >>> from jaxbox import interop, models
      >>> model = models.create("enet-minus", 3, (8, 16), variant="pytorch", rngs=nnx.Rngs(0))
      >>> state = interop.to_pytorch("enet-minus", model)
      >>> state["0.conv.weight"].shape
      (13, 3, 3, 3)
      >>> copy = interop.from_pytorch("enet-minus", state, (8, 16), rngs=nnx.Rngs(1))
    """
    check_choice("name", name, tuple(NETWORKS))
    check_choice("invalid_boxes", invalid_boxes, get_args(InvalidBoxes))
    if isinstance(state, str | os.PathLike):
        state = _read(Path(state))
    arrays = open_state_dict(state)
    arrays = {key: value for key, value in arrays.items() if not key.endswith(_UNUSED)}
    classes = _num_classes(arrays)
    _check("state", shapes(arrays), _expected(name, classes))
    for key, value in arrays.items():
        if key.endswith("running_var") and (value < 0).any():
            raise ValueError(f"{key} must not be negative, got {value.min():g}.")
    model = create(name, classes, image_size, variant="pytorch", rngs=rngs)
    for prefix, layer in _layers(model):
        _load(layer, prefix, _arrays_of(prefix, arrays), name, invalid_boxes)
    return model


def to_pytorch(
    name: str, model: SegmentationNetwork, *, like: Mapping[str, ArrayLike] | None = None
) -> StateDict:
    """Returns the state dict with which the authors' PyTorch code computes the same network.

    Args:
      name: The network's name, a key of `jaxbox.models.NETWORKS`.
      model: A network of this name and of variant `"pytorch"`.
      like: The state dict that the network was made from. Conversion rounds the coordinates of
        boxes; those that have not changed are copied from here, bit for bit, and so are PyTorch's
        counts of batches and prefixes of names.

    Returns:
      The state dict. Without `like` it has no counts of batches: load it with `strict=False`.

    Raises:
      TypeError: `model` is not a network.
      ValueError: `name` is unknown, `model` is another network than that, or `like` is the state
        dict of another network.
    """
    check_choice("name", name, tuple(NETWORKS))
    if not isinstance(model, SegmentationNetwork):
        raise TypeError(f"model must be a SegmentationNetwork, got {type(model).__name__}.")
    classes = getattr(model.classifier, "bias", None)
    _check(
        f"model, as the network {name!r} of variant 'pytorch',",
        _shapes(model),
        _expected(name, 1 if classes is None else classes.size),
    )
    state = _written(name, model)
    if like is None:
        return state
    counts = {key: value for key, value in open_state_dict(like).items() if key.endswith(_UNUSED)}
    old = {key: value for key, value in open_state_dict(like).items() if key not in counts}
    _check("like", shapes(old), shapes(state))
    before = nnx.clone(model)
    for prefix, layer in _layers(before):
        _load(layer, prefix, _arrays_of(prefix, old), name, "project")
    return restore_unchanged(state | counts, _written(name, before) | counts, like)


def _written(name: str, model: SegmentationNetwork) -> StateDict:
    return {
        f"{prefix}.{key}": value
        for prefix, layer in _layers(model)
        for key, value in _export(layer, name).items()
    }


def _shapes(model: SegmentationNetwork) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a network's state dict; the network's arrays may be abstract."""
    found = {}
    for prefix, layer in _layers(model):
        if isinstance(layer, BoxConv):
            found.update({f"{prefix}.{key}": layer.theta.shape[:2] for key in BOUNDS})
            continue
        for key, (variable, axes) in _variables(layer).items():
            shape = variable.shape
            found[f"{prefix}.{key}"] = shape if axes is None else tuple(shape[i] for i in axes)
    return found


@functools.lru_cache
def _expected(name: str, classes: int) -> Mapping[str, tuple[int, ...]]:
    """Returns the shapes of the state dict of a network; they do not depend on the image's size."""
    size = (8, 8)
    return _shapes(
        nnx.eval_shape(lambda: create(name, classes, size, variant="pytorch", rngs=nnx.Rngs(0)))
    )


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
        return write_boxes(layer, _REPARAMETRIZATION[name])
    return {
        key: np.asarray(variable[...] if axes is None else variable[...].transpose(axes))
        for key, (variable, axes) in _variables(layer).items()
    }


def _load(
    layer: nnx.Module,
    prefix: str,
    arrays: Mapping[str, NDArray[Any]],
    name: str,
    invalid_boxes: InvalidBoxes,
) -> None:
    if isinstance(layer, BoxConv):
        load_boxes(layer, f"{prefix}.", arrays, _REPARAMETRIZATION[name], invalid_boxes)
        return
    for key, (variable, axes) in _variables(layer).items():
        array = arrays[key] if axes is None else arrays[key].transpose(np.argsort(axes))
        assign(variable, f"{prefix}.{key}", array)


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
    if not hasattr(layer, "kernel"):
        raise ValueError(
            "model must be as `from_pytorch` makes it, not pruned or prepared for inference; it "
            f"has a {type(layer).__name__}."
        )
    is_transposed = isinstance(layer, PatchConvTranspose | UpsamplingConv)
    kernel: _Variables = {"weight": (layer.kernel, (2, 3, 0, 1) if is_transposed else (3, 2, 0, 1))}
    if layer.bias is not None:
        kernel["bias"] = (layer.bias, None)
    return kernel


def _read(file: Path) -> Mapping[str, Any]:
    try:
        import torch  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise ImportError(f"reading {file} needs torch; install it, or pass a mapping") from error
    state = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(state, Mapping):
        raise TypeError(f"{file} must hold a state dict, names to tensors; it is a {type(state)}.")
    return state


def _num_classes(arrays: Mapping[str, NDArray[Any]]) -> int:
    """Returns the length of the classifier's bias, which has the highest index."""
    biases = [key for key in arrays if key.count(".") == 1 and key.endswith(".bias")]
    biases = [key for key in biases if key.split(".")[0].isdecimal()]
    if not biases:
        names = ", ".join(sorted(arrays)[:3]) or "none"
        raise ValueError(
            "state has no classifier: there is no array 'N.bias' with a number N. The names must "
            f"be those of the authors' code, such as '0.conv.weight'; the first are: {names}."
        )
    last = max(biases, key=lambda key: int(key.split(".")[0]))
    check_shape(last, arrays[last], "(classes,)", rank=1)
    return len(arrays[last])


def _check(
    what: str,
    found: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
) -> None:
    """Checks the names and shapes of a state dict."""
    problems = {
        "missing": sorted(expected.keys() - found.keys()),
        "unknown": sorted(found.keys() - expected.keys()),
        "of another shape": [
            f"{key} is {found[key]}, must be {expected[key]}"
            for key in sorted(expected.keys() & found.keys())
            if found[key] != expected[key]
        ],
    }
    messages = [f"{kind}: {_listed(names)}" for kind, names in problems.items() if names]
    if messages:
        raise ValueError(f"{what} does not fit the network; {'; '.join(messages)}.")


def _listed(names: list[str], most: int = 8) -> str:
    """Returns names with commas between them, and only a number for those beyond `most`."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
