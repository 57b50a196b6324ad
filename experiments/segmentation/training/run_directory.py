"""A run's directory: starting it, reading its settings, and whether the run finished.

Checkpoints and metrics, which are in the same directory, have files of their own here.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from experiments.common.json_files import JsonError, dump_json, read_json
from experiments.common.outputs import is_temporary, make_directory, replace
from experiments.common.program import UserError
from experiments.segmentation.training.devices import is_first_process, wait_for_all
from experiments.segmentation.training.metrics_log import read_metrics
from experiments.segmentation.training.run_lock import LOCK, locked
from experiments.segmentation.training.settings import Settings
from experiments.segmentation.training.settings_record import (
    RecordError,
    differences,
    from_record,
    to_record,
    with_recorded_defaults,
)

_SETTINGS = "settings.json"
_FINISHED = "finished.json"


@contextmanager
def claimed(settings: Settings) -> Iterator[Settings]:
    """Checks and locks a run's directory before data is read; use as a context manager.

    The lock ends with the context or with the process, however that ends. A directory that is
    created here is removed again if nothing was written into it.

    Args:
      settings: the settings of the run; `out` is its directory.

    Yields:
      The settings to train with: if the run to resume was recorded before some settings existed,
      these have the values with which it was trained.

    Raises:
      UserError: see `begin_run`; also if the directory cannot be written, or another process trains
        into it.
    """
    if not is_first_process():
        yield _as_recorded(settings) if settings.resume else settings
        return
    _check_usable(settings)
    created = [path for path in (settings.out, *settings.out.parents) if not path.exists()]
    try:
        make_directory(settings.out)
        with locked(settings.out):
            yield _as_recorded(settings) if settings.resume else settings
    finally:
        with suppress(OSError):  # which is raised at the first directory that is not empty
            for path in created:
                path.rmdir()


def begin_run(settings: Settings) -> None:
    """Creates the directory of a new run, or checks that the run in it can be resumed.

    A run can be resumed with the same settings only, since any other would silently make it another
    experiment. The data set's directory may be another one, which is recorded.

    Args:
      settings: the settings of the run; `out` is its directory.

    Raises:
      UserError: `out` holds a run although `resume` is not set, or holds none although it is, or
        holds one with other settings.
    """
    if settings.resume or is_first_process():
        _check_usable(settings)
    if settings.resume:
        _check_same_run(settings)
    if is_first_process():
        if not settings.resume:
            settings.out.mkdir(parents=True, exist_ok=True)
            _write_record(settings.out, to_record(settings))
        elif (record := read_record(settings.out)).get("data") != settings.data:
            _write_record(settings.out, {**record, "data": settings.data})
    wait_for_all("run begun")


def holds_run(directory: Path) -> bool:
    """Whether a run was started in a directory."""
    return (directory / _SETTINGS).exists()


def read_settings(directory: Path) -> Settings:
    """The settings of the run in a directory.

    Raises:
      UserError: there is no run, its record is damaged, or a newer program recorded it.
    """
    record = read_record(directory)
    try:
        return from_record(record, directory)
    except RecordError as error:
        raise _damaged(directory, error) from error


def record_finished(directory: Path, step: int) -> None:
    """Records that a run was trained to its last step and that its pictures are written."""
    replace(directory / _FINISHED, dump_json({"step": step}))


def is_finished(directory: Path) -> bool:
    """Whether the run in a directory finished.

    Older programs did not record it. Their runs count as finished if they have metrics of the last
    step and `curves.png`, which was written after the last checkpoint.

    Raises:
      UserError: see `read_settings`.
    """
    if (directory / _FINISHED).exists():
        return True
    if not (directory / "curves.png").exists():
        return False
    records = read_metrics(directory)
    return bool(records) and records[-1]["step"] == read_settings(directory).steps


def read_record(directory: Path) -> dict[str, Any]:
    """The JSON object with a run's settings, whose values are not checked."""
    if not holds_run(directory):
        raise UserError(f"{directory} holds no run")
    try:
        record = read_json(directory / _SETTINGS)
    except JsonError as error:
        raise _damaged(directory, error) from error
    if not isinstance(record, dict):
        raise _damaged(directory, RecordError("the record is not an object"))
    return record


def _write_record(directory: Path, record: Mapping[str, Any]) -> None:
    replace(directory / _SETTINGS, dump_json(record))


def _damaged(directory: Path, error: Exception) -> UserError:
    return UserError(
        f"{directory / _SETTINGS} is damaged ({error}); mend it, or start again with another --out"
    )


def _as_recorded(settings: Settings) -> Settings:
    """The settings with the values of a run that was recorded before some of them existed."""
    read_settings(settings.out)  # refuses a record that is damaged or of a newer program
    settings, changed = with_recorded_defaults(settings, read_record(settings.out))
    _check_same_run(settings)
    if changed and is_first_process():
        named = ", ".join(f"{name} {value!r}" for name, value in changed.items())
        print(
            f"{settings.out} was begun by an older program and goes on with {named}",
            file=sys.stderr,
        )
    return settings


def _check_usable(settings: Settings) -> None:
    """Raises `UserError` if a run cannot be begun in its directory, or resumed."""
    directory = settings.out
    if settings.resume:
        if not holds_run(directory):
            raise UserError(f"{directory} holds no run to resume; leave --resume out to start one")
        return
    if holds_run(directory):
        if is_finished(directory):
            raise UserError(f"{directory} holds a finished run; choose another --out")
        raise UserError(f"{directory} holds a run; go on with --resume, or choose another --out")
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is not a directory; choose another --out")
    if directory.exists() and any(not _is_passing(path) for path in directory.iterdir()):
        raise UserError(f"{directory} is not empty and holds no run; choose another --out")


def _is_passing(path: Path) -> bool:
    """Whether a file is there only while a program runs, or because it was killed."""
    return path.name == LOCK or is_temporary(path)


def _check_same_run(settings: Settings) -> None:
    changes = ", ".join(
        f"{name} {saved!r} (now {wanted!r})"
        for name, (saved, wanted) in differences(read_settings(settings.out), settings).items()
    )
    if changes:
        raise UserError(
            f"{settings.out} holds a run with another setting: {changes}; repeat its own"
        )
