"""Ctrl-C and the schedulers' signal during training: stop after the current step, not within it."""

import signal
from types import FrameType
from typing import Self

import jax

from experiments.segmentation.training.devices import any_process

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STEPS_BETWEEN_EXCHANGES = 10  # with other processes, each of which has to wait for the others


class Interrupts:
    """Handles signals while it is entered; use as a context manager.

    Ctrl-C asks for a stop after the current step, and pressed twice it stops at once. SIGTERM, with
    which schedulers announce that they will end a program, does the same.
    """

    def __init__(self) -> None:
        self._pending = False

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def stop_after(self, step: int) -> bool:
        """Whether to stop after a step; with several processes all stop after the same step."""
        if jax.process_count() > 1 and step % _STEPS_BETWEEN_EXCHANGES:
            return False
        return any_process(self._pending)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self._pending:
            raise KeyboardInterrupt("stopped before the current step was done")
        self._pending = True
