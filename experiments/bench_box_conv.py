"""Times the box convolution on CPU, beside other ways to compute it and beside convolutions.

Contestants, all in one process; in each round every one of them runs once, and the figures are
medians over the rounds:

- `box_conv` on planes, on images with channels last (NHWC), and with boxes of whole pixels;
- its implementations by themselves, integral images and overlap matrices, on planes;
- the textbook form: prefix sums of the image read at each box's corners, gradients by autodiff;
- XLA's depthwise convolutions on NHWC, 3x3 with dilation 2 and 15x15, F outputs a channel.

Forward+backward is the output and both gradients, given a gradient by the output; "dx only" and
"dtheta only" are the output and one of them.

The memory floor is the time of a copy that moves as many bytes as have to be moved: x and the
output for forward; g, the gradient by the output, and dx on top for forward+backward and "dx only";
g on top for "dtheta only". Copies are timed in the same rounds, on all cores, between arrays that
exist already; what a contestant returns or needs beyond 32 MB is new to the process at each call.

Prints a table for each shape and dtype, and writes JSON.
"""

import itertools
import json
import math
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax import Array, lax
from matplotlib.figure import Figure

import jaxbox
from jaxbox import boxes
from jaxbox_kernels import integral_image, overlap_matrices

_DTYPES = ("float32", "bfloat16")
# With more rows and columns together, matrices are far behind integral images.
_LARGEST_MATRIX_SIDES = 400
# Of a contestant, in all rounds together: XLA's gradients of convolutions take up to minutes each.
_LONGEST_SECONDS = 10.0
# Several times what caches hold.
_COPIED_BYTES = 2**27

type Layout = Literal["planes", "NHWC"]
type Direction = Literal["forward", "forward+backward", "forward+dx", "forward+dtheta"]
type Layer = Callable[[Array, Array], Array]  # Of images, and boxes or a kernel.
type Run = Callable[[], object]

_FULL: tuple[Direction, ...] = ("forward", "forward+backward")
_FULL_AND_PARTS: tuple[Direction, ...] = (*_FULL, "forward+dx", "forward+dtheta")
# Which arguments of a layer the gradients are by.
_GRADIENTS_BY: dict[Direction, tuple[int, ...]] = {
    "forward+backward": (0, 1),
    "forward+dx": (0,),
    "forward+dtheta": (1,),
}
# Of rows and of columns, in the plot against the image's size.
_IMAGE_SCALES = (0.25, 0.5, 1, 2, 4, 8)
_IMAGE_CHANNELS = 8  # With more the largest image would take gigabytes.
# The values of --conv.
_CONVOLVED: dict[str, tuple[Direction, ...]] = {
    "forward+backward": _FULL,
    "forward": ("forward",),
    "none": (),
}
_box_conv_planes = partial(jaxbox.box_conv, channel_axis=-3)
_PLANES, _NHWC, _TEXTBOOK = "box_conv planes", "box_conv NHWC", "textbook"


@dataclass(frozen=True)
class Settings:
    """Times the box convolution on CPU."""

    shapes: tuple[str, ...] = (
        "1,32,64,128,4",
        "8,32,64,128,4",
        "1,16,128,256,4",
        "1,8,256,512,2",
        "1,32,128,128,1",
    )
    """B,C,H,W,F each: images, channels, rows, columns, and boxes of each channel."""
    dtypes: tuple[str, ...] = ("float32",)
    """Of the images: float32, bfloat16 or both. Boxes are float32."""
    rounds: int = 15
    """How often each contestant is timed. One that would take more than 10 seconds is timed less
    often, but once at least."""
    conv: Literal["forward+backward", "forward", "none"] = "forward+backward"
    """What of the depthwise convolutions to time. XLA's gradients take minutes in all."""
    plots: bool = False
    """Also time planes against the sizes of boxes and of the image, and draw both beside --out: at
    the first of --shapes and of --dtypes; images with 8 channels, from a quarter to 8 times as high
    and wide."""
    out: Path = Path("runs/bench_box_conv.json")
    """Where the figures go."""


class UsageError(Exception):
    """An argument is not allowed; the message says what is."""


