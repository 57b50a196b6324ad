"""Times box convolution on CPU or GPU, beside other ways to compute it and convolutions.

The contestants run in one process, each once in every round; figures are medians over the rounds:

- `box_conv` on planes, on images with channels last (NHWC), and with boxes on whole pixels;
- on CPU its single backends, integral images and overlap matrices, on planes, and the textbook
  form: prefix sums of the image, read at each box's corners, with gradients by autodiff;
- on GPU `implementation="xla"`, which multiplies by overlap matrices there, integral images, and a
  copy of x for each box, on planes;
- XLA's depthwise convolutions on NHWC, 3x3 with dilation 2 and 15x15, with F outputs for each
  channel; on GPU XLA leaves these to cuDNN.

Forward+backward is the output and both gradients; "dx only" and "dtheta only" are the output and
one of them.

The memory floor is the time of a copy that moves as many bytes as have to be moved. These are x and
the output for forward; also g, the gradient with respect to the output, and dx for forward+backward
and "dx only"; also g for "dtheta only". Copies are timed in the same rounds, between arrays that
exist already.

On CPU a run is one call. Copies are made on all cores, and blocks of memory beyond 32 MB are new to
the process at each call. On GPU a run is a program of many calls, on copies of the images that do
not fit into the cache together (see `rotation.py`).

Prints a table for each shape and dtype, and writes JSON.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import jax

from experiments.benchmarks.box_conv import contestants
from experiments.benchmarks.box_conv.contestants import Platform
from experiments.benchmarks.box_conv.measurements import measure, summarize
from experiments.benchmarks.box_conv.methods import Method, method_of
from experiments.benchmarks.box_conv.plots import check_plots, plot
from experiments.benchmarks.box_conv.shapes import (
    DTYPES,
    FULL,
    GPU_SHAPES,
    Direction,
    Shape,
    check_dtypes,
)
from experiments.benchmarks.box_conv.tables import summary_text, table
from experiments.common import report
from experiments.common.command_line import (
    MOST_ROUNDS,
    check_list,
    check_whole,
    read_settings,
)
from experiments.common.memory import check_fits
from experiments.common.program import UserError

_DEFAULT_SHAPES: dict[Platform, tuple[str, ...]] = {
    "cpu": ("1,32,64,128,4", "8,32,64,128,4", "1,16,128,256,4", "1,8,256,512,2", "1,32,128,128,1"),
    "gpu": GPU_SHAPES,
}
_DEFAULT_DTYPES: dict[Platform, tuple[str, ...]] = {"cpu": ("float32",), "gpu": DTYPES}
# The directions of convolutions for each value of --conv.
_CONV_DIRECTIONS: dict[str, tuple[Direction, ...]] = {
    "forward+backward": FULL,
    "forward": ("forward",),
    "none": (),
}


@dataclass(frozen=True)
class Settings:
    """Times box convolution on CPU or GPU."""

    device: Literal["cpu", "gpu"] | None = None
    """Platform to compute on; by default a GPU if there is one."""
    shapes: tuple[str, ...] | None = None
    """Shapes B,C,H,W,F: images, channels, height, width, and boxes for each channel. By default
    1,32,64,128,4 8,32,64,128,4 1,16,128,256,4 1,8,256,512,2 1,32,128,128,1 on CPU and
    8,32,64,128,4 8,16,128,256,4 8,8,256,512,2 on GPU."""
    dtypes: tuple[str, ...] | None = None
    """Dtypes of the images: float32, bfloat16 or both; by default float32 on CPU and both on GPU.
    Boxes are float32."""
    rounds: int = 15
    """Number of times that each contestant is timed. One that would take more than 10 seconds is
    timed less often, but at least once."""
    conv: Literal["forward+backward", "forward", "none"] = "forward+backward"
    """Directions of the depthwise convolutions to time. XLA's gradients take minutes on CPU."""
    plots: bool = False
    """Also plot the time on planes against the size of boxes and of the image, into files beside
    --out, for the first of --shapes and of --dtypes. Images in the latter have 8 channels and are a
    quarter to 8 times as high and wide."""
    out: Path = Path("runs/bench_box_conv.json")
    """JSON file for the figures."""


@dataclass(frozen=True)
class _Plan:
    """Platform, shapes and dtypes to time, checked and with all defaults filled in."""

    platform: Platform
    shapes: list[Shape]
    dtypes: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program."""
    settings = read_settings(Settings, arguments, description=__doc__)
    plan = _plan(settings)
    with method_of(plan.platform) as method:
        _run(settings, plan, method)


def _plan(settings: Settings) -> _Plan:
    platform = settings.device or ("gpu" if jax.default_backend() == "gpu" else "cpu")
    if platform == "gpu" and jax.default_backend() != "gpu":
        raise UserError("--device must be cpu, for JAX found no GPU; got 'gpu'")
    shapes = _DEFAULT_SHAPES[platform] if settings.shapes is None else settings.shapes
    dtypes = _DEFAULT_DTYPES[platform] if settings.dtypes is None else settings.dtypes
    for name, values in (("shapes", shapes), ("dtypes", dtypes)):
        check_list(f"--{name}", values)
    plan = _Plan(platform, [Shape.parse(text) for text in shapes], dtypes)
    check_dtypes(dtypes)
    check_whole("--rounds", settings.rounds, 1, MOST_ROUNDS)
    for shape in plan.shapes:
        check_fits(shape.moved_bytes("float32", "forward+backward"), f"--shapes {shape}")
    report.make_writable(settings.out)
    if settings.plots:
        check_plots(plan.shapes[0], settings.out)
    return plan


def _run(settings: Settings, plan: _Plan, method: Method) -> None:
    baseline = contestants.BASELINES[plan.platform]
    blocks = []
    for dtype in plan.dtypes:
        for shape in plan.shapes:
            conv = _CONV_DIRECTIONS[settings.conv]
            listed = contestants.contestants(shape, dtype, conv, plan.platform)
            blocks.append(measure(shape, dtype, listed, baseline, method, settings.rounds))
            print(table(blocks[-1], settings.rounds), end="\n\n", flush=True)
    summaries = [summarize([b for b in blocks if b.dtype == dtype]) for dtype in plan.dtypes]
    print("\n".join(map(summary_text, summaries)))
    figures: dict[str, object] = {
        "shapes_are": Shape._fields,
        "blocks": [asdict(block) for block in blocks],
        "summaries": [asdict(summary) for summary in summaries],
    }
    if settings.plots:
        figures |= plot(plan.shapes[0], plan.dtypes[0], settings.rounds, method, settings.out)
    report.write(settings.out, figures, jax.devices(plan.platform)[0])
