"""The Mosaic kernels where a program is compiled for a GPU, XLA where it is for something else.

Only for machines whose GPUs can run them: on others, Mosaic's compiler ends the process.
"""

import functools
from typing import Any

from jax import Array, lax

from jaxbox_kernels.mosaic_gpu import backend as mosaic_gpu
from jaxbox_kernels.xla import backend as xla


def forward(x: Array, theta: Array, *, normalize: bool, whole_pixels: bool = False) -> Array:
    """Box averages, or integrals without `normalize`; faster where all sides lie on pixel edges."""
    options: dict[str, Any] = {"normalize": normalize, "whole_pixels": whole_pixels}
    return lax.platform_dependent(
        x,
        theta,
        cuda=functools.partial(mosaic_gpu.forward, **options),
        default=functools.partial(xla.forward, **options),
    )


def backward(
    x: Array | None,
    theta: Array,
    g: Array,
    *,
    normalize: bool,
    whole_pixels: bool = False,
    by_x: bool = True,
) -> tuple[Array | None, Array | None]:
    """Gradients by `x` and by `theta`, given `g`, the one by the output.

    That by `theta` is left out where there is no `x`, the other without `by_x`.
    """
    options: dict[str, Any] = {
        "normalize": normalize,
        "whole_pixels": whole_pixels,
        "by_x": by_x,
    }
    return lax.platform_dependent(
        x,
        theta,
        g,
        cuda=functools.partial(mosaic_gpu.backward, **options),
        default=functools.partial(xla.backward, **options),
    )
