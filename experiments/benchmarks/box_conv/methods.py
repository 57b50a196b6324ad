"""The method of timing on each platform, and copies that measure the speed of its memory."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.benchmarks.box_conv.compilation import Arguments, Compiled, Function
from experiments.benchmarks.box_conv.contestants import Platform
from experiments.benchmarks.box_conv.rotation import rotate
from experiments.benchmarks.box_conv.timed_calls import Copying, Timed
from experiments.common.report import cores

# Several times the size of caches.
_COPIED_BYTES: dict[Platform, int] = {"cpu": 2**27, "gpu": 2**29}


@dataclass(frozen=True)
class Method:
    """A method of timing.

    Attributes:
      prepare: makes the run that is timed, from a function, its arguments and the compiled program
        of one call.
      copying: the copy that measures the speed of memory.
    """

    prepare: Callable[[Function, Arguments, Compiled], Timed]
    copying: Copying


@contextmanager
def method_of(platform: Platform) -> Iterator[Method]:
    """The method of a platform: one call in each run on CPU, many on GPU.

    Inside the context the platform's first device is JAX's default device.
    """
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
    """A copy in which all cores take part."""
    moved_bytes = _COPIED_BYTES["cpu"]
    # Not np.empty, since the system allocates a page only when it is first written.
    source, target = np.ones((2, moved_bytes // 2), np.uint8)
    parts = [np.array_split(array, cores()) for array in (target, source)]
    return Copying(Timed(lambda: list(threads.map(np.copyto, *parts))), moved_bytes)


def _copying_on_gpu() -> Copying:
    """A copy that changes the sign, since XLA could remove one that changes nothing."""
    moved_bytes = _COPIED_BYTES["gpu"]
    source: Array = jnp.ones(moved_bytes // 8, jnp.float32)
    return Copying(rotate(jnp.negative, (source,)), moved_bytes)
