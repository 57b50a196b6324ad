"""Box convolution in plain XLA, for CPU, TPU and any GPU that no kernel serves.

Works on planes: `x` is `(N, C, H, W)`, `theta` `(C, F, 4)`, the output `(N, C, F, H, W)`.
"""

import functools

import jax
from jax import Array

from jaxbox_kernels import integral_image, overlap_matrices

# Matrix products cost H + W multiply-adds an output, integral images the same at every size. Times
# of matrices relative to integral images on CPU, forward and backward: 0.8 and 0.6 at H + W = 52,
# 0.8 and 0.7 at 72, 1.4 and 0.7 at 104, 1.6 and 0.7 at 208, 2.1 and 1.7 at 384.
_LARGEST_MATRIX_SIDES = {"forward": 80, "backward": 210}


@functools.partial(jax.jit, static_argnames=("normalize", "whole_pixels"))
def forward(x: Array, theta: Array, *, normalize: bool, whole_pixels: bool = False) -> Array:
    """Box averages, or integrals without `normalize`; faster where all sides lie on pixel edges."""
    # Whole pixels save matrices nothing, and integral images half of the time or more.
    if _takes_matrices("forward", x) and not whole_pixels:
        return overlap_matrices.forward(x, theta, normalize=normalize)
    return integral_image.forward(x, theta, normalize=normalize, whole_pixels=whole_pixels)


@functools.partial(jax.jit, static_argnames="normalize")
def backward(x: Array, theta: Array, g: Array, *, normalize: bool) -> tuple[Array, Array]:
    """Gradients by `x` and by `theta`, given `g`, the one by the output."""
    if _takes_matrices("backward", x):
        return overlap_matrices.backward(x, theta, g, normalize=normalize)
    return _backward_by_integral_images(x, theta, g, normalize)


def _takes_matrices(direction: str, x: Array) -> bool:
    height, width = x.shape[-2:]
    return height + width <= _LARGEST_MATRIX_SIDES[direction]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _backward_by_integral_images(
    x: Array, theta: Array, g: Array, normalize: bool
) -> tuple[Array, Array]:
    return integral_image.backward(x, theta, g, normalize=normalize)


def _backward_fwd(
    x: Array, theta: Array, g: Array, normalize: bool
) -> tuple[tuple[Array, Array], tuple[Array, Array, Array]]:
    return _backward_by_integral_images(x, theta, g, normalize), (x, theta, g)


def _backward_bwd(
    normalize: bool, residuals: tuple[Array, Array, Array], cotangents: tuple[Array, Array]
) -> tuple[Array, Array, Array]:
    # Integral images are whole numbers, which have no derivatives. Matrices have all of them.
    backward = functools.partial(overlap_matrices.backward, normalize=normalize)
    return jax.vjp(backward, *residuals)[1](cotangents)


_backward_by_integral_images.defvjp(_backward_fwd, _backward_bwd)
