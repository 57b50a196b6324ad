"""Copying batches to the devices before they are needed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import jax
import numpy as np

from experiments.segmentation.input.pipeline import Batch


def to_device(
    batches: Iterable[Batch], sharding: jax.sharding.Sharding | None = None, ahead: int = 2
) -> Iterator[Batch]:
    """Keeps batches on the devices or on their way there before they are needed.

    Args:
      batches: in this process's memory; with several processes the part that each loads.
      sharding: how the batch of all processes together lies on their devices; by default this
        process's batch on its default device.
      ahead: how many batches are on the devices besides the one that is computed with.

    Returns:
      The same batches, of `jax.Array`s. Batches are taken from `batches` when one is asked for.

    Raises:
      ValueError: `ahead` is less than 1.
    """
    if ahead < 1:
        raise ValueError(f"ahead must be at least 1, got {ahead}")
    put = jax.device_put
    if sharding is not None:
        put = partial(jax.make_array_from_process_local_data, sharding)
    return _keep_under_way(batches, put, ahead)


def _keep_under_way(
    batches: Iterable[Batch], put: Callable[[np.ndarray], jax.Array], ahead: int
) -> Iterator[Batch]:
    under_way: deque[Batch] = deque()
    for batch in batches:
        under_way.append(jax.tree.map(put, batch))
        if len(under_way) > ahead:
            yield under_way.popleft()
    yield from under_way
