"""Box convolution by Pallas Mosaic kernels, for NVIDIA's Hopper and Blackwell GPUs."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxbox_kernels.backend import Backend


def load() -> "Backend":
    """Imports the backend, and with it Pallas, which machines without a GPU do not need."""
    from jaxbox_kernels.mosaic_gpu.backend import BACKEND

    return BACKEND
