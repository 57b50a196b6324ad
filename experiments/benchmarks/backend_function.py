"""A backend of the box convolution as a function that can be differentiated."""

from collections.abc import Callable

import jax
from jax import Array

from jaxbox_kernels.backend import Backend, Gradients, Options


def differentiable(backend: Backend) -> Callable[[Array, Array], Array]:
    """Makes a function of planes `(N, C, H, W)` and boxes `(C, F, 4)` with a backend's gradients.

    Returns:
      The function, whose result is `(N, C, F, H, W)`.
    """

    @jax.custom_vjp
    def box_conv(x: Array, theta: Array) -> Array:
        return backend.forward(x, theta, Options())

    def forward(x: Array, theta: Array) -> tuple[Array, tuple[Array, Array]]:
        return box_conv(x, theta), (x, theta)

    def backward(residuals: tuple[Array, Array], g: Array) -> Gradients:
        return backend.backward(*residuals, g, Options())

    box_conv.defvjp(forward, backward)
    return box_conv
