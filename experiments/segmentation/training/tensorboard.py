"""TensorBoard's event files of a run: numbers and pictures for people."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2
from tensorboardX.summary import image, scalar


class TensorBoard:
    """TensorBoard's event file of one process.

    It is written at once and in this thread, unlike by tensorboardX's `SummaryWriter`, whose thread
    ends with a traceback when the disk is full, after which the program waits for it for ever.

    Args:
      directory: the directory of event files, which is created if its parent exists.
      step: the step from which the run continues; TensorBoard hides what was recorded after it.
    """

    def __init__(self, directory: Path, step: int):
        directory.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(directory / "events"))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(event_pb2.Event(session_log=start), step + 1)

    def add_numbers(self, step: int, values: Mapping[str, float]) -> None:
        """Appends numbers by their names; a name's part before a slash is its group."""
        for name, value in values.items():
            self._write(event_pb2.Event(summary=scalar(name, value)), step)
        self._writer.flush()

    def add_picture(self, step: int, name: str, pixels: NDArray[np.uint8]) -> None:
        """Appends a picture, `(H, W, 3)` RGB."""
        self._write(event_pb2.Event(summary=image(name, pixels, dataformats="HWC")), step)
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()

    def _write(self, event: Any, step: int) -> None:
        event.wall_time, event.step = time.time(), step
        self._writer.write_event(event)
