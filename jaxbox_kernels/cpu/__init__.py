"""Box convolution by native kernels for CPUs: C++ that XLA calls."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxbox_kernels.backend import Backend


def load() -> "Backend":
    """Imports the backend, and with it the library."""
    from jaxbox_kernels.cpu.backend import BACKEND

    return BACKEND
