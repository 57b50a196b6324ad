"""Compiling a layer for each direction: its output alone, or also gradients."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array

from experiments.benchmarks.box_conv.contestants import Images, Layer
from experiments.benchmarks.box_conv.shapes import Direction

type Function = Callable[..., Any]
type Arguments = tuple[Array, ...]

# The indices of the arguments of a layer, `(x, parameters)`, that are differentiated.
_DIFFERENTIATED: dict[Direction, tuple[int, ...]] = {
    "forward+backward": (0, 1),
    "forward+dx": (0,),
    "forward+dtheta": (1,),
}


class Compiled(NamedTuple):
    """A compiled program.

    Attributes:
      executable: the program.
      temporary_bytes: the memory that it needs besides arguments and results.
      seconds: the time that compilation took.
    """

    executable: jax.stages.Compiled
    temporary_bytes: int
    seconds: float


def function(layer: Layer, direction: Direction) -> Function:
    """The function that is timed for a layer and a direction; `arguments` are its arguments.

    It returns the output of the layer, and with it the direction's gradients if there are any.
    """
    if direction == "forward":
        return layer

    def differentiate(x: Array, parameters: Array, g: Array) -> tuple[Array, list[Array]]:
        output, pull = jax.vjp(layer, x, parameters)
        gradients = pull(g)
        # XLA removes what only the other gradient needs.
        return output, [gradients[argument] for argument in _DIFFERENTIATED[direction]]

    return differentiate


def arguments(direction: Direction, images: Images, parameters: Array) -> Arguments:
    """The arguments of `function`: images, parameters, and for gradients the output's."""
    if direction == "forward":
        return images.x, parameters
    return images.x, parameters, images.g


def compile_once(function: Function, arguments: Arguments) -> Compiled:
    """Compiles a function and measures how long that takes."""
    start = time.perf_counter()
    executable = jax.jit(function).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    memory = executable.memory_analysis()
    assert memory is not None  # XLA has it for CPU and GPU.
    return Compiled(executable, memory.temp_size_in_bytes, seconds)
