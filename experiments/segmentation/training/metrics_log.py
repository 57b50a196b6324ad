"""The metrics of a run: `metrics.jsonl` for programs, TensorBoard's event files for people."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tensorboardX import SummaryWriter

_METRICS = "metrics.jsonl"
_TENSORBOARD = "tensorboard"


class MetricsLog:
    """Appends one record for each epoch; use as a context manager.

    Args:
      directory: the run's directory.
      step: the step from which the run continues. Records of later steps, written between the last
        checkpoint and a sudden end, are dropped, since those steps are run again.
    """

    def __init__(self, directory: Path, step: int):
        self._file = directory / _METRICS
        self._write([record for record in read_metrics(directory) if record["step"] <= step])
        self._board = SummaryWriter(str(directory / _TENSORBOARD), purge_step=step + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._board.close()

    def add(self, record: Mapping[str, Any]) -> None:
        """Appends a record.

        Args:
          record: the metrics by name, among them `step`. Numbers that are not finite become null.
        """
        cleaned = _without_nan(dict(record))
        with self._file.open("a") as file:
            file.write(json.dumps(cleaned) + "\n")
        for name, value in cleaned.items():
            if isinstance(value, float):
                self._board.add_scalar(name, value, record["step"])
        self._board.flush()

    def _write(self, records: list[dict[str, Any]]) -> None:
        temporary = self._file.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(record) + "\n" for record in records))
        temporary.replace(self._file)


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The records of a run so far, without a last line that a sudden end cut short."""
    file = directory / _METRICS
    if not file.exists():
        return []
    records = []
    for line in file.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
