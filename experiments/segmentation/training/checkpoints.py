"""Saving the state of a training run, so that the run can continue exactly where it was."""

import hashlib
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self

import jax
import orbax.checkpoint as ocp
import tensorstore

from experiments.common.json_files import dump_json, read_json
from experiments.common.program import UserError, first_line
from experiments.segmentation.training import old_checkpoints
from experiments.segmentation.training.devices import is_first_process, wait_for_all
from experiments.segmentation.training.trainer import TrainState

_CHECKPOINTS = "checkpoints"
_DAMAGED = "damaged_checkpoints"
_DIGESTS = "digests.json"
_SPACE_BESIDES_ARRAYS = 2**16
# The names of parts of the state in checkpoints of older programs.
_OLD_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {"model_state": "rest", "opt_state": "optimizer"}
)


class Checkpoints:
    """The checkpoints of one run, in the run's directory; use as a context manager.

    A checkpoint appears whole or not at all (orbax renames it into place when it is complete), so
    a run that is killed at any moment can be resumed. The digests of its files are saved with it,
    so that damage is noticed; then the newest checkpoint that is whole is used. With several
    processes, each has to make the same calls.

    Args:
      directory: the run's directory.
      keep_every: the number of steps between checkpoints that are kept for good; besides these the
        two newest are kept.
      read_only: whether checkpoints are only read, perhaps while another process trains.
    """

    def __init__(self, directory: Path, keep_every: int | None = None, *, read_only: bool = False):
        self._directory = (directory / _CHECKPOINTS).absolute()
        self._damaged = directory / _DAMAGED
        self._read_only = read_only
        self._manager = None
        if self._directory.is_dir() or not read_only:
            with _quiet(logging.WARNING):
                self._manager = _manager(self._directory, keep_every, read_only)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._manager is not None:
            self._manager.close()

    def save(self, state: TrainState) -> None:
        """Saves the state unless its step was saved before.

        Raises:
          UserError: there is no space for it, or it cannot be written for another reason.
        """
        step = int(state.step)
        if self._manager is None or step in self._manager.all_steps():
            return
        try:
            self._check_space(state)
            with _quiet():
                self._manager.save(step, args=ocp.args.StandardSave(state._asdict()))
            if is_first_process():
                folder = self._directory / str(step)
                (folder / _DIGESTS).write_bytes(dump_json(_digests(folder)))
        except Exception as error:  # orbax and tensorstore raise a dozen types
            _silence_other_failures()
            raise UserError(
                f"checkpoint {step} cannot be written into {self._directory} "
                f"({first_line(error)}); make room, then go on with --resume"
            ) from error

    def _check_space(self, state: TrainState) -> None:
        """Raises `OSError` unless there is space for a checkpoint.

        Orbax would notice in many threads at once.
        """
        arrays = [leaf for leaf in jax.tree.leaves(state) if hasattr(leaf, "nbytes")]
        probe = self._directory / f".space-{os.getpid()}"
        with probe.open("wb") as file:
            try:
                if hasattr(os, "posix_fallocate"):
                    needed = _SPACE_BESIDES_ARRAYS + sum(leaf.nbytes for leaf in arrays)
                    os.posix_fallocate(file.fileno(), 0, needed)
            finally:
                probe.unlink()

    def latest(self, like: TrainState) -> TrainState | None:
        """The newest saved state that can be read, or None if none was saved yet.

        Damaged checkpoints that are newer are named on stderr and, unless `read_only`, moved out of
        the way.

        Args:
          like: a state of the same network and optimizer. The result lies on the same devices,
            which may differ from those that saved it.

        Raises:
          UserError: all saved states are of another network or optimizer, or cannot be read.
        """
        damaged: dict[int, str] = {}
        for step in reversed(self._steps()):
            try:
                state = self._restore(step, like)
            except _DamagedError as error:
                damaged[step] = str(error)
                continue
            self._report(damaged, step)
            return state
        self._refuse(damaged)
        return None

    def all(self, like: TrainState) -> dict[int, TrainState]:
        """All kept states that can be read, by their steps, in ascending order; see `latest`."""
        damaged: dict[int, str] = {}
        states = {}
        for step in self._steps():
            try:
                states[step] = self._restore(step, like)
            except _DamagedError as error:
                damaged[step] = str(error)
        if not states:
            self._refuse(damaged)
            return {}
        self._report(damaged, max(states))
        return states

    def _steps(self) -> list[int]:
        """The steps of all checkpoints, damaged or not, in ascending order."""
        if not self._directory.is_dir():
            return []
        names = [path.name for path in self._directory.iterdir()]
        return sorted(int(name) for name in names if name.isascii() and name.isdigit())

    def _refuse(self, damaged: Mapping[int, str]) -> None:
        """Raises `UserError` if there are checkpoints, none of which can be read."""
        if not damaged:
            return
        newest = max(damaged)
        others = ", ".join(str(step) for step in sorted(damaged) if step != newest)
        raise UserError(
            f"checkpoint {newest} in {self._directory} does not fit this network, or is damaged "
            f"({damaged[newest]}){f'; so are {others}' if others else ''}; start again with "
            "another --out"
        )

    def _report(self, damaged: Mapping[int, str], used: int) -> None:
        """Names damaged checkpoints, and moves them away if checkpoints are to be written."""
        for step, reason in damaged.items():
            moved = ""
            if not self._read_only and is_first_process():
                moved = f" and is now in {self._set_aside(step)}"
            print(
                f"checkpoint {step} in {self._directory} is damaged ({reason}){moved}; "
                f"checkpoint {used} is used",
                file=sys.stderr,
            )
        if damaged and self._manager is not None and not self._read_only:
            wait_for_all("damaged checkpoints moved")
            self._manager.reload()

    def _set_aside(self, step: int) -> Path:
        self._damaged.mkdir(exist_ok=True)
        target, number = self._damaged / str(step), 1
        while target.exists():
            target, number = self._damaged / f"{step}-{number}", number + 1
        (self._directory / str(step)).rename(target)
        return target

    def _restore(self, step: int, like: TrainState) -> TrainState:
        assert self._manager is not None
        _check_whole(self._directory / str(step))
        try:
            with _quiet():
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
            state = TrainState(**{name: restored[names[name]] for name in TrainState._fields})
        except MemoryError:
            raise
        except Exception as error:  # orbax raises a dozen types
            raise _DamagedError(first_line(error)) from error
        if int(state.step) != step:
            raise _DamagedError(f"it holds step {int(state.step)}")
        return state


