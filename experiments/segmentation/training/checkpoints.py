"""Saving the state of a training run, so that the run can continue exactly where it was."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self

import orbax.checkpoint as ocp

from experiments.common.program import UserError
from experiments.segmentation.training import old_checkpoints
from experiments.segmentation.training.trainer import TrainState

_CHECKPOINTS = "checkpoints"
# The names of parts of the state in checkpoints of older programs.
_OLD_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {"model_state": "rest", "opt_state": "optimizer"}
)


class Checkpoints:
    """The checkpoints of one run, in the run's directory; use as a context manager.

    A checkpoint appears whole or not at all (orbax renames it into place when it is complete), so
    a run that is killed at any moment can be resumed. With several processes, each has to make the
    same calls.

    Args:
      directory: the run's directory.
      keep_every: the number of steps between checkpoints that are kept for good; besides these the
        two newest are kept.
    """

    def __init__(self, directory: Path, keep_every: int | None = None):
        self._manager = ocp.CheckpointManager(
            (directory / _CHECKPOINTS).absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=2,
                keep_period=keep_every,
                enable_async_checkpointing=False,
                cleanup_tmp_directories=True,
            ),
            item_handlers=ocp.StandardCheckpointHandler(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._manager.close()

    def save(self, state: TrainState) -> None:
        """Saves the state unless its step was saved before."""
        step = int(state.step)
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(state._asdict()))

    def latest(self, like: TrainState) -> TrainState | None:
        """The newest saved state, or None if none was saved yet.

        Args:
          like: a state of the same network and optimizer. The result lies on the same devices,
            which may differ from those that saved it.

        Raises:
          UserError: the saved state is of another network or optimizer, or cannot be read.
        """
        step = self._manager.latest_step()
        return None if step is None else self._restore(step, like)

    def all(self, like: TrainState) -> dict[int, TrainState]:
        """All states that were kept, by their number of steps, in ascending order; see `latest`."""
        return {step: self._restore(step, like) for step in sorted(self._manager.all_steps())}

    def _restore(self, step: int, like: TrainState) -> TrainState:
        try:
            stored: Any = self._manager.item_metadata(step)
            names = {name: _stored_name(name, stored) for name in TrainState._fields}
            parts = {names[name]: part for name, part in like._asdict().items()}
            states = {names[name]: getattr(like, name) for name in ("params", "model_state")}
            renaming = old_checkpoints.find_renaming(states, stored)
            like_stored = old_checkpoints.rename(parts, renaming)
            like_stored = old_checkpoints.without_counts(like_stored, stored)
            restored = self._manager.restore(step, args=ocp.args.StandardRestore(like_stored))
            restored = old_checkpoints.rename(restored, old_checkpoints.inverse(renaming))
            restored = old_checkpoints.with_counts(restored, parts)
        except Exception as error:  # orbax raises a dozen types
            raise UserError(
                f"checkpoint {step} in {self._manager.directory} does not fit this network, or is "
                f"damaged ({_first_line(error)}); start again with another --out"
            ) from error
        return TrainState(**{name: restored[names[name]] for name in TrainState._fields})


def _stored_name(name: str, stored: Mapping[str, Any]) -> str:
    """The name that a part of the state has in a checkpoint."""
    return name if name in stored else _OLD_NAMES.get(name, name)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
