"""A trained network that segments images, whether it comes from a run or from a file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import jax
import numpy as np
from flax import nnx
from numpy.typing import NDArray

from experiments.segmentation.artefact import (
    Artefact,
    ArtefactError,
    Format,
    Logits,
    read_artefact,
    unusable,
)
from experiments.segmentation.data.classes import ClassSet
from experiments.segmentation.data.source import Size
from experiments.segmentation.input.normalization import Normalization
from experiments.segmentation.jax_program import load_jax_program
from experiments.segmentation.onnx_program import load_onnx_program
from experiments.segmentation.saved_run import SavedRun, most_likely
from experiments.segmentation.weights_file import Weights, is_weights, read_weights

_LOADERS: Final[Mapping[Format, Callable[[bytes, Size, int], Logits]]] = {
    "jax": load_jax_program,
    "onnx": load_onnx_program,
}


@dataclass(frozen=True)
class Predictor:
    """A trained network and what segmenting with it needs.

    Attributes:
      classes: the classes, in the order of the logits.
      normalization: how pixels become the network's input.
      size: `(H, W)` of the network's input, in pixels.
      logits: the network, from images `(1, H, W, 3)` to logits `(1, H, W, classes)`.
    """

    classes: ClassSet
    normalization: Normalization
    size: Size
    logits: Logits

    def segment(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The class of each pixel of an image.

        The image is resized as a whole to the network's input, as in training, and the logits back.

        Args:
          image: the image, `(H, W, 3)` RGB, of any size.

        Returns:
          The classes, `(H, W)`.
        """
        height, width = self.size
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        pixels = self.normalization(np.asarray(small, np.uint8))
        logits = self.logits(pixels[None])
        return most_likely(np.asarray(logits[0], np.float32), image.shape[:2])


def predictor_of_run(opened: SavedRun) -> Predictor:
    """The newest network of a run."""
    state, trainer = opened.state, opened.trainer

    def logits(images: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(trainer.logits(state.params, state.model_state, images))

    return Predictor(opened.classes, opened.normalization, opened.size, logits)


def read_network_file(path: Path) -> Artefact | Weights:
    """Reads a file that stands for a run: an artefact or weights.

    Raises:
      OSError: the file cannot be read.
      UserError: it is neither, or is damaged.
    """
    return read_weights(path) if is_weights(path) else read_artefact(path)


def predictor_of_file(file: Artefact | Weights, path: Path) -> Predictor:
    """The network of a file.

    Args:
      file: what `read_network_file` returned.
      path: the file, for messages.

    Raises:
      UserError: its program is damaged or cannot be run on this machine.
    """
    return _of_weights(file) if isinstance(file, Weights) else _of_artefact(file, path)


def _of_weights(weights: Weights) -> Predictor:
    graph, state = nnx.split(weights.model)

    @jax.jit
    def network(state: nnx.State, images: jax.Array) -> jax.Array:
        result: jax.Array = nnx.merge(graph, state)(images)
        return result

    def logits(images: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(network(state, images), np.float32)

    return Predictor(weights.classes, weights.normalization, weights.size, logits)


def _of_artefact(artefact: Artefact, path: Path) -> Predictor:
    load, classes = _LOADERS[artefact.format], artefact.classes
    try:
        logits = load(artefact.program, artefact.size, len(classes))
    except ArtefactError as error:
        raise unusable(path, error) from error
    return Predictor(classes, artefact.normalization, artefact.size, logits)
