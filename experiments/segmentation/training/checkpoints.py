"""Saving a training run so that it goes on exactly where it was, whatever stopped it."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orbax.checkpoint as ocp

from experiments.segmentation.training.devices import is_first_process, wait_for_all
from experiments.segmentation.training.trainer import TrainState

_SETTINGS = "settings.json"
_CHECKPOINTS = "checkpoints"


class RunError(Exception):
    """A run's directory is not what was expected; the message says what to do."""


class Checkpoints:
    """The checkpoints of one run, in the run's directory; use as a context manager.

    A checkpoint appears whole or not at all (orbax renames it into place when it is complete), so
    a run killed at any moment can be resumed. With several processes each has to call what the
    others call.

    Args:
      directory: the run's directory.
      keep_every: the two newest are kept, and those of steps that are a multiple of this.
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
        """Saves the state unless the one of its step is saved already."""
        step = int(state.step)
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(state._asdict()))

    def latest(self, like: TrainState) -> TrainState | None:
        """The newest saved state, or None when none was saved yet.

        Args:
          like: a state of the same network and optimizer; the result lies on the same devices,
            which need not be those that it was saved from.

        Raises:
          RunError: the saved state is of another network or optimizer, or cannot be read.
        """
        step = self._manager.latest_step()
        return None if step is None else self._restore(step, like)

    def all(self, like: TrainState) -> dict[int, TrainState]:
        """All states that were kept, by their number of steps, in order; see `latest`."""
        return {step: self._restore(step, like) for step in sorted(self._manager.all_steps())}

    def _restore(self, step: int, like: TrainState) -> TrainState:
        try:
            restored = self._manager.restore(step, args=ocp.args.StandardRestore(like._asdict()))
        except Exception as error:  # orbax raises a dozen kinds
            raise RunError(
                f"checkpoint {step} in {self._manager.directory} does not fit this network, or is "
                f"damaged ({_first_line(error)}); start again with another --out"
            ) from error
        return TrainState(**restored)


def begin_run(directory: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
    """Makes the directory of a new run, or sees that the run in it is the one to go on with.

    Args:
      directory: the run's directory.
      settings: what the run depends on, as JSON values. A run can be resumed with the same
        settings only: any other would silently be another experiment.
      resume: go on with the run in `directory` rather than start one.

    Raises:
      RunError: `directory` holds a run although `resume` is not set, or none although it is, or
        a run with other settings.
    """
    if resume:
        _check_same_run(directory, settings)
    elif is_first_process():
        _start_run(directory, settings)
    wait_for_all("run begun")


def read_settings(directory: Path) -> dict[str, Any]:
    """What the run in a directory depends on.

    Raises:
      RunError: there is no run, or its record is damaged.
    """
    file = directory / _SETTINGS
    if not file.exists():
        raise RunError(f"{directory} holds no run")
    try:
        return json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise RunError(f"{file} is damaged ({error}); start again with another --out") from error


def _start_run(directory: Path, settings: Mapping[str, Any]) -> None:
    if (directory / _SETTINGS).exists():
        raise RunError(f"{directory} holds a run; go on with --resume, or choose another --out")
    if directory.exists() and not directory.is_dir():
        raise RunError(f"{directory} is not a directory; choose another --out")
    if directory.exists() and any(directory.iterdir()):
        raise RunError(f"{directory} is not empty and holds no run; choose another --out")
    directory.mkdir(parents=True, exist_ok=True)
    (directory / _SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")


def _check_same_run(directory: Path, settings: Mapping[str, Any]) -> None:
    if not (directory / _SETTINGS).exists():
        raise RunError(f"{directory} holds no run to resume; leave --resume out to start one")
    saved = read_settings(directory)
    differing = [name for name in settings if saved.get(name) != settings[name]]
    if differing:
        changes = ", ".join(
            f"{name} {saved.get(name)!r} (now {settings[name]!r})" for name in differing
        )
        raise RunError(f"{directory} holds a run with another setting: {changes}; repeat its own")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
