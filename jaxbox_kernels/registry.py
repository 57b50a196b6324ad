"""The table of backends, and the choice among them.

A backend is added by a folder with a function `load`, a line in `_TABLE` and a name in
`Implementation`.
"""

from collections.abc import Callable
from typing import Final, Literal, NamedTuple

import jax

from jaxbox_kernels import cpu, mosaic_gpu, xla
from jaxbox_kernels.backend import Backend, by_platform

Implementation = Literal["xla", "mosaic_gpu", "native"]
"""The names by which users ask for a backend."""


class _Entry(NamedTuple):
    """A line of the table of backends.

    Attributes:
      load: imports the backend's modules, which other machines need not do.
      platform: the platform of `jax.lax.platform_dependent` on which the backend is used without
        being asked for; `None` if it serves all platforms.
    """

    load: Callable[[], Backend]
    platform: str | None


_TABLE: Final[dict[Implementation, _Entry]] = {
    "xla": _Entry(xla.load, platform=None),
    "mosaic_gpu": _Entry(mosaic_gpu.load, platform="cuda"),
    "native": _Entry(cpu.load, platform="cpu"),
}


def choose(name: Implementation | None, x: jax.ShapeDtypeStruct, boxes: int) -> Backend:
    """Chooses the backend that computes a box convolution.

    Args:
      name: the backend's name; `None` for the fastest that can serve `x` on the default device.
      x: the shape `(N, C, H, W)` and the dtype of the input.
      boxes: the number of boxes of each channel.

    Returns:
      The backend. Without a name, its programs can be compiled for every platform.

    Raises:
      ValueError: no backend has the name, or the named one cannot serve the dtype, the shape or the
        device.
    """
    if name is None:
        return _default(x, boxes)
    if not isinstance(name, str) or name not in _TABLE:
        raise ValueError(f"implementation must be None or one of {sorted(_TABLE)}; got {name!r}.")
    backend = _TABLE[name].load()
    reason = backend.unsuitable(x, boxes)
    if reason:
        raise ValueError(f"implementation={name!r} cannot serve: {reason}.")
    return backend


def _default(x: jax.ShapeDtypeStruct, boxes: int) -> Backend:
    """The backend for the default device, composed with XLA for other platforms."""
    general = xla.load()
    # JAX's name for both makes of GPU is none of `lax.platform_dependent`'s.
    device = jax.default_backend()
    platform = "cuda" if device == "gpu" else device
    for entry in _TABLE.values():
        # Asking for the reason loads the backend, so it must come last.
        if entry.platform == platform and not (special := entry.load()).unsuitable(x, boxes):
            return by_platform(platform, special, general)
    return general
