"""Plots of the time of box convolution on planes, against the size of boxes and of the image."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jax import Array
from matplotlib.figure import Figure

from experiments.benchmarks.box_conv import compilation
from experiments.benchmarks.box_conv.contestants import (
    PLANES,
    box_conv_planes,
    images,
    sample_boxes,
    square_boxes,
)
from experiments.benchmarks.box_conv.measurements import floor
from experiments.benchmarks.box_conv.methods import Method
from experiments.benchmarks.box_conv.shapes import FULL, Direction, Shape
from experiments.benchmarks.box_conv.timed_calls import Timed, time_calls
from experiments.common.memory import check_fits
from experiments.common.outputs import OutputFile, picture
from experiments.common.pictures import save_figure
from experiments.common.program import UserError

# Factors on height and width, in the plot against the size of the image.
_IMAGE_SCALES = (0.25, 0.5, 1, 2, 4, 8)
_LEAST_SIDE = 8  # of the image, so that there are several sizes of boxes and of smaller images
_PLOTS = ("by_box_size", "by_image_size")
_IMAGE_CHANNELS = 8  # With more the largest image would take gigabytes.


@dataclass(frozen=True, eq=False)
class Case:
    """The input of one point of a plot.

    Attributes:
      size: the position on the plot's axis.
      shape: the shape of images and boxes.
      theta: the boxes, `(C, F, 4)` in pixels.
    """

    size: int
    shape: Shape
    theta: Array


class Point(NamedTuple):
    """A point of a plot; `size` is the side of a box in pixels, or the area of an image."""

    size: int
    direction: Direction
    milliseconds: float
    floor_milliseconds: float


def plot(shape: Shape, dtype: str, rounds: int, method: Method, out: Path) -> dict[str, object]:
    """Times box convolution on planes against both sizes, and draws plots beside `out`.

    Args:
      shape: the shape of images and boxes.
      dtype: the dtype of images.
      rounds: the number of rounds.
      method: how to time on this platform.
      out: the file of the figures, to whose name the names of the plots are added.

    Returns:
      The points of both plots, as JSON values.
    """
    by_box = _time_cases(cases_by_box_size(shape), dtype, rounds, method)
    by_image = _time_cases(_cases_by_image_size(shape), dtype, rounds, method)
    figures = {
        "by_box_size": _draw(
            by_box,
            title=f"{PLANES}, {dtype}, B,C,H,W,F = {shape}",
            xlabel="side of every box, pixels",
            yscale="linear",
        ),
        "by_image_size": _draw(
            by_image,
            title=f"{PLANES}, {dtype}, B,C,F = {shape.B},{_IMAGE_CHANNELS},{shape.F}",
            xlabel="pixels of an image",
            yscale="log",
        ),
    }
    for name, figure in figures.items():
        file = _plot_file(out, name)
        save_figure(figure, file, dpi=150)
        print(f"plot {name.replace('_', ' ')} is in {file.path}")
    print(_box_size_text(by_box))
    return {
        "by_box_size": [point._asdict() for point in by_box],
        "by_image_size": [point._asdict() for point in by_image],
    }


def check_plots(shape: Shape, out: Path) -> None:
    """Checks that both plots of a shape can be drawn and written; for the arguments see `plot`.

    Raises:
      UserError: the images are too small, do not fit into memory when they are enlarged, or the
        files of the plots cannot be written.
    """
    if min(shape.H, shape.W) < _LEAST_SIDE:
        raise UserError(
            f"--plots needs images of at least {_LEAST_SIDE} x {_LEAST_SIDE} pixels; "
            f"got --shapes {shape}"
        )
    sizes = [s.moved_bytes("float32", "forward+backward") for s in _shapes_by_image_size(shape)]
    check_fits(sum(sizes), f"--plots of --shapes {shape}, whose images are enlarged,")
    for name in _PLOTS:
        _plot_file(out, name).check()


def _plot_file(out: Path, name: str) -> OutputFile:
    return picture(out.with_name(f"{out.stem}_{name}.png"))


def cases_by_box_size(shape: Shape) -> list[Case]:
    """Square boxes of one size in each case, from 2 pixels up to the width of the image."""
    sides = {2**power for power in range(1, shape.W.bit_length())} | {shape.W}
    return [Case(side, shape, square_boxes(shape, side)) for side in sorted(sides)]


def _cases_by_image_size(shape: Shape) -> list[Case]:
    """Images from a quarter to 8 times as high and wide, with boxes as layers initialise them."""
    return [
        Case(sized.H * sized.W, sized, sample_boxes(sized))
        for sized in _shapes_by_image_size(shape)
    ]


def _shapes_by_image_size(shape: Shape) -> list[Shape]:
    return [
        shape._replace(C=_IMAGE_CHANNELS, H=math.ceil(s * shape.H), W=math.ceil(s * shape.W))
        for s in _IMAGE_SCALES
    ]


def _time_cases(cases: Sequence[Case], dtype: str, rounds: int, method: Method) -> list[Point]:
    """Times box convolution on planes; cases of one shape share a compiled program."""
    given = {shape: images(shape, dtype)["planes"] for shape in {case.shape for case in cases}}
    functions = {direction: compilation.function(box_conv_planes, direction) for direction in FULL}
    compiled: dict[tuple[Shape, Direction], compilation.Compiled] = {}
    timed: dict[tuple[Case, Direction], Timed] = {}
    for case, direction in itertools.product(cases, FULL):
        function = functions[direction]
        arguments = compilation.arguments(direction, given[case.shape], case.theta)
        key = case.shape, direction
        if key not in compiled:
            compiled[key] = compilation.compile_once(function, arguments)
        timed[case, direction] = method.prepare(function, arguments, compiled[key])
    timings, bytes_per_second = time_calls(timed, method.copying, rounds)
    return [
        Point(
            case.size,
            direction,
            timing.milliseconds,
            floor(case.shape, dtype, direction, bytes_per_second),
        )
        for (case, direction), timing in timings.items()
    ]


def _draw(points: Sequence[Point], *, title: str, xlabel: str, yscale: str) -> Figure:
    """Draws times against sizes, and the memory floor as dashed lines."""
    figure = Figure((6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for direction, color in zip(FULL, ("C0", "C1"), strict=True):
        line = [point for point in points if point.direction == direction]
        sizes = [point.size for point in line]
        axes.plot(sizes, [p.milliseconds for p in line], color=color, marker=".", label=direction)
        floors = [point.floor_milliseconds for point in line]
        axes.plot(sizes, floors, color=color, linestyle="--", label=f"{direction}, memory floor")
    axes.set(title=title, xlabel=xlabel, ylabel="ms", xscale="log", yscale=yscale)
    if yscale == "linear":
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def _box_size_text(points: Sequence[Point]) -> str:
    """A sentence that compares the time of the largest boxes with that of the smallest."""
    ratios = []
    for direction in FULL:
        smallest, *_, largest = (point for point in points if point.direction == direction)
        ratio = largest.milliseconds / smallest.milliseconds
        ratios.append(f"{ratio:.2f} times as long ({direction})")
    return f"boxes as wide as the image take {' and '.join(ratios)} as boxes of 2 pixels"
