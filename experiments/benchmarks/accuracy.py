"""Measures how far each backend of the box convolution is from the float64 oracle, for each dtype.

Every pair of two kinds of image, one for `x` and one for the gradient `g` of the output, is a
channel of its own: a step, a ramp, rows of very different size, one outlier, a photograph and
noise. Boxes are of all kinds: inside the image, partly outside, one pixel wide, larger than the
image.

Errors are in the units of the contract of accuracy (`docs/design.md`), and so are relative to the
magnitudes that are summed. Inputs are rounded to the dtype first, and the oracle gets the rounded
ones: the figures tell what the backend adds, the rounding of its results to the dtype included. For
float64 they contain the oracle's own rounding errors. Mosaic kernels are interpreted, which takes
minutes for a few planes, and so they get smaller images. The figures are the largest of all draws.
Prints two tables and writes JSON.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import mosaic_gpu as plgpu

from experiments.common import report
from experiments.common.command_line import check_list, check_seed, check_whole, read_settings
from experiments.common.image_size import parse_size
from experiments.common.memory import check_fits
from experiments.common.program import UserError
from jaxbox_kernels import cpu, mosaic_gpu
from jaxbox_kernels.backend import Backend, Options
from jaxbox_kernels.xla.backend import (
    INTEGRAL_IMAGES,
    OVERLAP_MATRICES,
    OVERLAP_MATRICES_IN_FLOAT32,
    with_wide_sums,
)
from tests.cases import contract, images
from tests.cases.box_conv import boxes_of_all_kinds

_DTYPES: Final = ("float32", "bfloat16", "float16", "float64")
_KINDS: Final = {
    "step": "step 1 to 0 along y",
    "ramp": "ramp",
    "rows of different size": "rows of different size",
    "outlier": "outlier",
    "photograph": "photograph",
    "noise": "noise",
}
_COLUMNS: Final = {
    "forward": "forward",
    "own mean": "forward, of the box's own mean",
    "dx": "dx",
    "dtheta": "dtheta",
}
_BOXES = 4
_MOST_DRAWS = 1000


def _interpreted() -> AbstractContextManager[Any]:
    return plgpu.force_gpu_interpret_mode(plgpu.InterpretGPUParams())


class _Measured(NamedTuple):
    """A backend to measure.

    Attributes:
      load: returns the backend.
      dtypes: those that it serves.
      machine: the context in which it runs.
      is_slow: whether it gets the smaller images.
    """

    load: Callable[[], Backend]
    dtypes: tuple[str, ...] = _DTYPES
    machine: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext
    is_slow: bool = False


_BACKENDS: Final = {
    "native": _Measured(cpu.load),
    "overlap matrices": _Measured(lambda: with_wide_sums(OVERLAP_MATRICES)),
    "overlap matrices in float32": _Measured(
        lambda: with_wide_sums(OVERLAP_MATRICES_IN_FLOAT32), _DTYPES[:3]
    ),
    "integral images": _Measured(lambda: with_wide_sums(INTEGRAL_IMAGES)),
    "mosaic, interpreted": _Measured(
        # Another name, or programs for a GPU would be found compiled.
        lambda: replace(mosaic_gpu.load(), name="mosaic_gpu, interpreted"),
        _DTYPES[:2],
        _interpreted,
        is_slow=True,
    ),
}


@dataclass(frozen=True)
class Settings:
    """Measures the accuracy of each backend of the box convolution, for each dtype."""

    size: str = "64x128"
    """Height and width of the images."""
    interpreted_size: str = "4x128"
    """The same for kernels that are interpreted."""
    draws: int = 5
    """Number of times that images and boxes are drawn."""
    seed: int = 0
    """Seed of the first draw."""
    backends: tuple[str, ...] = tuple(_BACKENDS)
    """Backends to measure."""
    dtypes: tuple[str, ...] = _DTYPES
    """Dtypes of the images, of those that a backend serves."""
    out: Path = Path("runs/bench_accuracy.json")
    """JSON file for the figures."""


@dataclass(frozen=True)
class Measurement:
    """The largest errors of a backend for a dtype.

    Attributes:
      backend: the name of the backend.
      dtype: the dtype of the images.
      image: the kind of image of `x`.
      size: `(H, W)`.
      errors: the largest error of each column of the tables.
    """

    backend: str
    dtype: str
    image: str
    size: tuple[int, int]
    errors: dict[str, float]


class _Drawn(NamedTuple):
    """Arguments of a backend; channels are pairs of a kind of `x` and a kind of `g`."""

    x: np.ndarray
    theta: np.ndarray
    g: np.ndarray


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program."""
    settings = read_settings(Settings, arguments, description=__doc__)
    check_whole("--draws", settings.draws, 1, _MOST_DRAWS)
    check_seed("--seed", settings.seed)
    sizes = (
        _parse_size("--size", settings.size),
        _parse_size("--interpreted-size", settings.interpreted_size),
    )
    _check_names("--backends", settings.backends, tuple(_BACKENDS))
    _check_names("--dtypes", settings.dtypes, _DTYPES)
    report.make_writable(settings.out)
    measurements: list[Measurement] = []
    for name in settings.backends:
        measured = _BACKENDS[name]
        size = sizes[measured.is_slow]
        for dtype in settings.dtypes:
            if dtype in measured.dtypes:
                measurements += _measure(name, dtype, size, settings)
    _print_tables(measurements)
    report.write(settings.out, {"measurements": [asdict(m) for m in measurements]})


