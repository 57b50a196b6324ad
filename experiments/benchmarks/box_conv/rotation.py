"""Many calls of a function in one program, none of which finds its arguments in a cache.

A call takes a GPU microseconds, which is less than starting it and waiting for its end takes the
host. So a whole loop of calls is one program, long enough that start and end do not count. What
happens on the device between two calls, as in a network, does count.

Each iteration calls the function on several copies of its arguments, one after the other, so that
all other copies and their results pass through the cache before the first is read again. The copies
are separate arrays, since slices of one array would be copied first. XLA removes and moves nothing:
all results are kept until the next iteration overwrites them, and each call waits for the previous
one behind a barrier, which takes no time on the device.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from experiments.benchmarks.box_conv.compilation import Arguments, Function
from experiments.benchmarks.box_conv.timed_calls import Timed

# The second-level cache of an H100 has 50 MB, and that of a B200 has 126 MB.
_PAST_CACHE_BYTES = 2**27
# Enough that starting the program and waiting for its end take a negligible part of the time.
_MOVED_BYTES = 2**35


def rotate(
    function: Function,
    arguments: Arguments,
    *,
    past_cache_bytes: int = _PAST_CACHE_BYTES,
    moved_bytes: int = _MOVED_BYTES,
) -> Timed:
    """A run of many calls, which has run once already.

    Args:
      function: the function to call.
      arguments: the arguments of the function, which are copied.
      past_cache_bytes: the least number of bytes of all copies and their results together.
      moved_bytes: the least number of bytes of arguments and results that a run reads and writes.
    """
    result = jax.eval_shape(function, *arguments)
    call_bytes = _bytes(arguments) + _bytes(result)
    copies = math.ceil(past_cache_bytes / call_bytes)
    iterations = math.ceil(moved_bytes / (copies * call_bytes))
    return rotate_copies(
        function, [jax.tree.map(jnp.copy, arguments) for _ in range(copies)], iterations
    )


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def rotate_copies(function: Function, copies: list[Arguments], iterations: int) -> Timed:
    """A run of some iterations over copies of the arguments, which has run once already.

    Args:
      function: the function to call.
      copies: the copies of the arguments.
      iterations: the number of iterations, each of which calls the function on every copy.
    """
    result = jax.eval_shape(function, *copies[0])
    results = [jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), result) for _ in copies]

    def run() -> Any:
        nonlocal results
        results = call_in_loop(function, iterations, copies, results)
        return results

    jax.block_until_ready(run())
    return Timed(run, len(copies) * iterations)


@functools.partial(jax.jit, static_argnames=("function", "iterations"), donate_argnames="results")
def call_in_loop(
    function: Function, iterations: int, copies: list[Arguments], results: list[Any]
) -> list[Any]:
    """Calls a function on each copy of its arguments, repeatedly; returns the last results.

    The memory of the argument `results` is overwritten.
    """
    called = jax.jit(function)  # so that it is traced and lowered once

    def iteration(_: int, carry: tuple[list[Any], list[Any]]) -> tuple[list[Any], list[Any]]:
        copies, results = map(list, carry)
        last = results[-1]
        for index, arguments in enumerate(copies):
            # Behind the barrier XLA does not know that the arguments are the same in each
            # iteration; otherwise it would call the function once, before the loop.
            copies[index], results[index - 1] = lax.optimization_barrier((arguments, last))
            last = called(*copies[index])
        results[-1] = last
        return copies, results

    # The number of iterations is a constant, or the device would ask the host before each one.
    return lax.fori_loop(0, iterations, iteration, (copies, results))[1]
