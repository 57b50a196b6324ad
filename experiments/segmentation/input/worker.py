"""The set-up of a worker process, which prepares samples for the training program."""

import multiprocessing
import os
import signal
import threading

import cv2
import jax


def prepare_worker(index: int, count: int) -> None:
    """Makes this process a worker: it only prepares samples, and ends when the program ends.

    Args:
      index: the worker's number; it is not used, since all workers are alike.
      count: the number of workers; it is not used either.
    """
    del index, count
    # The accelerator belongs to the training program.
    jax.config.update("jax_platforms", "cpu")
    cv2.setNumThreads(0)  # the other workers use the other cores
    # Ctrl-C reaches all processes of a terminal, but the training program decides what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_program, daemon=True).start()


def _end_with_the_program() -> None:
    """Ends this process when the training program is gone; if that is killed, nothing else does."""
    program = multiprocessing.parent_process()
    if program is not None:
        program.join()
        os._exit(1)
