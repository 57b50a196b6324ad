"""Writes a run's network as one file that is ready for use, without this project if need be."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import tyro
from flax import nnx

from experiments.common.command_line import read_settings
from experiments.segmentation.artefact import Artefact, Format, artefact_output, encode_artefact
from experiments.segmentation.data.source import Size
from experiments.segmentation.jax_program import to_jax_program
from experiments.segmentation.onnx_program import import_onnx_package, to_onnx_program
from experiments.segmentation.saved_run import SavedRun, check_run, open_run
from experiments.segmentation.training.network import build_network
from experiments.segmentation.weights_file import encode_weights, weights_output
from jaxbox.models import SegmentationNetwork
from jaxbox.models.inference import for_inference

_EXPORTERS: Final[Mapping[Format, Callable[[SegmentationNetwork, Size], bytes]]] = {
    "jax": to_jax_program,
    "onnx": to_onnx_program,
}


@dataclass(frozen=True)
class _Settings:
    """Writes a run's network as one file that is ready for use.

    A program is a zip archive of model.json (the classes with their colours, the normalisation of
    pixels, and the size of the images) and of the network, which runs without this project.
    docs/export.md tells how. `cityscapes_boxenet.py predict` takes the file in the place of a run,
    as it takes weights.
    """

    run: tyro.conf.Positional[Path]
    """Directory of the run, whose newest checkpoint is used."""
    out: Path
    """The file to write; replaced only if it is one of this program of the same format."""
    format: Format | Literal["weights"] = "jax"
    """jax: a program for CPUs, NVIDIA's GPUs and TPUs that jax.export reads. onnx: a model for
    ONNX's runtimes, in float32. weights: safetensors for jaxbox.models.load, which training writes
    by itself."""
    data: str | None = None
    """Where the run's data set is now, such as folder:DIR; only needed for runs of older programs,
    which did not record the names and colours of their classes."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program.

    Args:
      arguments: the arguments of the command line, by default this process's.
    """
    settings = read_settings(_Settings, arguments)
    is_program = settings.format != "weights"
    file = artefact_output(settings.out) if is_program else weights_output(settings.out)
    check_run(settings.run)
    if settings.format == "onnx":
        import_onnx_package("jax2onnx")
    file.check()
    opened = open_run(settings.run, settings.data, history=False)
    content = _content(opened, settings.format)
    file.write(content)
    height, width = opened.size
    print(
        f"{settings.out}: {opened.name} for images of {height}x{width} and "
        f"{len(opened.classes)} classes, {len(content) / 2**20:.3g} MiB"
    )


def _content(opened: SavedRun, form: Format | Literal["weights"]) -> bytes:
    """The content of the file."""
    facts = (opened.classes, opened.normalization, opened.size)
    if form == "weights":
        return encode_weights(opened.trained, opened.settings, *facts)
    # Few of ONNX's runtimes have convolutions in bfloat16.
    model = _in_float32(opened) if form == "onnx" else opened.trained
    program = _EXPORTERS[form](for_inference(model), opened.size)
    return encode_artefact(Artefact(form, program, *facts))


def _in_float32(opened: SavedRun) -> SegmentationNetwork:
    """A run's newest network, computing in float32 whatever it was trained with."""
    settings = dataclasses.replace(opened.settings, precision="float32")
    shapes = nnx.eval_shape(lambda: build_network(settings, len(opened.classes), opened.size))
    model: SegmentationNetwork = nnx.merge(nnx.graphdef(shapes), nnx.state(opened.trained))
    return model
