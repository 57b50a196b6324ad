"""The table of backends, and the choice among them.

A backend is added by a folder with a function `load`, a line in `_TABLE` and a name in
`Implementation`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, Literal, NamedTuple

import jax
import numpy as np

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


# A part of what JAX caches programs by, so that functions that were traced outside of a block are
# traced again inside.
_default_name = jax.make_user_context(None)


def default_implementation(name: Implementation | None) -> AbstractContextManager[None]:
    """Sets the backend that a block of code uses where none is named.

    It holds where `implementation` is `None`, for what JAX traces inside the block. Programs for
    `jax.export` need it on a CPU with native kernels, which `jax.export` does not accept.

    Args:
      name: the backend's name; `None` for the fastest that can serve the input.

    Returns:
      A context manager.

    Raises:
      ValueError: no backend has the name.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import jaxbox
      >>> x = jax.ShapeDtypeStruct((8, 8, 1), jnp.float32)
      >>> theta = jax.ShapeDtypeStruct((1, 2, 4), jnp.float32)
      >>> with jaxbox.default_implementation("xla"):
      ...     exported = jax.export.export(jax.jit(jaxbox.box_conv))(x, theta)
    """
    if name is not None:
        _check_name(name)
    context: AbstractContextManager[None] = _default_name(name)
    return context


def backends() -> dict[Implementation, str | None]:
    """Tells which backends can serve on the default device.

    Returns:
      For each backend's name `None` if it can serve an image of 1x1 pixels in float32, else the
      reason why it cannot.

    Example:
      >>> import jaxbox
      >>> jaxbox.backends()["xla"] is None
      True
    """
    return {name: _why_not_here(entry) for name, entry in _TABLE.items()}


def _why_not_here(entry: _Entry) -> str | None:
    if entry.platform not in (None, _platform()):
        return f"it is for {entry.platform}; the default device is a {_platform()}"
    return entry.load().unsuitable(jax.ShapeDtypeStruct((1, 1, 1, 1), np.float32), 1)


def _platform() -> str:
    """The default device's platform, as `lax.platform_dependent` calls it."""
    # JAX's name for both makes of GPU is none of `lax.platform_dependent`'s.
    device = jax.default_backend()
    return "cuda" if device == "gpu" else device


def choose(
    name: Implementation | None, x: jax.ShapeDtypeStruct, boxes: int, *, is_strided: bool = False
) -> Backend:
    """Chooses the backend that computes a box convolution.

    Args:
      name: the backend's name; `None` for the fastest that can serve `x` on the default device.
      x: the shape `(N, C, H, W)` and the dtype of the input.
      boxes: the number of boxes of each channel.
      is_strided: whether outputs are computed at some positions only.

    Returns:
      The backend. Without a name, its programs can be compiled for every platform.

    Raises:
      ValueError: no backend has the name, or the named one cannot serve the dtype, the shape or the
        device.
    """
    if name is None:
        name = _default_name.value
    if name is None:
        return _default(x, boxes, is_strided)
    _check_name(name)
    backend = _TABLE[name].load()
    reason = backend.unsuitable(x, boxes)
    if is_strided and not backend.has_strides:
        reason = "it has no strides but 1"
    if reason:
        raise ValueError(f"implementation={name!r} cannot serve: {reason}.")
    return backend


def _check_name(name: object) -> None:
    if not isinstance(name, str) or name not in _TABLE:
        raise ValueError(f"implementation must be None or one of {sorted(_TABLE)}; got {name!r}.")


def _default(x: jax.ShapeDtypeStruct, boxes: int, is_strided: bool) -> Backend:
    """The backend for the default device, composed with XLA for other platforms."""
    platform = _platform()
    for entry in _TABLE.values():
        if entry.platform != platform:
            continue
        # Only now, since it imports the backend's modules.
        special = entry.load()
        if not special.unsuitable(x, boxes) and (special.has_strides or not is_strided):
            general = xla.load_elsewhere() if platform == "cpu" else xla.load()
            return by_platform(platform, special, general)
    return xla.load()
