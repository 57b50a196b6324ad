"""Times the sister layers beside the plain convolution of the same kernel size.

- DCLS with 34 taps in a 17x17 kernel, as in training, where each call builds the kernel, and
  folded; one image is smaller than the kernel
- octave convolution with alpha 0.5, 3x3, on 64 channels of 128x256 pixels
- DO-Conv, 3x3, as in training and folded

Times are medians of rounds in which the layers take turns; only the ratios to the plain convolution
carry over to other machines. Forward is the compiled layer, with its parameters as arguments;
backward is the gradient with respect to input and parameters, which includes the forward pass.
Prints a table and writes JSON.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.common import report
from experiments.common.command_line import MOST_ROUNDS, check_whole, read_settings
from experiments.common.timing import median_milliseconds
from jaxbox.layers import DclsConv, DOConv, OctConv


@dataclass(frozen=True)
class Settings:
    """Times the sister layers beside plain convolutions."""

    rounds: int = 15
    """Number of times that each layer is timed."""
    backward: bool = True
    """Time gradients too."""
    out: Path = Path("runs/bench_sister_layers.json")
    """JSON file for the figures."""


class Case(NamedTuple):
    """Layers for the same task.

    Attributes:
      name: the name in tables.
      layers: the layers by name; the others are compared with the first.
      inputs: the input of a layer by its name; layers without one of their own get that of `""`.
    """

    name: str
    layers: dict[str, nnx.Module]
    inputs: dict[str, Any]


@dataclass(frozen=True)
class Measurement:
    """A line of the table; the ratio is to the plain convolution in the same case and direction."""

    case: str
    direction: str
    layer: str
    milliseconds: float
    ratio: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program."""
    settings = read_settings(Settings, arguments, description=__doc__)
    check_whole("--rounds", settings.rounds, 1, MOST_ROUNDS)
    report.make_writable(settings.out)
    print(f"{'':34}{'':10}{'ms':>9}{'ratio':>8}")
    measurements = []
    for m in _measure(settings):
        print(f"{m.case:34}{m.direction:10}{m.milliseconds:>9.2f}{m.ratio:>8.3f}  {m.layer}")
        measurements.append(asdict(m))
    report.write(settings.out, {"measurements": measurements})


def _measure(settings: Settings) -> Iterator[Measurement]:
    directions = {"forward": _forward} | ({"backward": _backward} if settings.backward else {})
    for case in _cases():
        for direction, compiled in directions.items():
            runs = {
                layer: compiled(module, case.inputs.get(layer, case.inputs[""]))
                for layer, module in case.layers.items()
            }
            times = median_milliseconds(runs, settings.rounds)
            base = next(iter(times.values()))
            for layer, own in times.items():
                yield Measurement(case.name, direction, layer, own, own / base)


def _cases() -> list[Case]:
    rngs = nnx.Rngs(0)
    return [*_dcls_cases(rngs), *_small_kernel_cases(rngs)]


def _dcls_cases(rngs: nnx.Rngs) -> Iterator[Case]:
    for channels, groups, size in (
        (64, 1, (4, 64, 64)),
        (64, 1, (1, 32, 32)),
        (64, 1, (8, 14, 14)),
        (96, 96, (4, 56, 56)),
    ):
        task = (channels, channels, (17, 17))
        plain = nnx.Conv(*task, feature_group_count=groups, rngs=rngs)
        dcls = DclsConv(*task, 34, feature_group_count=groups, rngs=rngs)
        layers = {"plain": plain, "DCLS": dcls, "folded": dcls.fold()}
        shape = "x".join(map(str, (*size, channels)))
        name = f"17x17, {shape}{', depthwise' if groups > 1 else ''}"
        yield Case(name, layers, {"": _normal((*size, channels))})


def _small_kernel_cases(rngs: nnx.Rngs) -> Iterator[Case]:
    plain = nnx.Conv(64, 64, (3, 3), rngs=rngs)
    octaves = {"plain": plain, "octave": OctConv(64, 64, (3, 3), rngs=rngs)}
    pair = (_normal((1, 128, 256, 32)), _normal((1, 64, 128, 32)))
    inputs = {"": _normal((1, 128, 256, 64)), "octave": pair}
    yield Case("3x3, 1x128x256x64", octaves, inputs)
    doconv = DOConv(64, 64, (3, 3), rngs=rngs)
    layers = {"plain": plain, "DO-Conv": doconv, "folded": doconv.fold()}
    yield Case("3x3, 4x64x64x64", layers, {"": _normal((4, 64, 64, 64))})


def _normal(shape: tuple[int, ...]) -> jax.Array:
    return jax.random.normal(jax.random.key(1), shape)


def _forward(layer: nnx.Module, x: Any) -> Callable[[], Any]:
    graph, params = nnx.split(layer)
    call = jax.jit(lambda params, x: nnx.merge(graph, params)(x))
    return partial(call, params, x)


def _backward(layer: nnx.Module, x: Any) -> Callable[[], Any]:
    graph, params = nnx.split(layer)

    def loss(params: Any, x: Any) -> jax.Array:
        outputs = jax.tree.leaves(nnx.merge(graph, params)(x))
        return jnp.stack([jnp.square(y).sum() for y in outputs]).sum()

    return partial(jax.jit(jax.grad(loss, (0, 1))), params, x)
