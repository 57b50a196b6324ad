"""Trained networks as files, in the format of the library safetensors, with their model card.

Such a file holds arrays and text, no code: it is safe to load from others.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

from jaxbox.arguments import check_callable
from jaxbox.models.card import ModelCard, decode_card, encode_card
from jaxbox.models.catalogue import create
from jaxbox.models.network import SegmentationNetwork, check_network

__all__ = ["CARD", "NetworkFactory", "create_from_card", "load", "save", "to_bytes"]

CARD: Final = "jaxbox_model_card"
"""The name of the card in the metadata of a file."""

type NetworkFactory = Callable[[ModelCard], SegmentationNetwork]
"""Builds the network of a card, with parameters of any values."""

# Random keys are no result of training.
_SAVED: Final = nnx.Not(nnx.RngState)

# Shape and dtype of each tensor, by its name.
type _Tensors = Mapping[str, tuple[tuple[int, ...], str]]

# How a file names float32, of which all parameters and statistics of a network are.
_FLOAT32: Final = "F32"

_MOST_NAMED = 3  # tensors in a message


def create_from_card(card: ModelCard) -> SegmentationNetwork:
    """Builds the network of a card by :func:`jaxbox.models.create`."""
    return create(
        card.architecture,
        len(card.classes),
        card.image_size,
        variant=card.variant,
        dtype=card.dtype,
        rngs=nnx.Rngs(0),
    )


def save(
    path: str | Path,
    model: SegmentationNetwork,
    card: ModelCard,
    *,
    make: NetworkFactory = create_from_card,
) -> None:
    """Writes a network and its card into a file, `name.safetensors` by custom.

    Args:
      path: The file. One that is there is replaced.
      model: The network.
      card: What it is and what it needs.
      make: The function with which :func:`load` is to be called, for networks that were changed
        after :func:`jaxbox.models.create`, as by :mod:`jaxbox.surgery`.

    Raises:
      OSError: The file cannot be written.
      TypeError: An argument is of the wrong type.
      ValueError: `make` builds another network than `model` of the card, so that the file could not
        be loaded: another architecture, or one that was folded, pruned or rounded.

    Example:
      >>> import pathlib, tempfile
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxbox import models
      >>> model = models.create("enet-minus", 2, (16, 24), rngs=nnx.Rngs(0))
      >>> card = models.ModelCard(
      ...     "enet-minus", (16, 24), ("road", "car"), (0.5,) * 3, (0.25,) * 3, license="CC0-1.0"
      ... )
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     models.save(pathlib.Path(folder, "streets.safetensors"), model, card)
      ...     model, card = models.load(pathlib.Path(folder, "streets.safetensors"))
      >>> pixels = jnp.zeros((16, 24, 3), jnp.uint8)
      >>> model(card.normalize(pixels)).shape, card.classes
      ((16, 24, 2), ('road', 'car'))
    """
    Path(path).write_bytes(to_bytes(model, card, make=make))


def to_bytes(
    model: SegmentationNetwork, card: ModelCard, *, make: NetworkFactory = create_from_card
) -> bytes:
    """Returns the content of the file that :func:`save` writes; see there for the arguments."""
    check_network(model)
    if not isinstance(card, ModelCard):
        raise TypeError(f"card must be a ModelCard, got a {type(card).__name__}.")
    difference = _difference(_tensors(model), _tensors(_abstract(card, make)))
    if difference is not None:
        raise ValueError(
            f"model must be the network that its card describes, as `make` builds it: {difference}."
        )
    arrays = {name: np.asarray(variable[...]) for name, variable in _variables(model).items()}
    return safetensors.numpy.save(arrays, metadata={CARD: encode_card(card)})


def load(
    path: str | Path, *, make: NetworkFactory = create_from_card
) -> tuple[SegmentationNetwork, ModelCard]:
    """Reads a network and its card from a file that :func:`save` or a training program wrote.

    Args:
      path: The file.
      make: A function that builds the network of a card, for networks that were changed after
        :func:`jaxbox.models.create`. It is called with shapes in place of arrays.

    Returns:
      The network, in evaluation mode, and its card. `model.train()` makes it ready to train on; its
      dropout draws from the seed 0 (`flax.nnx.reseed` changes it).

    Raises:
      OSError: The file cannot be read.
      TypeError: `make` is no function.
      ValueError: The file is damaged or has no card, or its tensors are not those of the network
        that `make` builds. The message is one line and names the file.
    """
    check_callable("make", make)
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError(f"path must be a file, got {str(path)!r}.")
    try:
        return _load(path, make)
    except (safetensors.SafetensorError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{str(path)!r} holds no weights that can be loaded: {reason}") from error


def _load(path: Path, make: NetworkFactory) -> tuple[SegmentationNetwork, ModelCard]:
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata() or {}
        if CARD not in metadata:
            raise ValueError(f"its metadata have no {CARD!r}.")
        card = decode_card(metadata[CARD])
        model = _abstract(card, make)
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        found = {name: (tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
        difference = _difference(found, _tensors(model))
        if difference is not None:
            raise ValueError(f"its tensors are not those of the network: {difference}.")
        arrays = {name: jnp.asarray(file.get_tensor(name)) for name in found}
    _fill(model, arrays)
    return model, card


def _abstract(card: ModelCard, make: NetworkFactory) -> SegmentationNetwork:
    """Builds the network of a card with shapes in place of arrays."""
    model: SegmentationNetwork = nnx.eval_shape(lambda: make(card))
    return model


def _fill(model: SegmentationNetwork, arrays: Mapping[str, jax.Array]) -> None:
    """Gives a network with shapes its arrays, and random keys for dropout."""
    filled = [
        (path, variable.replace(arrays[_name(path)]))
        for path, variable in nnx.to_flat_state(nnx.state(model, _SAVED))
    ]
    nnx.update(model, nnx.from_flat_state(filled))
    seeds: dict[str, Any] = {
        key.get_metadata("tag"): 0 for _, key in nnx.to_flat_state(nnx.state(model, nnx.RngKey))
    }
    nnx.reseed(model, **seeds)
    model.eval()  # type: ignore[no-untyped-call, unused-ignore]


def _variables(model: SegmentationNetwork) -> dict[str, nnx.Variable[Any]]:
    """Returns what is saved of a network, by the names of the tensors."""
    return {_name(path): leaf for path, leaf in nnx.to_flat_state(nnx.state(model, _SAVED))}


def _tensors(model: SegmentationNetwork) -> _Tensors:
    """Returns the shapes and dtypes of the tensors of a network."""
    return {
        name: (
            tuple(variable.shape),
            _FLOAT32 if variable.dtype == jnp.float32 else str(variable.dtype),
        )
        for name, variable in _variables(model).items()
    }


def _name(path: tuple[Any, ...]) -> str:
    return ".".join(map(str, path))


def _difference(found: _Tensors, expected: _Tensors) -> str | None:
    """Says in what tensors differ from those of a network; `None` if they do not."""
    for what, names in (
        ("it lacks", expected.keys() - found.keys()),
        ("it has the unknown", found.keys() - expected.keys()),
    ):
        if names:
            return f"{what} {_listed(names)}"
    for name, (shape, dtype) in expected.items():
        if found[name] != (shape, dtype):
            return f"{name} is {found[name][1]} {found[name][0]} and must be {dtype} {shape}"
    return None


def _listed(names: set[str]) -> str:
    """Returns some of many names, in order."""
    first = ", ".join(sorted(names)[:_MOST_NAMED])
    more = len(names) - _MOST_NAMED
    return f"{first} and {more} more" if more > 0 else first
