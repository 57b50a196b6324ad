"""A network as an ONNX model, which many runtimes take."""

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import jax
import numpy as np

from experiments.common.program import UserError, first_line
from experiments.segmentation.artefact import ArtefactError, Logits
from experiments.segmentation.data.source import Size
from jaxbox import surgery
from jaxbox.models import SegmentationNetwork

INPUT: Final = "images"
OUTPUT: Final = "logits"


def to_onnx_program(model: SegmentationNetwork, size: Size) -> bytes:
    """Converts a network to ONNX, for any number of images of one size.

    Args:
      model: the network, in the form for inference, that computes in float32.
      size: `(H, W)` of the images in pixels.

    Returns:
      A serialised model with the input `images` and the output `logits`.

    Raises:
      UserError: the converter is not installed.
    """
    jax2onnx = import_onnx_package("jax2onnx")
    replaced = surgery.boxes_to_matrices(model)

    def network(images: jax.Array) -> jax.Array:
        return replaced(images)

    # The converter does not know the calls of compiled functions that newer JAX has. It warns of
    # every shape that it does not write down.
    with jax.disable_jit(), _silenced("onnx_ir"):
        converted = jax2onnx.to_onnx(
            network, [("number", *size, 3)], input_names=[INPUT], output_names=[OUTPUT]
        )
    return bytes(converted.SerializeToString())


def load_onnx_program(program: bytes, size: Size, classes: int) -> Logits:
    """Opens an ONNX model with onnxruntime.

    Args:
      program: what `to_onnx_program` returned.
      size: `(H, W)` of the images in pixels.
      classes: the number of logits of a pixel.

    Raises:
      ArtefactError: it is no such model, or onnxruntime does not take it.
      UserError: onnxruntime is not installed.
    """
    onnxruntime = import_onnx_package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it logs is in its errors too
    try:
        session = onnxruntime.InferenceSession(
            program, options, providers=onnxruntime.get_available_providers()
        )
    except Exception as error:  # its errors have no other type in common
        raise ArtefactError(f"onnxruntime cannot read its program: {first_line(error)}") from error
    described = [
        (node.name, node.type, tuple(node.shape[1:]))
        for node in (*session.get_inputs(), *session.get_outputs())
    ]
    expected = [(INPUT, (*size, 3)), (OUTPUT, (*size, classes))]
    if described != [(name, "tensor(float)", shape) for name, shape in expected]:
        raise ArtefactError("its program is for images or classes of other numbers")
    return lambda images: np.asarray(session.run([OUTPUT], {INPUT: images})[0])


def import_onnx_package(name: str) -> Any:
    """Imports a package that only ONNX needs.

    Raises:
      UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"ONNX needs the package {error.name}; install the group onnx: uv sync --group onnx"
        ) from error


@contextmanager
def _silenced(name: str) -> Iterator[None]:
    """Keeps a library from logging warnings."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
