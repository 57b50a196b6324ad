"""A run's directory: starting it, reading its settings, and whether the run finished.

Checkpoints and metrics, which are in the same directory, have files of their own here.
"""

import json
from pathlib import Path
from typing import Any

from experiments.common.program import UserError
from experiments.common.report import write_json
from experiments.segmentation.training.devices import is_first_process, wait_for_all
from experiments.segmentation.training.metrics_log import read_metrics
from experiments.segmentation.training.settings import Settings
from experiments.segmentation.training.settings_record import from_record, to_record

_SETTINGS = "settings.json"
_FINISHED = "finished.json"


def begin_run(settings: Settings) -> None:
    """Creates the directory of a new run, or checks that the run in it can be resumed.

    A run can be resumed with the same settings only, since any other would silently make it another
    experiment.

    Args:
      settings: the settings of the run; `out` is its directory.

    Raises:
      UserError: `out` holds a run although `resume` is not set, or holds none although it is, or
        holds one with other settings.
    """
    if settings.resume:
        _check_same_run(settings)
    elif is_first_process():
        _create(settings)
    wait_for_all("run begun")


def holds_run(directory: Path) -> bool:
    """Whether a run was started in a directory."""
    return (directory / _SETTINGS).exists()


def read_settings(directory: Path) -> Settings:
    """The settings of the run in a directory.

    Raises:
      UserError: there is no run, its record is damaged, or a newer program recorded it.
    """
    file = directory / _SETTINGS
    if not holds_run(directory):
        raise UserError(f"{directory} holds no run")
    try:
        record: dict[str, Any] = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{file} is damaged ({error}); start again with another --out") from error
    return from_record(record, directory)


def record_finished(directory: Path, step: int) -> None:
    """Records that a run was trained to its last step and that its pictures are written."""
    write_json(directory / _FINISHED, {"step": step})


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


def _create(settings: Settings) -> None:
    directory = settings.out
    if holds_run(directory):
        raise UserError(f"{directory} holds a run; go on with --resume, or choose another --out")
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory} is not a directory; choose another --out")
    if directory.exists() and any(directory.iterdir()):
        raise UserError(f"{directory} is not empty and holds no run; choose another --out")
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / _SETTINGS, to_record(settings))


def _check_same_run(settings: Settings) -> None:
    directory = settings.out
    if not holds_run(directory):
        raise UserError(f"{directory} holds no run to resume; leave --resume out to start one")
    saved, wanted = to_record(read_settings(directory)), to_record(settings)
    changes = ", ".join(
        f"{name} {saved[name]!r} (now {value!r})"
        for name, value in wanted.items()
        if saved[name] != value
    )
    if changes:
        raise UserError(f"{directory} holds a run with another setting: {changes}; repeat its own")
