"""Which kernels compute the box convolution."""

from types import ModuleType
from typing import Literal, get_args

import jax
from jax.typing import DTypeLike

from jaxbox_kernels.xla import backend as xla

Implementation = Literal["xla", "mosaic_gpu"]


def pick(
    implementation: Implementation | None, shape: tuple[int, ...], dtype: DTypeLike, boxes: int
) -> ModuleType:
    """The kernels for planes of a shape `(N, C, H, W)` with so many boxes each.

    Raises:
      ValueError: `implementation` is unknown, or cannot serve the dtype, the shape or the device.
    """
    if implementation is None:
        return _pick_by_device(shape, dtype, boxes)
    if implementation == "xla":
        return xla
    if implementation != "mosaic_gpu":
        raise ValueError(
            f"implementation must be None or one of {sorted(get_args(Implementation))}; "
            f"got {implementation!r}."
        )
    from jaxbox_kernels.mosaic_gpu import backend as mosaic_gpu

    reason = mosaic_gpu.unsuitable_device() or mosaic_gpu.unsuitable_planes(shape, dtype, boxes)
    if reason:
        raise ValueError(f"implementation='mosaic_gpu' cannot serve: {reason}.")
    return mosaic_gpu


def _pick_by_device(shape: tuple[int, ...], dtype: DTypeLike, boxes: int) -> ModuleType:
    if jax.default_backend() != "gpu":
        return xla
    # Machines without a GPU need not load what is for GPUs only.
    from jaxbox_kernels import by_platform
    from jaxbox_kernels.mosaic_gpu import backend as mosaic_gpu

    if mosaic_gpu.unsuitable_device() or mosaic_gpu.unsuitable_planes(shape, dtype, boxes):
        return xla
    return by_platform
