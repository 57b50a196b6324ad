"""Times each workaround for XLA on CPU on and off, so that one sees which of them still pay.

Two tables are printed, and written as JSON:

- Each workaround with computations that it is for: the time with it and the time without it. If
  the ratio of the second to the first is no longer above 1, the workaround does not pay any more.
- Overlap matrices and integral images for images of several sizes: the ratio of their times says up
  to which size the box convolution should use matrices.

Times are medians of rounds in which all variants of a computation take turns. Forward is the output
alone; backward is the output's gradient with respect to all arguments, the forward pass included.
"""

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

sys.path.append(str(Path(__file__).resolve().parents[2]))  # Where the package `experiments` is.

import jaxbox
from experiments.benchmarks.backend_function import differentiable
from experiments.common import report
from experiments.common.command_line import MOST_ROUNDS, check_whole, read_settings
from experiments.common.program import run
from experiments.common.timing import median_milliseconds
from jaxbox import boxes
from jaxbox_kernels.common.conv import conv
from jaxbox_kernels.common.conv_large_dilation import conv_large_dilation
from jaxbox_kernels.common.conv_large_kernel import conv_large_kernel
from jaxbox_kernels.common.conv_patches import patch_conv, upsampling_conv
from jaxbox_kernels.common.workarounds import Workaround, disabled
from jaxbox_kernels.xla.backend import INTEGRAL_IMAGES, OVERLAP_MATRICES


@dataclass(frozen=True)
class Settings:
    """Times workarounds for XLA on and off."""

    rounds: int = 15
    """Number of times that each computation is timed."""
    backward: bool = True
    """Time gradients too."""
    tiny: bool = False
    """Use tiny images, whose times mean nothing, to see that the program runs."""
    out: Path = Path("runs/bench_xla_workarounds.json")
    """JSON file for the figures."""


class Computation(NamedTuple):
    """A function of arrays that profits from workarounds.

    Attributes:
      name: the name in tables.
      function: computes one array.
      arguments: the function's arguments.
      workarounds: those to be switched off, one at a time.
    """

    name: str
    function: Callable[..., Array]
    arguments: tuple[Array, ...]
    workarounds: tuple[Workaround, ...]


@dataclass(frozen=True)
class Measurement:
    """A line of the first table; the ratio is the time without the workaround to that with it."""

    workaround: str
    computation: str
    direction: str
    milliseconds_on: float
    milliseconds_off: float
    ratio: float


