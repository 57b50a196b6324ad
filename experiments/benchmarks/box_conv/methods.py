"""How calls are timed on each platform, and how fast its memory is."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.benchmarks.box_conv.contestants import Platform
from experiments.benchmarks.box_conv.interleaving import Copying, Timed
from experiments.benchmarks.box_conv.programs import Arguments, Compiled, Function
from experiments.benchmarks.box_conv.rotation import rotate
from experiments.common.report import cores

# Several times what caches hold.
_COPIED_BYTES: dict[Platform, int] = {"cpu": 2**27, "gpu": 2**29}


@dataclass(frozen=True)
class Method:
    """How to time.

    Attributes:
      prepare: makes what is timed of a function, its arguments, and the program of one call.
      copying: shows how fast memory is.
    """

    prepare: Callable[[Function, Arguments, Compiled], Timed]
    copying: Copying


@contextmanager
def method_of(platform: Platform) -> Iterator[Method]:
    """Call by call on CPU, many calls a run on GPU; what is inside runs on that platform."""
    with jax.default_device(jax.devices(platform)[0]):
        if platform == "gpu":
            yield Method(_rotated, _copying_on_gpu())
        else:
            with ThreadPoolExecutor(cores()) as threads:
                yield Method(_single, _copying_on_cpu(threads))


def _single(function: Function, arguments: Arguments, compiled: Compiled) -> Timed:
    del function
    return Timed(partial(compiled.executable, *arguments))


def _rotated(function: Function, arguments: Arguments, compiled: Compiled) -> Timed:
    del compiled
    return rotate(function, arguments)


def _copying_on_cpu(threads: ThreadPoolExecutor) -> Copying:
    """A copy that all cores share."""
    moved_bytes = _COPIED_BYTES["cpu"]
    # Not np.empty: the system gives memory to a page when it is first written.
    source, target = np.ones((2, moved_bytes // 2), np.uint8)
    parts = [np.array_split(array, cores()) for array in (target, source)]
    return Copying(Timed(lambda: list(threads.map(np.copyto, *parts))), moved_bytes)


def _copying_on_gpu() -> Copying:
    """XLA could leave out a copy that changes nothing: this one changes the sign."""
    moved_bytes = _COPIED_BYTES["gpu"]
    source: Array = jnp.ones(moved_bytes // 8, jnp.float32)
    return Copying(rotate(jnp.negative, (source,)), moved_bytes)
