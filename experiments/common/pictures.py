"""Writing figures and animations so that they are recognised as this project's."""

import io
from collections.abc import Mapping
from typing import Any

from jax.typing import ArrayLike
from matplotlib.figure import Figure

from experiments.common.outputs import OutputFile, mark
from jaxbox import plots
from jaxbox.analysis import BoxLayer


def save_figure(figure: Figure, file: OutputFile, dpi: int) -> None:
    """Writes a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    file.write(mark(buffer.getvalue()))


def save_animation(
    layer: BoxLayer, history: Mapping[str, ArrayLike], file: OutputFile, **options: Any
) -> None:
    """Writes the boxes of a layer through training as a GIF; see `plots.animate_training`."""
    buffer = io.BytesIO()
    plots.animate_training(layer, history, buffer, **options)
    file.write(mark(buffer.getvalue()))