def _parse_size(option: str, text: str) -> tuple[int, int]:
    height, width = parse_size(option, text)
    planes = len(_KINDS) ** 2 * (2 * _BOXES + 2)
    check_fits(8 * planes * height * width, f"{option} {text}")
    return height, width


def _check_names(option: str, names: Sequence[str], known: Sequence[str]) -> None:
    check_list(option, names)
    for name in names:
        if name not in known:
            raise UserError(f"{option} must be of {', '.join(known)}; got {name!r}")


def _measure(
    name: str, dtype: str, size: tuple[int, int], settings: Settings
) -> Iterator[Measurement]:
    """Measures a backend for a dtype: one result for each kind of image."""
    worst = {kind: dict.fromkeys(_COLUMNS, 0.0) for kind in _KINDS}
    measured = _BACKENDS[name]
    backend = measured.load()
    if name == "native" and (reason := _why_not(backend)):
        raise UserError(f"--backends: native cannot serve: {reason}")
    run = _compile(backend)
    with measured.machine(), jax.enable_x64(dtype == "float64"):
        for draw in range(settings.draws):
            drawn = _draw(np.random.default_rng(settings.seed + draw), size, dtype)
            results = [np.asarray(each, np.float64) for each in run(*drawn)]
            for kind, errors in _errors(drawn, results):
                for column, error in errors.items():
                    worst[kind][column] = max(worst[kind][column], error)
    for kind, errors in worst.items():
        yield Measurement(name, dtype, kind, size, errors)


def _why_not(backend: Backend) -> str | None:
    return backend.unsuitable(jax.ShapeDtypeStruct((1, 1, 1, 1), jnp.float32), 1)


def _draw(rng: np.random.Generator, size: tuple[int, int], dtype: str) -> _Drawn:
    kinds = list(_KINDS.values())
    channels = len(kinds) ** 2
    x = images.planes(rng, (1, channels, *size), kinds=[kind for kind in kinds for _ in kinds])
    of_boxes = [images.planes(rng, (1, channels, *size), kinds=kinds) for _ in range(_BOXES)]
    theta = boxes_of_all_kinds(rng, (channels, _BOXES), size)
    numbers = jnp.dtype(dtype)
    return _Drawn(
        x.astype(numbers),
        theta.astype(np.float64 if dtype == "float64" else np.float32),
        np.stack(of_boxes, axis=2).astype(numbers),
    )


def _compile(backend: Backend) -> Callable[..., tuple[Any, Any, Any]]:
    """A function of `x`, `theta` and `g` that returns the output and both gradients."""

    @jax.jit
    def run(x: jax.Array, theta: jax.Array, g: jax.Array) -> tuple[Any, Any, Any]:
        return backend.forward(x, theta, Options()), *backend.backward(x, theta, g, Options())

    return run


def _errors(drawn: _Drawn, results: Sequence[np.ndarray]) -> Iterator[tuple[str, dict[str, float]]]:
    """The largest error of each column, for each kind of image of `x`."""
    output, dx, dtheta = results
    x, g = (planes.astype(np.float64) for planes in (drawn.x, drawn.g))
    for number, kind in enumerate(_KINDS):
        part = slice(number * len(_KINDS), (number + 1) * len(_KINDS))
        expected = contract.expect(x[:, part], drawn.theta[part], g[:, part], normalize=True)
        figures = contract.figures((output[:, part], dx[:, part], dtheta[part]), expected)
        if figures["not finite"]:
            raise ArithmeticError(f"{kind}: {figures['not finite']:.0f} results are not finite")
        yield kind, {column: figures[line] for column, line in _COLUMNS.items()}


def _print_tables(measurements: Sequence[Measurement]) -> None:
    """Prints the largest errors of all kinds of image, and those of each kind for float32."""
    _print_header("dtype")
    pairs = dict.fromkeys((m.backend, m.dtype) for m in measurements)
    for backend, dtype in pairs:
        of_pair = [m.errors for m in measurements if (m.backend, m.dtype) == (backend, dtype)]
        worst = {column: max(errors[column] for errors in of_pair) for column in _COLUMNS}
        _print_line(backend, dtype, worst)
    _print_header("image, float32")
    for m in measurements:
        if m.dtype == "float32":
            _print_line(m.backend, m.image, m.errors)


def _print_header(kind: str) -> None:
    print(f"\n| backend | {kind} | {' | '.join(_COLUMNS)} |\n|{'---|' * (len(_COLUMNS) + 2)}")


def _print_line(backend: str, kind: str, errors: dict[str, float]) -> None:
    print(f"| {backend} | {kind} | {' | '.join(f'{error:.1e}' for error in errors.values())} |")
