"""All figures of the contestants at one shape, and what they come to."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.benchmarks.box_conv import programs
from experiments.benchmarks.box_conv.contestants import NHWC, PLANES, Contestant, images
from experiments.benchmarks.box_conv.interleaving import Timed, interleave
from experiments.benchmarks.box_conv.methods import Method
from experiments.benchmarks.box_conv.shapes import FULL, Direction, Shape


@dataclass(frozen=True)
class Measurement:
    """What a table says of one direction of a contestant."""

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
    """All measurements at one shape and dtype, and how fast memory was meanwhile."""

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
    """Geometric means over the shapes of one dtype, and where NHWC is worst beside planes."""

    dtype: str
    baseline: str
    planes_times_faster_than_baseline: dict[Direction, float]
    planes_times_floor: dict[Direction, float]
    largest_nhwc_to_planes: float
    largest_at: str


def floor(shape: Shape, dtype: str, direction: Direction, bytes_per_second: float) -> float:
    """The memory floor in milliseconds."""
    return 1000 * shape.moved_bytes(dtype, direction) / bytes_per_second


def measure(
    shape: Shape,
    dtype: str,
    contestants: Sequence[Contestant],
    baseline: str,
    method: Method,
    rounds: int,
) -> Block:
    """Compiles and times all contestants at one shape."""
    given = images(shape, dtype)
    compiled: dict[tuple[str, Direction], programs.Compiled] = {}
    timed: dict[tuple[str, Direction], Timed] = {}
    for contestant in contestants:
        for direction in contestant.directions:
            key = contestant.name, direction
            function = programs.function(contestant.layer, direction)
            arguments = programs.arguments(
                direction, given[contestant.layout], contestant.parameters
            )
            compiled[key] = programs.compile_once(function, arguments)
            timed[key] = method.prepare(function, arguments, compiled[key])
    timings, bytes_per_second = interleave(timed, method.copying, rounds)
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
    """What the blocks of one dtype come to."""
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