@dataclass(frozen=True)
class FormMeasurement:
    """A line of the second table; the ratio is the time of matrices to that of integral images."""

    size: tuple[int, int]
    direction: str
    milliseconds_matrices: float
    milliseconds_integral_images: float
    ratio: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program."""
    settings = read_settings(Settings, arguments, description=__doc__)
    check_whole("--rounds", settings.rounds, 1, MOST_ROUNDS)
    report.make_writable(settings.out)
    print(f"{'without':26}{'computation':26}{'':10}{'ms on':>9}{'ms off':>9}{'ratio':>8}")
    workarounds = []
    for m in _measure(settings):
        times = f"{m.milliseconds_on:>9.2f}{m.milliseconds_off:>9.2f}{m.ratio:>8.2f}"
        print(f"{m.workaround:26}{m.computation:26}{m.direction:10}{times}")
        workarounds.append(asdict(m))
    print(f"\n{'H + W':26}{'matrices and integrals':26}{'':10}{'ms':>9}{'ms':>9}{'ratio':>8}")
    forms = []
    for f in _measure_forms(settings):
        times = f"{f.milliseconds_matrices:>9.2f}{f.milliseconds_integral_images:>9.2f}"
        print(f"{sum(f.size):<26}{'':26}{f.direction:10}{times}{f.ratio:>8.2f}")
        forms.append(asdict(f))
    report.write(settings.out, {"workarounds": workarounds, "forms": forms})


def _measure(settings: Settings) -> Iterator[Measurement]:
    for computation in _computations(tiny=settings.tiny):
        for direction, function in _directions(computation.function, settings).items():
            runs = {"on": _compile(function, computation.arguments)}
            for workaround in computation.workarounds:
                with disabled(workaround):
                    runs[workaround] = _compile(function, computation.arguments)
            if len(computation.workarounds) > 1:
                with disabled():
                    runs["all"] = _compile(function, computation.arguments)
            times = median_milliseconds(runs, settings.rounds)
            on = times.pop("on")
            for name, off in times.items():
                yield Measurement(name, computation.name, direction, on, off, off / on)


def _measure_forms(settings: Settings) -> Iterator[FormMeasurement]:
    lengths = [(16, 16)] if settings.tiny else [(16, 16), (24, 24), (26, 26), (32, 40), (48, 56)]
    for size in [*lengths, *([] if settings.tiny else [(64, 128)])]:
        arguments = _images_and_boxes(1, 32, *size, 4)
        forms = (OVERLAP_MATRICES, INTEGRAL_IMAGES)
        pair = [_directions(differentiable(form), settings) for form in forms]
        for direction in pair[0]:
            runs = dict(enumerate(_compile(form[direction], arguments) for form in pair))
            times = median_milliseconds(runs, settings.rounds)
            yield FormMeasurement(size, direction, times[0], times[1], times[0] / times[1])


def _computations(*, tiny: bool) -> Iterator[Computation]:
    """The computations that are timed."""
    every = (
        Workaround.COMPUTE_ONCE,
        Workaround.READ_AGAIN,
        Workaround.DO_NOT_FUSE,
        Workaround.BLOCKED_PREFIX_SUMS,
        Workaround.NEIGHBOURING_ROWS,
    )
    planes = functools.partial(jaxbox.box_conv, channel_axis=-3, implementation="xla")
    channels_last = functools.partial(jaxbox.box_conv, implementation="xla")
    shape = (1, 2, 40, 70, 2) if tiny else (1, 32, 64, 128, 4)
    yield Computation(_named("box_conv", shape), planes, _images_and_boxes(*shape), every)
    shape = (2, 2, 40, 70, 2) if tiny else (8, 32, 64, 128, 4)
    chunks = (Workaround.CHUNKS,)
    yield Computation(_named("box_conv", shape), planes, _images_and_boxes(*shape), chunks)
    x, theta = _images_and_boxes(*shape)
    arguments = (jnp.moveaxis(x, 1, -1), theta)
    transposed = (Workaround.SEPARATE_TRANSPOSITIONS, Workaround.CHUNKS)
    yield Computation(_named("NHWC", shape), channels_last, arguments, transposed)
    yield from _convolutions(tiny=tiny)


def _convolutions(*, tiny: bool) -> Iterator[Computation]:
    channels = 2 if tiny else 32

    def arguments(image: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[Array, Array]:
        return _normal((*image, channels), 1), _normal((*kernel, channels, channels), 2)

    yield Computation(
        "27x27 on 4x22x30",
        functools.partial(conv, conv_general_dilated=conv_large_kernel),
        arguments((1, 2, 3) if tiny else (4, 22, 30), (5, 5) if tiny else (27, 27)),
        (Workaround.LARGE_KERNEL_BLOCKS,),
    )
    yield Computation(
        "3x3, dilation 16",
        functools.partial(conv, kernel_dilation=16, conv_general_dilated=conv_large_dilation),
        arguments((1, 20, 20) if tiny else (1, 64, 128), (3, 3)),
        (Workaround.DILATION_BY_ZEROS,),
    )
    image = (1, 4, 6) if tiny else (1, 128, 256)
    products = (Workaround.MATRIX_PRODUCTS,)
    yield Computation("2x2, stride 2", patch_conv, arguments(image, (2, 2)), products)
    yield Computation("3x3, transposed", upsampling_conv, arguments(image, (3, 3)), products)


def _named(name: str, shape: tuple[int, ...]) -> str:
    return f"{name} {'x'.join(map(str, shape))}"


def _directions(
    function: Callable[..., Array], settings: Settings
) -> dict[str, Callable[..., Any]]:
    """The function itself and, if asked for, its gradient with respect to both arguments."""

    def loss(*arguments: Array) -> Array:
        return jnp.sum(jnp.square(function(*arguments)))

    backward = {"backward": jax.grad(loss, (0, 1))} if settings.backward else {}
    return {"forward": function, **backward}


def _compile(function: Callable[..., Any], arguments: tuple[Array, ...]) -> Callable[[], Any]:
    compiled = jax.jit(function).lower(*arguments).compile()
    return functools.partial(compiled, *arguments)


def _images_and_boxes(N: int, C: int, H: int, W: int, F: int) -> tuple[Array, Array]:
    """Planes `(N, C, H, W)`, and boxes `(C, F, 4)` as a layer draws them."""
    return _normal((N, C, H, W), 0), boxes.sample(jax.random.key(3), (C, F), (H, W))


def _normal(shape: tuple[int, ...], seed: int) -> Array:
    return jax.random.normal(jax.random.key(seed), shape)


if __name__ == "__main__":
    run(main)
