"""What a process that prepares samples has to see to."""

import multiprocessing
import os
import signal
import threading

import cv2
import jax


def prepare_worker(index: int, count: int) -> None:
    """Makes this process a worker: it prepares samples, nothing else, and no longer than needed.

    Args:
      index: which worker it is; all are alike.
      count: how many there are.
    """
    del index, count
    # The accelerator belongs to the program.
    jax.config.update("jax_platforms", "cpu")
    cv2.setNumThreads(0)  # the other workers use the other cores
    # Ctrl-C goes to all processes of a terminal: what then happens is the program's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_program, daemon=True).start()


def _end_with_the_program() -> None:
    """Nobody tells a worker when the program is killed."""
    program = multiprocessing.parent_process()
    if program is not None:
        program.join()
        os._exit(1)
