"""Gradients of outputs that were computed at some positions only."""

import functools

from jax import Array

from jaxbox_kernels.backend import Backward, Gradients, Options
from jaxbox_kernels.common.strides import spread_out


def by_spreading(backward: Backward) -> Backward:
    """Extends a backend's `backward`, which knows no strides, to all strides.

    The gradient with respect to outputs that were not computed is 0.
    """

    @functools.wraps(backward)
    def strided(x: Array | None, theta: Array, g: Array, options: Options) -> Gradients:
        if not options.is_strided or options.input_size is None:
            return backward(x, theta, g, options)
        spread = spread_out(g, options.strides, options.input_size)
        return backward(x, theta, spread, options.at_every_pixel)

    return strided
