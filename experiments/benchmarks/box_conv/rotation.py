"""Many calls of a function in one program, none of which finds its arguments in a cache.

A GPU does in microseconds what a host takes longer to ask for, and to notice. So a whole loop of
calls is one program, long enough that starting it and waiting for its end do not count; what is
between two calls on the device, as in a network, does count.

Each turn of the loop calls the function on all of several copies of its arguments, one after the
other, so that all other copies pass through the cache before the first is read again. The copies
are arrays of their own: taking slices of one array would be copies in turn. Nothing is left out or
moved: all results are kept until the next turn writes over them, and each call waits for the one
before it behind a barrier, which takes no time on the device.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from experiments.benchmarks.box_conv.interleaving import Timed
from experiments.benchmarks.box_conv.programs import Arguments, Function

# The second-level cache of an H100 has 50 MB, that of a B200 126 MB.
_PAST_CACHE_BYTES = 2**27
# 20 ms on an H100 at the speed of its memory, two hundred times what a start and an end take.
_MOVED_BYTES = 2**36


def rotate(
    function: Function,
    arguments: Arguments,
    *,
    past_cache_bytes: int = _PAST_CACHE_BYTES,
    moved_bytes: int = _MOVED_BYTES,
) -> Timed:
    """A run of many calls, already run once.

    Args:
      function: What to call.
      arguments: Its arguments, which are copied.
      past_cache_bytes: How many bytes the copies take together, at least.
      moved_bytes: How many bytes of arguments and results a run reads and writes, at least.
    """
    result = jax.eval_shape(function, *arguments)
    copies = math.ceil(past_cache_bytes / _bytes(arguments))
    turns = math.ceil(moved_bytes / (copies * (_bytes(arguments) + _bytes(result))))
    return rotate_copies(
        function, [jax.tree.map(jnp.copy, arguments) for _ in range(copies)], turns
    )


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def rotate_copies(function: Function, copies: list[Arguments], turns: int) -> Timed:
    """A run of so many turns, already run once."""
    result = jax.eval_shape(function, *copies[0])
    results = [jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), result) for _ in copies]

    def run() -> Any:
        nonlocal results
        results = turn_around(function, turns, copies, results)
        return results

    jax.block_until_ready(run())
    return Timed(run, len(copies) * turns)


@functools.partial(jax.jit, static_argnames=("function", "turns"), donate_argnames="results")
def turn_around(
    function: Function, turns: int, copies: list[Arguments], results: list[Any]
) -> list[Any]:
    """Calls a function on each of its arguments' copies, again and again; the last results.

    It writes to the memory of `results`.
    """
    called = jax.jit(function)  # Traced and lowered once.

    def turn(_: int, carry: tuple[list[Any], list[Any]]) -> tuple[list[Any], list[Any]]:
        copies, results = map(list, carry)
        last = results[-1]
        for index, arguments in enumerate(copies):
            # XLA takes what comes out for something else than what went in: otherwise it would
            # call the function once, before the loop.
            copies[index], results[index - 1] = lax.optimization_barrier((arguments, last))
            last = called(*copies[index])
        results[-1] = last
        return copies, results

    # The number of turns is a constant, or the device would ask the host before each.
    return lax.fori_loop(0, turns, turn, (copies, results))[1]
