"""Box convolution in plain XLA, for every platform."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxbox_kernels.backend import Backend


def load() -> "Backend":
    """Imports the backend."""
    from jaxbox_kernels.xla.backend import BACKEND

    return BACKEND


def load_elsewhere() -> "Backend":
    """Imports a backend that is for all platforms but CPUs."""
    from jaxbox_kernels.xla.backend import BACKEND_ELSEWHERE

    return BACKEND_ELSEWHERE