class Shape(NamedTuple):
    """Images, channels, rows, columns, and boxes of each channel."""

    B: int
    C: int
    H: int
    W: int
    F: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `B,C,H,W,F`."""
        sizes = text.split(",")
        if len(sizes) != 5 or not all(s.isascii() and s.isdigit() and int(s) for s in sizes):
            raise UsageError(
                "--shapes must be B,C,H,W,F, five positive whole numbers such as 1,32,64,128,4; "
                f"got {text!r}"
            )
        return cls(*map(int, sizes))

    def __str__(self) -> str:
        """The inverse of `parse`."""
        return ",".join(map(str, self))

    def moved_bytes(self, dtype: str, direction: Direction) -> int:
        """Bytes that have to be read or written; those of boxes are too few to count."""
        image = self.B * self.C * self.H * self.W * jnp.dtype(dtype).itemsize
        forward = (1 + self.F) * image
        return (
            forward
            + {
                "forward": 0,
                "forward+backward": forward,
                "forward+dx": forward,
                "forward+dtheta": self.F * image,
            }[direction]
        )


class Images(NamedTuple):
    """Random ones: what a layer is given, and the gradient by its output."""

    x: Array
    g: Array


@dataclass(frozen=True)
class Contestant:
    """A layer, and what of it is timed.

    Attributes:
      name: in tables.
      layer: takes images and `parameters`.
      layout: planes are `(B, C, H, W)` in and `(B, C * F, H, W)` out; NHWC has channels last.
      parameters: boxes `(C, F, 4)` in pixels, or a convolution's kernel.
      directions: what is timed.
    """

    name: str
    layer: Layer
    layout: Layout
    parameters: Array
    directions: tuple[Direction, ...] = _FULL


@dataclass(frozen=True)
class Memcpy:
    """A copy between two arrays, and how many bytes it reads and writes."""

    run: Run
    moved_bytes: int


class Compiled(NamedTuple):
    """A program, what it takes beyond arguments and results, and how long compiling it took."""

    executable: jax.stages.Compiled
    temporary_bytes: int
    seconds: float


class Timing(NamedTuple):
    """The median time of a run."""

    milliseconds: float
    rounds: int


@dataclass(frozen=True)
class Measurement:
    """What a table says of one direction of a contestant."""

    name: str
    direction: Direction
    milliseconds: float
    rounds: int
    times_faster_than_textbook: float
    times_floor: float
    temporary_bytes: int
    compile_seconds: float


@dataclass(frozen=True)
class Block:
    """All measurements at one shape and dtype, and how fast memory was meanwhile."""

    shape: Shape
    dtype: str
    bytes_per_second: float
    measurements: list[Measurement]

    def find(self, name: str, direction: Direction) -> Measurement:
        """The measurement of this name and direction."""
        return next(m for m in self.measurements if (m.name, m.direction) == (name, direction))

    def floor(self, direction: Direction) -> float:
        """The memory floor in milliseconds."""
        return _floor(self.shape, self.dtype, direction, self.bytes_per_second)


@dataclass(frozen=True)
class Summary:
    """Geometric means over the shapes of one dtype, and where NHWC is worst beside planes."""

    dtype: str
    planes_times_faster_than_textbook: dict[Direction, float]
    planes_times_floor: dict[Direction, float]
    largest_nhwc_to_planes: float
    largest_at: str


@dataclass(frozen=True, eq=False)
class Case:
    """What a point of a plot is timed on."""

    size: int
    shape: Shape
    theta: Array


class Point(NamedTuple):
    """A point of a plot; `size` is a box's side in pixels, or an image's area."""

    size: int
    direction: Direction
    milliseconds: float
    floor_milliseconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns the exit code: 0 done, 2 a user's error."""
    settings = tyro.cli(
        Annotated[Settings, tyro.conf.arg(name="")], args=arguments, description=__doc__
    )
    try:
        shapes = [Shape.parse(text) for text in settings.shapes]
        _check(settings)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with jax.default_device(jax.devices("cpu")[0]), ThreadPoolExecutor(_cores()) as threads:
        _run(settings, shapes, _memcpy(threads))
    return 0


def _check(settings: Settings) -> None:
    for name in ("shapes", "dtypes"):
        if not getattr(settings, name):
            raise UsageError(f"--{name} must be one or more; got none")
    for dtype in settings.dtypes:
        if dtype not in _DTYPES:
            raise UsageError(f"--dtypes must be of {', '.join(_DTYPES)}; got {dtype!r}")
    if settings.rounds < 1:
        raise UsageError(f"--rounds must be 1 or more; got {settings.rounds}")
    try:
        settings.out.parent.mkdir(parents=True, exist_ok=True)
        settings.out.open("a").close()
    except OSError as error:
        raise UsageError(f"--out must be a file that can be written; got {error}") from error


