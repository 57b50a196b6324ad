"""Checkpoints of older programs, which numbered the layers of a block and named them later.

An older program stored the convolution `blocks[3].reduce` as `blocks[3].branch.layers[0]`. Layers
without parameters had numbers too, so the numbers are looked up in the checkpoint. Nor did an older
program count the steps in which a box was not finite.
"""

from collections.abc import Mapping
from typing import Any

import jax
import optax
from flax import nnx

from jaxbox.optim import KeepBoxesValidState, KeepPositionsInsideState

# The sequences of numbered layers, each with the names that its layers have now, in their order.
# A block has some of these layers only.
_SEQUENCES = {
    "branch": (
        *("reduce", "column1", "row1", "norm1", "activation1", "boxes", "column", "conv"),
        *("column2", "row2", "norm2", "activation2", "expand", "norm3", "dropout"),
    ),
    "skip": ("skip_conv", "skip_norm"),
}

type Path = tuple[Any, ...]
type Renaming = Mapping[Path, Path]


def find_renaming(states: Mapping[str, nnx.State], stored: Mapping[str, Any]) -> Renaming:
    """Finds out how an older program named the layers of a network.

    Args:
      states: parts of the state of the network, by the names that they have in the checkpoint.
      stored: the names in the checkpoint, a nested mapping.

    Returns:
      The older beginnings of the paths of variables, by the present ones. Empty if the checkpoint
      has the present names.
    """
    renaming: dict[Path, Path] = {}
    for part, state in states.items():
        blocks = stored[part].get("blocks", {})
        for index, block in state.get("blocks", {}).items():
            for sequence, order in _SEQUENCES.items():
                layers = blocks[str(index)].get(sequence, {}).get("layers", {})
                names = sorted(set(order) & set(block), key=_order_in(block, order).index)
                for name, number in zip(names, sorted(map(int, layers)), strict=bool(layers)):
                    path = ("blocks", index, sequence, "layers", number)
                    renaming["blocks", index, name] = path
    return renaming


def rename[Tree](tree: Tree, renaming: Renaming) -> Tree:
    """Renames the variables of each `nnx.State` in a tree, by the beginnings of their paths."""

    def rename_state(state: Any) -> Any:
        if not isinstance(state, nnx.State):
            return state
        return nnx.from_flat_state(
            [(_renamed(path, renaming), leaf) for path, leaf in nnx.to_flat_state(state)]
        )

    renamed: Tree = jax.tree.map(rename_state, tree, is_leaf=lambda x: isinstance(x, nnx.State))
    return renamed


def inverse(renaming: Renaming) -> Renaming:
    """The renaming from the older names to the present ones."""
    return {old: new for new, old in renaming.items()}


def without_counts[Tree](tree: Tree, stored: Any) -> Tree:
    """Leaves out the counts of steps that were not finite if a checkpoint has none.

    Args:
      tree: the state of an optimizer.
      stored: the names in the checkpoint of that state.
    """
    if "non_finite_steps" in str(jax.tree.structure(stored)):
        return tree
    changed: Tree = jax.tree.map(
        lambda node: optax.EmptyState() if _is_count(node) else node, tree, is_leaf=_is_count
    )
    return changed


def with_counts[Tree](tree: Tree, like: Tree) -> Tree:
    """Puts back what `without_counts` left out, from a tree that has it."""
    counts: Tree = jax.tree.map(
        lambda new, old: new if _is_count(new) else old, like, tree, is_leaf=_is_count
    )
    return counts


def _is_count(node: Any) -> bool:
    return isinstance(node, KeepBoxesValidState | KeepPositionsInsideState)


def _order_in(block: Mapping[str, Any], order: tuple[str, ...]) -> tuple[str, ...]:
    """The order of a block's layers; one that does not reduce its channels begins with `conv`."""
    if "reduce" in block:
        return order
    return ("conv", *(name for name in order if name != "conv"))


def _renamed(path: Path, renaming: Renaming) -> Path:
    for length in range(len(path), 0, -1):
        if path[:length] in renaming:
            return (*renaming[path[:length]], *path[length:])
    return path
