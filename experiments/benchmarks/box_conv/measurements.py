"""Measuring all contestants at one shape, and summarising shapes."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.benchmarks.box_conv import compilation
from experiments.benchmarks.box_conv.contestants import NHWC, PLANES, Contestant, images
from experiments.benchmarks.box_conv.methods import Method
from experiments.benchmarks.box_conv.shapes import FULL, Direction, Shape
from experiments.benchmarks.box_conv.timed_calls import Timed, time_calls


@dataclass(frozen=True)
class Measurement:
    """The figures of a contestant in one direction.

    Attributes:
      name: the contestant.
      direction: the direction.
      milliseconds: the median time of a call.
      rounds: the number of rounds that the median is taken from.
      times_faster_than_baseline: the baseline's time divided by the contestant's.
      times_floor: the contestant's time divided by the memory floor.
      bytes_per_second: the bytes that have to be moved, divided by the time.
      temporary_bytes: the peak memory besides arguments and results.
      compile_seconds: the time that compilation took.
    """

    name: str
    direction: Direction
    milliseconds: float
    rounds: int
    times_faster_than_baseline: float
    times_floor: float
    bytes_per_second: float
    temporary_bytes: int
    compile_seconds: float


@dataclass(frozen=True)
class Block:
    """All measurements at one shape and dtype.

    Attributes:
      shape: the shape of images and boxes.
      dtype: the dtype of images.
      baseline: the contestant that the others are compared with.
      bytes_per_second: the speed of copies in the same rounds.
      measurements: the measurements of all contestants and directions.
    """

    shape: Shape
    dtype: str
    baseline: str
    bytes_per_second: float
    measurements: list[Measurement]

    def find(self, name: str, direction: Direction) -> Measurement:
        """The measurement of this name and direction."""
        return next(m for m in self.measurements if (m.name, m.direction) == (name, direction))

    def floor(self, direction: Direction) -> float:
        """The memory floor in milliseconds."""
        return floor(self.shape, self.dtype, direction, self.bytes_per_second)


@dataclass(frozen=True)
class Summary:
    """Geometric means over the shapes of one dtype.

    Attributes:
      dtype: the dtype of images.
      baseline: the contestant that the others are compared with.
      planes_times_faster_than_baseline: the speed-up of box convolution on planes.
      planes_times_floor: the time on planes divided by the memory floor.
      largest_nhwc_to_planes: the largest ratio of the time on NHWC to that on planes.
      largest_at: the direction and shape of that ratio.
    """

    dtype: str
    baseline: str
    planes_times_faster_than_baseline: dict[Direction, float]
    planes_times_floor: dict[Direction, float]
    largest_nhwc_to_planes: float
    largest_at: str


def floor(shape: Shape, dtype: str, direction: Direction, bytes_per_second: float) -> float:
    """The memory floor in milliseconds: the time of a copy that moves as many bytes.

    Args:
      shape: the shape of images and boxes.
      dtype: the dtype of images.
      direction: the direction, which decides what has to be moved.
      bytes_per_second: the speed of copies.
    """
    return 1000 * shape.moved_bytes(dtype, direction) / bytes_per_second


def measure(
    shape: Shape,
    dtype: str,
    contestants: Sequence[Contestant],
    baseline: str,
    method: Method,
    rounds: int,
) -> Block:
    """Compiles and times all contestants at one shape.

    Args:
      shape: the shape of images and boxes.
      dtype: the dtype of images.
      contestants: the contestants, among them the baseline.
      baseline: the name of the contestant that the others are compared with.
      method: how to time on this platform.
      rounds: the number of rounds.
    """
    given = images(shape, dtype)
    compiled: dict[tuple[str, Direction], compilation.Compiled] = {}
    timed: dict[tuple[str, Direction], Timed] = {}
    for contestant in contestants:
        for direction in contestant.directions:
            key = contestant.name, direction
            function = compilation.function(contestant.layer, direction)
            arguments = compilation.arguments(
                direction, given[contestant.layout], contestant.parameters
            )
            compiled[key] = compilation.compile_once(function, arguments)
            timed[key] = method.prepare(function, arguments, compiled[key])
    timings, bytes_per_second = time_calls(timed, method.copying, rounds)
    measurements = [
        Measurement(
            name=name,
            direction=direction,
            milliseconds=timing.milliseconds,
            rounds=timing.rounds,
            times_faster_than_baseline=timings[baseline, direction].milliseconds
            / timing.milliseconds,
            times_floor=timing.milliseconds / floor(shape, dtype, direction, bytes_per_second),
            bytes_per_second=1000 * shape.moved_bytes(dtype, direction) / timing.milliseconds,
            temporary_bytes=compiled[name, direction].temporary_bytes,
            compile_seconds=compiled[name, direction].seconds,
        )
        for (name, direction), timing in timings.items()
    ]
    return Block(shape, dtype, baseline, bytes_per_second, measurements)


def summarize(blocks: Sequence[Block]) -> Summary:
    """Summarises the blocks of one dtype."""
    planes = {d: [block.find(PLANES, d) for block in blocks] for d in FULL}
    nhwc_to_planes = {
        f"{d} at {block.shape}": block.find(NHWC, d).milliseconds / planes.milliseconds
        for block in blocks
        for d in FULL
        for planes in [block.find(PLANES, d)]
    }
    worst = max(nhwc_to_planes, key=nhwc_to_planes.__getitem__)
    mean = statistics.geometric_mean
    return Summary(
        blocks[0].dtype,
        blocks[0].baseline,
        {d: mean(m.times_faster_than_baseline for m in planes[d]) for d in FULL},
        {d: mean(m.times_floor for m in planes[d]) for d in FULL},
        nhwc_to_planes[worst],
        worst,
    )
