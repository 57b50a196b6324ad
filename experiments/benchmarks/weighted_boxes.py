"""Times weighted boxes beside what they replace and what they are made of.

- a plain convolution with a large kernel
- a box convolution and a 1x1 convolution of all of its outputs
- weighted boxes, the same function as one operation

all with 32 input and 32 output channels and 4 boxes for each input channel, on images that
--shapes gives. Forward is the compiled layer, with its parameters as arguments; backward is the
output with the gradients with respect to input and parameters. Each program runs twice in its turn,
and the second run is timed, so that no other program's data are in the caches. Times are medians of
rounds in which the programs take turns; only ratios carry over to other machines. Temporaries are
the memory that XLA allocates besides arguments and results. Prints a table and writes JSON.
"""

import functools
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import jax
from flax import nnx

from experiments.benchmarks.box_conv.compilation import compile_once
from experiments.common import report
from experiments.common.command_line import MOST_ROUNDS, check_list, check_whole, read_settings
from experiments.common.memory import check_fits
from experiments.common.program import UserError
from experiments.common.timing import take_turns
from jaxbox.layers import BoxConv, WeightedBoxConv

_CHANNELS: Final = 32
_BOXES: Final = 4
_MOST_TAPS: Final = 63


@dataclass(frozen=True)
class Settings:
    """Times weighted boxes beside a large convolution and beside their composition."""

    shapes: tuple[str, ...] = ("8x64x128",)
    """Sizes of the input: number of images, height and width."""
    kernel: int = 15
    """Height and width of the plain convolution's kernel, in pixels."""
    rounds: int = 15
    """Number of times that each layer is timed."""
    out: Path = Path("runs/bench_weighted_boxes.json")
    """JSON file for the figures."""


@dataclass(frozen=True)
class Measurement:
    """A line of the table.

    Attributes:
      shape: the size of the input.
      layer: the name of the layer.
      direction: forward or backward.
      parameters: the number of the layer's parameters.
      milliseconds: the median time.
      temporary_bytes: the memory besides arguments and results.
    """

    shape: str
    layer: str
    direction: str
    parameters: int
    milliseconds: float
    temporary_bytes: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program."""
    settings = read_settings(Settings, arguments, description=__doc__)
    check_whole("--rounds", settings.rounds, 1, MOST_ROUNDS)
    check_whole("--kernel", settings.kernel, 1, _MOST_TAPS)
    check_list("--shapes", settings.shapes)
    shapes = {text: _parse_shape(text) for text in settings.shapes}
    report.make_writable(settings.out)
    print(f"| images | layer | parameters | direction | ms | temporaries, MB |\n|{'---|' * 6}")
    measurements = []
    for text, shape in shapes.items():
        for m in _measure(text, shape, settings):
            megabytes = m.temporary_bytes / 1e6
            print(
                f"| {m.shape} | {m.layer} | {m.parameters:,} | {m.direction} "
                f"| {m.milliseconds:.1f} | {megabytes:.1f} |"
            )
            measurements.append(asdict(m))
    report.write(settings.out, {"measurements": measurements})


def _parse_shape(text: str) -> tuple[int, int, int]:
    if not re.fullmatch(r"[1-9][0-9]{0,4}(x[1-9][0-9]{0,4}){2}", text):
        raise UserError(f"--shapes must be IMAGESxHEIGHTxWIDTH such as 8x64x128; got {text!r}")
    images, height, width = map(int, text.split("x"))
    of_averages = 4 * images * height * width * _CHANNELS * _BOXES
    check_fits(2 * of_averages, f"--shapes {text}")
    return images, height, width


def _measure(text: str, shape: tuple[int, int, int], settings: Settings) -> Iterator[Measurement]:
    x, g = (jax.random.normal(jax.random.key(seed), (*shape, _CHANNELS)) for seed in (0, 1))
    layers = _layers(shape[1:], settings.kernel)
    directions: dict[str, tuple[Callable[..., Any], tuple[jax.Array, ...]]] = {
        "forward": (_forward, (x,)),
        "backward": (_backward, (x, g)),
    }
    for direction, (make, arguments) in directions.items():
        compiled = {}
        runs = {}
        for name, layer in layers.items():
            graph, params = nnx.split(layer)
            inputs: tuple[Any, ...] = (params, *arguments)
            compiled[name] = compile_once(make(graph), inputs)
            runs[name] = functools.partial(_second_run, compiled[name].executable, inputs)
        times = take_turns(runs, dict.fromkeys(runs, 1), settings.rounds)
        for name, seconds in times.items():
            yield Measurement(
                text,
                name,
                direction,
                sum(p.size for p in jax.tree.leaves(nnx.state(layers[name], nnx.Param))),
                1000 * statistics.median(seconds),
                compiled[name].temporary_bytes,
            )


def _layers(size: tuple[int, int], kernel: int) -> dict[str, nnx.Module]:
    rngs = nnx.Rngs(0)
    composed = nnx.Sequential(
        BoxConv(_CHANNELS, _BOXES, window=size, rngs=rngs),
        nnx.Linear(_CHANNELS * _BOXES, _CHANNELS, rngs=rngs),
    )
    return {
        f"{kernel}x{kernel} convolution": nnx.Conv(_CHANNELS, _CHANNELS, (kernel,) * 2, rngs=rngs),
        "box and 1x1 convolution": composed,
        "weighted boxes": WeightedBoxConv(_CHANNELS, _CHANNELS, _BOXES, window=size, rngs=rngs),
    }


def _forward(graph: Any) -> Callable[..., jax.Array]:
    return lambda params, x: nnx.merge(graph, params)(x)


def _backward(graph: Any) -> Callable[..., Any]:
    def differentiate(params: Any, x: jax.Array, g: jax.Array) -> Any:
        output, pull_back = jax.vjp(_forward(graph), params, x)
        return output, pull_back(g)

    return differentiate


def _second_run(run: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    """The seconds that a program takes right after it has run before."""
    jax.block_until_ready(run(*arguments))
    start = time.perf_counter()
    jax.block_until_ready(run(*arguments))
    return time.perf_counter() - start
