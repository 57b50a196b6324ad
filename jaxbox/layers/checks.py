"""Checks of models."""

from typing import Any

import jax
from flax import nnx

__all__ = ["check_filter", "check_model"]


def check_model(model: Any, hint: str = "") -> None:
    """Checks that an argument `model` is an NNX model: a module, or Variables in any container.

    Args:
      model: The argument.
      hint: What to use instead, for the error message.

    Raises:
      TypeError: It is not.
    """
    try:
        found = isinstance(model, nnx.Module) or any(
            isinstance(leaf, nnx.Variable)
            for leaf in jax.tree.leaves(
                nnx.state(model), is_leaf=lambda node: isinstance(node, nnx.Variable)
            )
        )
    except Exception:  # Flax raises errors of several types where there are no Variables.
        found = False
    if not found:
        raise TypeError(
            "model must be an NNX model; got "
            f"{model if model is None else type(model).__name__}.{' ' if hint else ''}{hint}"
        )


def check_filter(name: str, value: Any) -> None:
    """Checks that an argument is a filter of NNX, such as `nnx.Param`.

    Raises:
      TypeError: It is not.
    """
    try:
        nnx.filterlib.to_predicate(value)
    except Exception:  # Flax raises errors of several types, some of them by mistake.
        raise TypeError(
            f"{name} must be a filter of NNX, such as nnx.Param; got {value!r}."
        ) from None
