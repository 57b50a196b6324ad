"""Writes a run's network as one file that is ready for use, without this project if need be."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import tyro

from experiments.common.command_line import read_settings
from experiments.common.program import UserError
from experiments.segmentation.artefact import Artefact, Format, artefact_output, encode_artefact
from experiments.segmentation.data.source import Size
from experiments.segmentation.jax_program import to_jax_program
from experiments.segmentation.onnx_program import import_onnx_package, to_onnx_program
from experiments.segmentation.saved_run import open_run
from experiments.segmentation.training.run_directory import read_settings as read_run_settings
from jaxbox.models import SegmentationNetwork
from jaxbox.models.inference import for_inference

_EXPORTERS: Final[Mapping[Format, Callable[[SegmentationNetwork, Size], bytes]]] = {
    "jax": to_jax_program,
    "onnx": to_onnx_program,
}


@dataclass(frozen=True)
class _Settings:
    """Writes a run's network as one file that is ready for use.

    The file is a zip archive of model.json (the classes with their colours, the normalisation of
    pixels, and the size of the images) and of the network, which runs without this project.
    docs/export.md tells how. `cityscapes_boxenet.py predict` takes the file in the place of a run.
    """

    run: tyro.conf.Positional[Path]
    """Directory of the run, whose newest checkpoint is used."""
    out: Path
    """The file to write; replaced only if it is an artefact of this program."""
    format: Format = "jax"
    """jax: a program for CPUs, NVIDIA's GPUs and TPUs that jax.export reads. onnx: a model for
    ONNX's runtimes."""
    data: str | None = None
    """Where the run's data set is now, such as folder:DIR; only needed for runs of older programs,
    which did not record the names and colours of their classes."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program.

    Args:
      arguments: the arguments of the command line, by default this process's.
    """
    settings = read_settings(_Settings, arguments)
    file = artefact_output(settings.out)
    _check_format(settings)
    file.check()
    opened = open_run(settings.run, settings.data, history=False)
    model = for_inference(opened.trained)
    program = _EXPORTERS[settings.format](model, opened.size)
    artefact = Artefact(settings.format, program, opened.classes, opened.normalization, opened.size)
    content = encode_artefact(artefact)
    file.write(content)
    height, width = opened.size
    print(
        f"{settings.out}: {opened.name} for images of {height}x{width} and "
        f"{len(opened.classes)} classes, {len(content) / 2**20:.3g} MiB"
    )


def _check_format(settings: _Settings) -> None:
    """Raises `UserError` unless the run can be exported in the format that is asked for."""
    precision = read_run_settings(settings.run).precision
    if settings.format != "onnx":
        return
    if precision != "float32":
        raise UserError(
            f"--format must be jax for a run with --precision {precision}, since ONNX's runtimes "
            "have few operations in that precision; got onnx"
        )
    import_onnx_package("jax2onnx")
