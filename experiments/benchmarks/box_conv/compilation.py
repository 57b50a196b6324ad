"""What a layer computes in each direction, as a compiled program."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array

from experiments.benchmarks.box_conv.contestants import Images, Layer
from experiments.benchmarks.box_conv.shapes import Direction

type Function = Callable[..., Any]
type Arguments = tuple[Array, ...]

# Which arguments of a layer the gradients are by.
_GRADIENTS_BY: dict[Direction, tuple[int, ...]] = {
    "forward+backward": (0, 1),
    "forward+dx": (0,),
    "forward+dtheta": (1,),
}


class Compiled(NamedTuple):
    """A program, what it takes beyond arguments and results, and how long compiling it took."""

    executable: jax.stages.Compiled
    temporary_bytes: int
    seconds: float


def function(layer: Layer, direction: Direction) -> Function:
    """The output of a layer and, if asked for, gradients, given one by the output."""
    if direction == "forward":
        return layer

    def differentiate(x: Array, parameters: Array, g: Array) -> tuple[Array, list[Array]]:
        output, pull = jax.vjp(layer, x, parameters)
        gradients = pull(g)
        # XLA leaves out what only the other gradient needs.
        return output, [gradients[argument] for argument in _GRADIENTS_BY[direction]]

    return differentiate


def arguments(direction: Direction, images: Images, parameters: Array) -> Arguments:
    """What the function of a layer is given."""
    if direction == "forward":
        return images.x, parameters
    return images.x, parameters, images.g


def compile_once(function: Function, arguments: Arguments) -> Compiled:
    """Compiles a function by itself."""
    start = time.perf_counter()
    executable = jax.jit(function).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    memory = executable.memory_analysis()
    assert memory is not None  # XLA has it for CPU and GPU.
    return Compiled(executable, memory.temp_size_in_bytes, seconds)
