"""The metrics of a run: `metrics.jsonl` for programs, and the same and more for TensorBoard."""

import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from experiments.common.files import read_file
from experiments.common.json_files import JsonError, finite_or_null, parse_json
from experiments.common.outputs import replace
from experiments.common.program import UserError
from experiments.segmentation.training.tensorboard import TensorBoard

_METRICS = "metrics.jsonl"
_TENSORBOARD = "tensorboard"
NUMBERS: Final = ("epoch", "loss", "mean_iou", "class_accuracy", "pixel_accuracy")
"""The metrics of a record that are numbers, or None where there is no such number."""


class MetricsLog:
    """Appends one record for each epoch, and more for TensorBoard; use as a context manager.

    Args:
      directory: the run's directory.
      step: the step from which the run continues. Records of later steps, written between the last
        checkpoint and a sudden end, are dropped, since those steps are run again.

    Raises:
      UserError: the records that are there are damaged.
    """

    def __init__(self, directory: Path, step: int):
        self._file = directory / _METRICS
        kept = [line for line, record in _read(self._file) if record["step"] <= step]
        replace(self._file, b"".join(line + b"\n" for line in kept))
        self._board = TensorBoard(directory / _TENSORBOARD, step)

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
            TensorBoard gets the numbers, and those of each class and of each layer of boxes.

        Raises:
          OSError: there is no space for it.
        """
        cleaned = finite_or_null(dict(record))
        with self._file.open("a") as file:
            file.write(json.dumps(cleaned) + "\n")
        numbers = {name: value for name, value in cleaned.items() if isinstance(value, float)}
        numbers |= {f"iou/{name}": value for name, value in cleaned.get("iou", {}).items()}
        for layer, values in cleaned.get("boxes", {}).items():
            numbers |= {f"{name}/{layer}": value for name, value in values.items()}
        self.add_numbers(record["step"], numbers)

    def add_numbers(self, step: int, numbers: Mapping[str, float | None]) -> None:
        """Appends numbers for TensorBoard alone, without those that are None."""
        known = {name: value for name, value in numbers.items() if value is not None}
        self._board.add_numbers(step, known)

    def add_picture(self, step: int, name: str, pixels: NDArray[np.uint8]) -> None:
        """Appends a picture, `(H, W, 3)` RGB, for TensorBoard alone."""
        self._board.add_picture(step, name, pixels)


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The records of a run so far, without a last line that a sudden end cut short.

    Returns:
      The records in the order of their `step`; numbers that a record lacks are None.

    Raises:
      UserError: a record is damaged; the message names its line.
    """
    return [dict.fromkeys(NUMBERS) | record for _, record in _read(directory / _METRICS)]


def _read(file: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """The lines of a file of metrics, each with its record."""
    try:
        data = read_file(file)
    except FileNotFoundError:
        return []
    *lines, rest = data.split(b"\n")  # what is written whole ends with a newline
    read: list[tuple[bytes, dict[str, Any]]] = []
    for number, line in enumerate([*lines, rest] if rest else lines, 1):
        try:
            record = _record(line)
            if read and record["step"] <= read[-1][1]["step"]:
                raise JsonError(f"step {record['step']} is not after {read[-1][1]['step']}")
        except JsonError as error:
            if number > len(lines):
                break
            raise UserError(
                f"{file}: line {number} is damaged ({error}); mend it, or start again with "
                "another --out"
            ) from error
        read.append((line, record))
    return read


def _record(line: bytes) -> dict[str, Any]:
    """The record of a line; raises `JsonError` if it is none."""
    record = parse_json(line)
    if not isinstance(record, dict):
        raise JsonError("it is not an object")
    step = record.get("step")
    if type(step) is not int or step < 1:
        raise JsonError(f"it has no step, but {reprlib.repr(step)}")
    for name in NUMBERS:
        if type(record.get(name)) not in (int, float, type(None)):
            raise JsonError(f"{name} {reprlib.repr(record[name])} is not a number")
    return record
