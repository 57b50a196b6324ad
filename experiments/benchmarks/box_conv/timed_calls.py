"""Times of calls, beside the speed of the memory in the same rounds."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from experiments.common.timing import interleave

# For one contestant in all rounds together; XLA's gradients of convolutions may take minutes each.
_LONGEST_SECONDS = 10.0

type Run = Callable[[], object]


class Timed(NamedTuple):
    """A function to time.

    Attributes:
      run: makes one or more calls and returns their results.
      calls: the number of calls that one run makes.
    """

    run: Run
    calls: int = 1


@dataclass(frozen=True)
class Copying:
    """A copy between two arrays, which shows how fast the memory is.

    Attributes:
      timed: the copy.
      moved_bytes: the number of bytes that one call reads and writes.
    """

    timed: Timed
    moved_bytes: int


class Timing(NamedTuple):
    """The median time of a call, and the number of rounds that it is taken from."""

    milliseconds: float
    rounds: int


def time_calls[Name](
    everything: Mapping[Name, Timed], copying: Copying, rounds: int
) -> tuple[dict[Name, Timing], float]:
    """Times functions and a copy, each once in every round, and slow ones in fewer rounds.

    Args:
      everything: the functions to time, by name.
      copying: the copy that is timed in the same rounds.
      rounds: the number of rounds.

    Returns:
      The time of each function, by name, and the bytes per second that the copy moves.
    """
    listed = dict(enumerate([*everything.values(), copying.timed]))
    runs = {index: timed.run for index, timed in listed.items()}
    *timings, copied = (
        Timing(1000 * statistics.median(seconds) / listed[index].calls, len(seconds))
        for index, seconds in interleave(runs, rounds, _LONGEST_SECONDS).items()
    )
    bytes_per_second = 1000 * copying.moved_bytes / copied.milliseconds
    return dict(zip(everything, timings, strict=True)), bytes_per_second
