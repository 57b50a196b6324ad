"""The boxes of a run after each epoch or oftener, in `boxes/STEP.npz` of the run's directory.

They take 20 bytes a box each time, much less than the checkpoints, of which few are kept.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.common.files import read_file
from experiments.common.outputs import replace
from experiments.common.program import UserError, first_line
from jaxbox.analysis import BoxLayer

_FOLDER = "boxes"


class Moment(NamedTuple):
    """The boxes of a layer after some step.

    Attributes:
      theta: the boxes, `(C, F, 4)`, in pixels of the layer's feature map.
      importance: the importance of each box, `(C, F)`; see `jaxbox.analysis.importance`.
    """

    theta: NDArray[np.float32]
    importance: NDArray[np.float32]


class BoxHistory:
    """Records the boxes of a run.

    Args:
      directory: the run's directory.
      step: the step from which the run continues. Boxes of later steps are dropped, since those
        steps are run again.
    """

    def __init__(self, directory: Path, step: int):
        self._folder = directory / _FOLDER
        for recorded, file in _files(self._folder).items():
            if recorded > step:
                file.unlink()

    def add(self, step: int, layers: Sequence[BoxLayer]) -> None:
        """Records the boxes of all layers after a step; nothing if there are no layers.

        Raises:
          OSError: there is no space for them.
        """
        if not layers:
            return
        arrays = {}
        for number, layer in enumerate(layers):
            arrays[f"theta_{number}"] = np.asarray(layer.theta, np.float32)
            arrays[f"importance_{number}"] = np.asarray(layer.importance, np.float32)
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        self._folder.mkdir(exist_ok=True)
        replace(self._folder / f"{step}.npz", buffer.getvalue())


def read_box_history(directory: Path) -> dict[int, list[Moment]]:
    """The boxes of each layer by the step, in ascending order; empty for runs of older programs.

    Args:
      directory: the run's directory.

    Raises:
      UserError: a file is damaged; the message names it.
    """
    return {step: _read(file) for step, file in sorted(_files(directory / _FOLDER).items())}


def _files(folder: Path) -> dict[int, Path]:
    return {int(file.stem): file for file in folder.glob("*.npz") if file.stem.isdecimal()}


def _read(file: Path) -> list[Moment]:
    try:
        with np.load(io.BytesIO(read_file(file)), allow_pickle=False) as arrays:
            count = len(arrays.files) // 2
            return [
                Moment(arrays[f"theta_{number}"], arrays[f"importance_{number}"])
                for number in range(count)
            ]
    except OSError:
        raise
    except Exception as error:  # NumPy and zipfile raise half a dozen types.
        raise UserError(f"{file} is damaged ({first_line(error)}); remove it") from error