def _manager(directory: Path, keep_every: int | None, read_only: bool) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(
        directory,
        options=ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else 2,
            keep_period=None if read_only else keep_every,
            enable_async_checkpointing=False,
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
        ),
        item_handlers=ocp.StandardCheckpointHandler(),
    )


class _DamagedError(Exception):
    """A checkpoint cannot be read; the message says why, without its name."""


def _check_whole(folder: Path) -> None:
    """Checks a checkpoint's files before orbax reads them, which does not notice every damage.

    Raises:
      _DamagedError: files are missing or not those that were saved.
      PermissionError: files may not be read.
    """
    try:
        if (folder / _DIGESTS).exists():
            saved, present = read_json(folder / _DIGESTS), _digests(folder)
            if saved == present:
                return
            wrong = [name for name, digest in dict(saved).items() if present.get(name) != digest]
            raise _DamagedError(f"{(wrong or [_DIGESTS])[0]} is not as it was saved")
        _read_arrays(folder / "default")
    except (_DamagedError, PermissionError):
        raise
    except Exception as error:  # of the JSON file, the system, or tensorstore
        raise _DamagedError(first_line(error)) from error


def _digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of a checkpoint, by its path in it."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != _DIGESTS)
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(files)
    }


def _read_arrays(folder: Path) -> None:
    """Reads all values of a checkpoint without digests, so that errors of its files are raised.

    Orbax would read them in threads, which go on, and print tracebacks, after the first error.
    """
    base = {"driver": "file", "path": f"{folder}/"}
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    names = store.list().result()
    if not names:
        raise _DamagedError("it holds no arrays")
    for name in names:
        store.read(name).result()


def _silence_other_failures() -> None:
    """Keeps the writes that fail beside the first one from printing a traceback each."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    previous = sys.excepthook

    def print_unless_late(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        # tensorstore's threads report to an event loop that orbax has closed after the first error.
        if str(error) != "Event loop is closed":
            previous(kind, error, traceback)

    sys.excepthook = print_unless_late


@contextmanager
def _quiet(level: int = logging.ERROR) -> Iterator[None]:
    """Keeps libraries from logging what is reported in this program's own words, up to a level."""
    previous = logging.root.manager.disable
    logging.disable(level)
    try:
        yield
    finally:
        logging.disable(previous)


def _stored_name(name: str, stored: Mapping[str, Any]) -> str:
    """The name that a part of the state has in a checkpoint."""
    return name if name in stored else _OLD_NAMES.get(name, name)
