"""Parameters of layers: what an initializer draws, and the metadata that users add to it."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

import jax
from flax import nnx
from flax.core import FrozenDict

__all__ = ["NO_METADATA", "check_metadata", "map_drawn"]

# Linen's modules are hashed with their defaults, which no other empty mapping allows.
NO_METADATA: Final[Mapping[str, Any]] = FrozenDict()


def check_metadata(name: str, metadata: Any, reserved: Collection[str] = ()) -> dict[str, Any]:
    """Checks the metadata of a parameter, as `flax.nnx.Conv` takes for its kernel.

    Args:
      name: The name of the argument, for the error message.
      metadata: A mapping from names to values, such as `{"out_sharding": ("model", None, None)}`.
      reserved: The names that the layer itself uses.

    Returns:
      The metadata as a dictionary.

    Raises:
      TypeError: `metadata` is no mapping from strings.
      ValueError: It has a name that the layer uses.

    Example:
      >>> from jaxbox.layers.parameters import check_metadata
      >>> check_metadata("theta_metadata", {"out_sharding": ("model", None, None)}, {"tag"})
      {'out_sharding': ('model', None, None)}
    """
    if not isinstance(metadata, Mapping) or not all(isinstance(key, str) for key in metadata):
        raise TypeError(f"{name} must be a mapping from names to values, got {metadata!r}.")
    taken = sorted(set(reserved) & set(metadata))
    if taken:
        raise ValueError(f"{name} must not have {', '.join(taken)}, which the layer sets itself.")
    return dict(metadata)


def map_drawn(function: Callable[[jax.Array], jax.Array], drawn: Any) -> Any:
    """Changes the array that an initializer has drawn.

    `nnx.with_partitioning` makes initializers return arrays with metadata, which are kept.

    Args:
      function: The change.
      drawn: An array, or one with metadata.

    Returns:
      The changed array, with the same metadata if there were any.
    """
    if isinstance(drawn, nnx.VariableMetadata):
        return dataclasses.replace(drawn, raw_value=function(drawn.raw_value))
    return function(drawn)
