"""Prefetching: batches are copied to the devices before they are needed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import jax
import numpy as np

from experiments.segmentation.input.pipeline import Batch


def to_device(
    batches: Iterable[Batch], sharding: jax.sharding.Sharding | None = None, ahead: int = 2
) -> Iterator[Batch]:
    """Starts to copy batches to the devices before they are needed.

    Args:
      batches: the batches in this process's memory. With several processes each passes the part
        that it loads.
      sharding: how the batch of all processes together is spread over their devices. By default
        this process's batch goes to its default device.
      ahead: how many batches are on the devices besides the one in use.

    Returns:
      The same batches as `jax.Array`s. `batches` is read only when the result is.

    Raises:
      ValueError: `ahead` is less than 1.
    """
    if ahead < 1:
        raise ValueError(f"ahead must be at least 1, got {ahead}")
    put = jax.device_put
    if sharding is not None:
        put = partial(jax.make_array_from_process_local_data, sharding)
    return _prefetched(batches, put, ahead)


def _prefetched(
    batches: Iterable[Batch], put: Callable[[np.ndarray], jax.Array], ahead: int
) -> Iterator[Batch]:
    copied: deque[Batch] = deque()
    for batch in batches:
        copied.append(jax.tree.map(put, batch))
        if len(copied) > ahead:
            yield copied.popleft()
    yield from copied
