"""Times runs in turn, so that all of them see the same machine."""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax

# Of a contestant, in all rounds together: XLA's gradients of convolutions take up to minutes each.
_LONGEST_SECONDS = 10.0

type Run = Callable[[], object]


class Timed(NamedTuple):
    """Something to time, and how many calls of it one run makes."""

    run: Run
    calls: int = 1


@dataclass(frozen=True)
class Copying:
    """A copy between two arrays, and how many bytes a call of it reads and writes."""

    timed: Timed
    moved_bytes: int


class Timing(NamedTuple):
    """The median time of a call."""

    milliseconds: float
    rounds: int


def interleave[K](
    everything: Mapping[K, Timed], copying: Copying, rounds: int
) -> tuple[dict[K, Timing], float]:
    """Times everything once a round; returns also the bytes a second that `copying` moves."""
    listed = [*everything.values(), copying.timed]
    rounds_between = [_rounds_between(timed.run, rounds) for timed in listed]
    seconds: list[list[float]] = [[] for _ in listed]
    order = list(range(len(listed)))
    generator = random.Random(0)
    for round_ in range(rounds):
        # What ran before leaves its traces in caches and in memory: never the same for all rounds.
        generator.shuffle(order)
        for index in order:
            if round_ % rounds_between[index] == 0:
                seconds[index].append(_seconds(listed[index].run))
    *timings, copied = (
        Timing(1000 * statistics.median(s) / timed.calls, len(s))
        for timed, s in zip(listed, seconds, strict=True)
    )
    bytes_per_second = 1000 * copying.moved_bytes / copied.milliseconds
    return dict(zip(everything, timings, strict=True)), bytes_per_second


def _rounds_between(run: Run, rounds: int) -> int:
    """Runs once to warm up; in every how many rounds it is to run so as not to take too long."""
    affordable = max(1, int(_LONGEST_SECONDS / _seconds(run)))
    return -(-rounds // affordable)


def _seconds(run: Run) -> float:
    start = time.perf_counter()
    result = run()
    jax.block_until_ready(result)
    return time.perf_counter() - start