def _run(settings: Settings, shapes: Sequence[Shape], memcpy: Memcpy) -> None:
    blocks = []
    for dtype in settings.dtypes:
        for shape in shapes:
            blocks.append(_measure(shape, dtype, settings, memcpy))
            print(_table(blocks[-1], settings.rounds), end="\n\n", flush=True)
    summaries = [_summarize([b for b in blocks if b.dtype == dtype]) for dtype in settings.dtypes]
    print("\n".join(map(_summary_text, summaries)))
    report: dict[str, object] = {
        "jax": jax.__version__,
        "cores": _cores(),
        "shapes_are": Shape._fields,
        "blocks": [asdict(block) for block in blocks],
        "summaries": [asdict(summary) for summary in summaries],
    }
    if settings.plots:
        report |= _plot(settings, shapes[0], memcpy)
    settings.out.write_text(json.dumps(report, indent=2) + "\n")
    print(f"figures are in {settings.out}")


def _cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memcpy(threads: ThreadPoolExecutor) -> Memcpy:
    """A copy that all cores share."""
    # Not np.empty: the system gives memory to a page when it is first written.
    source, target = np.ones((2, _COPIED_BYTES // 2), np.uint8)
    parts = [np.array_split(array, _cores()) for array in (target, source)]
    return Memcpy(lambda: list(threads.map(np.copyto, *parts)), _COPIED_BYTES)


def contestants(shape: Shape, dtype: str, conv: tuple[Direction, ...]) -> list[Contestant]:
    """All that are timed at a shape; `conv` says what of convolutions."""
    theta = _sample_boxes(shape)
    whole_pixels = partial(_box_conv_planes, whole_pixels=True)
    listed = [
        Contestant(_PLANES, _box_conv_planes, "planes", theta, _FULL_AND_PARTS),
        Contestant(
            f"{_PLANES}, whole pixels", whole_pixels, "planes", theta, ("forward", "forward+dx")
        ),
        Contestant(_NHWC, jaxbox.box_conv, "NHWC", theta),
        Contestant("integral images", _kernels_layer(integral_image), "planes", theta),
    ]
    if shape.H + shape.W <= _LARGEST_MATRIX_SIDES:
        matrices = _kernels_layer(overlap_matrices)
        listed.append(Contestant("overlap matrices", matrices, "planes", theta))
    listed.append(Contestant(_TEXTBOOK, textbook, "planes", theta, _FULL_AND_PARTS))
    if conv:
        listed += [_convolution(shape, dtype, *form, conv) for form in ((3, 2), (15, 1))]
    return listed


def _key(seed: int) -> Array:
    # XLA compiles this generator many times faster on CPU than the default one.
    return jax.random.key(seed, impl="rbg")


def _sample_boxes(shape: Shape) -> Array:
    return boxes.sample(_key(0), (shape.C, shape.F), (shape.H, shape.W))


def _kernels_layer(kernels: ModuleType) -> Layer:
    """An implementation's forward and backward as a layer on planes."""

    @jax.custom_vjp
    def box_conv(x: Array, theta: Array) -> Array:
        return kernels.forward(x, theta, normalize=True)

    def forward(x: Array, theta: Array) -> tuple[Array, tuple[Array, Array]]:
        return box_conv(x, theta), (x, theta)

    def backward(residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
        return kernels.backward(*residuals, g, normalize=True)

    box_conv.defvjp(forward, backward)
    return lambda x, theta: _as_planes(box_conv(x.astype(jnp.float32), theta), x)


def _as_planes(output: Array, x: Array) -> Array:
    """`(B, C, F, H, W)` to `(B, C * F, H, W)`, of `x`'s dtype."""
    return lax.collapse(output, 1, 3).astype(x.dtype)


def textbook(x: Array, theta: Array) -> Array:
    """Box averages by prefix sums: `(B, C, H, W)` and `(C, F, 4)` to `(B, C * F, H, W)`."""
    sums = jnp.cumsum(jnp.cumsum(x.astype(jnp.float32), axis=-2), axis=-1)
    sums = jnp.pad(sums, ((0, 0), (0, 0), (1, 0), (1, 0)))
    of_boxes = jax.vmap(_textbook_average, (None, 0))
    of_channels = jax.vmap(of_boxes)
    return _as_planes(jax.vmap(of_channels, (0, None))(sums, theta), x)


def _textbook_average(sums: Array, box: Array) -> Array:
    """Averages over one box at every pixel; `sums` is `(H + 1, W + 1)`."""
    x_min, x_max, y_min, y_max = box
    rows = _sums_before(sums, y_max, 0) - _sums_before(sums, y_min, 0)
    integral = _sums_before(rows, x_max, 1) - _sums_before(rows, x_min, 1)
    return integral / ((x_max - x_min) * (y_max - y_min))


def _sums_before(sums: Array, side: Array, axis: int) -> Array:
    """Prefix sums up to a side of the box at every pixel, linear inside the pixel that it cuts."""
    size = sums.shape[axis] - 1
    position = jnp.clip(jnp.arange(size, dtype=side.dtype) + (side + 0.5), 0, size)
    whole = jnp.minimum(jnp.floor(position), size - 1)
    part = jnp.expand_dims(position - whole, 1 - axis)
    index = whole.astype(jnp.int32)
    below, above = (jnp.take(sums, i, axis, mode="clip") for i in (index, index + 1))
    return (1 - part) * below + part * above


def _convolution(
    shape: Shape, dtype: str, size: int, dilation: int, directions: tuple[Direction, ...]
) -> Contestant:
    """A depthwise one with as many outputs as there are boxes."""

    def convolve(x: Array, kernel: Array) -> Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(1, 1),
            padding="SAME",
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=shape.C,
        )

    name = f"depthwise {size}x{size}" + (f", dilation {dilation}" if dilation > 1 else "")
    kernel = jax.random.normal(_key(1), (size, size, 1, shape.C * shape.F), dtype)
    return Contestant(name, convolve, "NHWC", kernel, directions)


def _images(shape: Shape, dtype: str) -> dict[Layout, Images]:
    """The same images in both layouts."""
    B, C, H, W, F = shape
    x = jax.random.normal(_key(2), (B, C, H, W), dtype)
    g = jax.random.normal(_key(3), (B, C * F, H, W), dtype)
    return {
        "planes": Images(x, g),
        "NHWC": Images(jnp.moveaxis(x, 1, -1), jnp.moveaxis(g, 1, -1)),
    }


def _arguments(direction: Direction, images: Images, parameters: Array) -> tuple[Array, ...]:
    if direction == "forward":
        return images.x, parameters
    return images.x, parameters, images.g


def _compile(layer: Layer, direction: Direction, arguments: tuple[Array, ...]) -> Compiled:
    def differentiate(x: Array, parameters: Array, g: Array) -> tuple[Array, list[Array]]:
        output, pull = jax.vjp(layer, x, parameters)
        gradients = pull(g)
        # XLA leaves out what only the other gradient needs.
        return output, [gradients[argument] for argument in _GRADIENTS_BY[direction]]

    function = layer if direction == "forward" else differentiate
    start = time.perf_counter()
    executable = jax.jit(function).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    memory = executable.memory_analysis()
    assert memory is not None  # XLA has it for CPU.
    return Compiled(executable, memory.temp_size_in_bytes, seconds)


def _interleave[K](
    runs: Mapping[K, Run], memcpy: Memcpy, rounds: int
) -> tuple[dict[K, Timing], float]:
    """Times every run once a round; returns also the bytes a second that `memcpy` moves."""
    everything = [*runs.values(), memcpy.run]
    rounds_between = [_rounds_between(run, rounds) for run in everything]
    seconds: list[list[float]] = [[] for _ in everything]
    order = list(range(len(everything)))
    generator = random.Random(0)
    for round_ in range(rounds):
        # What ran before leaves its traces in caches and in memory: never the same for all rounds.
        generator.shuffle(order)
        for index in order:
            if round_ % rounds_between[index] == 0:
                seconds[index].append(_seconds(everything[index]))
    *timings, copied = (Timing(1000 * statistics.median(s), len(s)) for s in seconds)
    bytes_per_second = 1000 * memcpy.moved_bytes / copied.milliseconds
    return dict(zip(runs, timings, strict=True)), bytes_per_second


def _rounds_between(run: Run, rounds: int) -> int:
    """Runs once to warm up; in every how many rounds it is to run so as not to take too long."""
    affordable = max(1, int(_LONGEST_SECONDS / _seconds(run)))
    return -(-rounds // affordable)


def _seconds(run: Run) -> float:
    start = time.perf_counter()
    result = run()
    jax.block_until_ready(result)
    return time.perf_counter() - start


def _floor(shape: Shape, dtype: str, direction: Direction, bytes_per_second: float) -> float:
    """The memory floor in milliseconds."""
    return 1000 * shape.moved_bytes(dtype, direction) / bytes_per_second


def _measure(shape: Shape, dtype: str, settings: Settings, memcpy: Memcpy) -> Block:
    """Compiles and times all contestants at one shape."""
    images = _images(shape, dtype)
    compiled: dict[tuple[str, Direction], Compiled] = {}
    runs: dict[tuple[str, Direction], Run] = {}
    for contestant in contestants(shape, dtype, _CONVOLVED[settings.conv]):
        for direction in contestant.directions:
            key = contestant.name, direction
            arguments = _arguments(direction, images[contestant.layout], contestant.parameters)
            compiled[key] = _compile(contestant.layer, direction, arguments)
            runs[key] = partial(compiled[key].executable, *arguments)
    timings, bytes_per_second = _interleave(runs, memcpy, settings.rounds)
    measurements = [
        Measurement(
            name=name,
            direction=direction,
            milliseconds=timing.milliseconds,
            rounds=timing.rounds,
            times_faster_than_textbook=timings[_TEXTBOOK, direction].milliseconds
            / timing.milliseconds,
            times_floor=timing.milliseconds / _floor(shape, dtype, direction, bytes_per_second),
            temporary_bytes=compiled[name, direction].temporary_bytes,
            compile_seconds=compiled[name, direction].seconds,
        )
        for (name, direction), timing in timings.items()
    ]
    return Block(shape, dtype, bytes_per_second, measurements)


def _table(block: Block, rounds: int) -> str:
    """One line a contestant: its forward, and its forward and backward."""
    rows: dict[str, dict[bool, Measurement]] = {}
    for measurement in block.measurements:
        row = rows.setdefault(_row_name(measurement), {})
        row[measurement.direction == "forward"] = measurement
    floors = " and ".join(f"{block.floor(d):.3f} ms {d}" for d in _FULL)
    columns = f"{'ms':>9} {'textbook':>9}{'floor':>8}{'MB':>8}{'compile':>8}"
    return "\n".join(
        [
            f"B,C,H,W,F = {block.shape}, {block.dtype}; medians of {rounds} rounds (* of fewer)",
            f"memory floor: {floors}, at the {block.bytes_per_second / 1e9:.1f} GB/s of copies",
            "textbook: times faster than it; floor: times the memory floor; MB: temporaries at"
            " their peak; compile: seconds",
            f"{'':40}{'forward':^43}{'forward+backward':^43}".rstrip(),
            f"{'':40}{columns}{columns}",
            *(
                f"{name:40}{_cells(row.get(True), rounds)}{_cells(row.get(False), rounds)}".rstrip()
                for name, row in rows.items()
            ),
        ]
    )


def _row_name(measurement: Measurement) -> str:
    """One gradient alone gets a line of its own."""
    if measurement.direction in _FULL:
        return measurement.name
    return f"{measurement.name}, {measurement.direction.removeprefix('forward+')} only"


def _cells(measurement: Measurement | None, rounds: int) -> str:
    if measurement is None:
        return f"{'':43}"
    mark = "*" if measurement.rounds < rounds else " "
    return (
        f"{measurement.milliseconds:>9.2f}{mark}{measurement.times_faster_than_textbook:>9.2f}"
        f"{measurement.times_floor:>8.1f}{measurement.temporary_bytes / 1e6:>8.1f}"
        f"{measurement.compile_seconds:>8.2f}"
    )


def _summarize(blocks: Sequence[Block]) -> Summary:
    planes = {d: [block.find(_PLANES, d) for block in blocks] for d in _FULL}
    nhwc_to_planes = {
        f"{d} at {block.shape}": block.find(_NHWC, d).milliseconds / planes.milliseconds
        for block in blocks
        for d in _FULL
        for planes in [block.find(_PLANES, d)]
    }
    worst = max(nhwc_to_planes, key=nhwc_to_planes.__getitem__)
    mean = statistics.geometric_mean
    return Summary(
        blocks[0].dtype,
        {d: mean(m.times_faster_than_textbook for m in planes[d]) for d in _FULL},
        {d: mean(m.times_floor for m in planes[d]) for d in _FULL},
        nhwc_to_planes[worst],
        worst,
    )


def _summary_text(summary: Summary) -> str:
    def both(ratios: Mapping[Direction, float]) -> str:
        return " and ".join(f"{ratios[direction]:.2f} ({direction})" for direction in _FULL)

    return (
        f"{summary.dtype}, geometric means over shapes: {_PLANES} is"
        f" {both(summary.planes_times_faster_than_textbook)} times faster than the textbook form,\n"
        f"at {both(summary.planes_times_floor)} times the memory floor; {_NHWC} takes at most"
        f" {summary.largest_nhwc_to_planes:.2f} times as long ({summary.largest_at})\n"
    )


def _plot(settings: Settings, shape: Shape, memcpy: Memcpy) -> dict[str, object]:
    """Times planes against both sizes, draws the plots, and returns their points for JSON."""
    dtype = settings.dtypes[0]
    by_box = _time_cases(_cases_by_box_size(shape), dtype, settings.rounds, memcpy)
    by_image = _time_cases(_cases_by_image_size(shape), dtype, settings.rounds, memcpy)
    figures = {
        "by_box_size": _draw(
            by_box,
            title=f"{_PLANES}, {dtype}, B,C,H,W,F = {shape}",
            xlabel="side of every box, pixels",
            yscale="linear",
        ),
        "by_image_size": _draw(
            by_image,
            title=f"{_PLANES}, {dtype}, B,C,F = {shape.B},{_IMAGE_CHANNELS},{shape.F}",
            xlabel="pixels of an image",
            yscale="log",
        ),
    }
    for name, figure in figures.items():
        file = settings.out.with_name(f"{settings.out.stem}_{name}.png")
        figure.savefig(file, dpi=150)
        print(f"plot {name.replace('_', ' ')} is in {file}")
    print(_box_size_text(by_box))
    return {
        "by_box_size": [point._asdict() for point in by_box],
        "by_image_size": [point._asdict() for point in by_image],
    }


def _cases_by_box_size(shape: Shape) -> list[Case]:
    """Square boxes, all of one size, from 2 pixels up to the image's width."""
    sides = {2**power for power in range(1, shape.W.bit_length())} | {shape.W}
    return [Case(side, shape, _square_boxes(shape, side)) for side in sorted(sides)]


def _square_boxes(shape: Shape, side: int) -> Array:
    """Their centres lie anywhere in the middle half of the image, the same for all sides."""
    sizes = jnp.broadcast_to(jnp.array([shape.W, shape.H], jnp.float32), (shape.C, shape.F, 2))
    centres = sizes * jax.random.uniform(_key(4), sizes.shape, minval=-0.25, maxval=0.25)
    return jnp.stack([centres - side / 2, centres + side / 2], -1).reshape(shape.C, shape.F, 4)


def _cases_by_image_size(shape: Shape) -> list[Case]:
    """Images from a quarter to 8 times as high and wide, with boxes as in `contestants`."""
    cases = []
    for scale in _IMAGE_SCALES:
        height, width = math.ceil(scale * shape.H), math.ceil(scale * shape.W)
        sized = shape._replace(C=_IMAGE_CHANNELS, H=height, W=width)
        cases.append(Case(sized.H * sized.W, sized, _sample_boxes(sized)))
    return cases


def _time_cases(cases: Sequence[Case], dtype: str, rounds: int, memcpy: Memcpy) -> list[Point]:
    """Times planes; cases of one shape share a program."""
    images = {shape: _images(shape, dtype)["planes"] for shape in {case.shape for case in cases}}
    programs: dict[tuple[Shape, Direction], jax.stages.Compiled] = {}
    runs: dict[tuple[Case, Direction], Run] = {}
    for case, direction in itertools.product(cases, _FULL):
        arguments = _arguments(direction, images[case.shape], case.theta)
        key = case.shape, direction
        if key not in programs:
            programs[key] = _compile(_box_conv_planes, direction, arguments).executable
        runs[case, direction] = partial(programs[key], *arguments)
    timings, bytes_per_second = _interleave(runs, memcpy, rounds)
    return [
        Point(
            case.size,
            direction,
            timing.milliseconds,
            _floor(case.shape, dtype, direction, bytes_per_second),
        )
        for (case, direction), timing in timings.items()
    ]


def _draw(points: Sequence[Point], *, title: str, xlabel: str, yscale: str) -> Figure:
    """Times over sizes; dashed: the memory floor."""
    figure = Figure((6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for direction, color in zip(_FULL, ("C0", "C1"), strict=True):
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
    """How the time of the largest boxes compares to that of the smallest."""
    ratios = []
    for direction in _FULL:
        smallest, *_, largest = (point for point in points if point.direction == direction)
        ratio = largest.milliseconds / smallest.milliseconds
        ratios.append(f"{ratio:.2f} times as long ({direction})")
    return f"boxes as wide as the image take {' and '.join(ratios)} as boxes of 2 pixels"


if __name__ == "__main__":
    sys.exit(main())
