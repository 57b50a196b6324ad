"""Box convolution in plain XLA, for CPU, TPU and any GPU that no kernel serves.

Works on planes: `x` is `(N, C, H, W)`, `theta` `(C, F, 4)`, the output `(N, C, F, H, W)`.
"""

import functools

import jax
from jax import Array

from jaxbox_kernels import integral_image, overlap_matrices

# Matrix products cost H + W multiply-adds an output, integral images the same at every size. Times
# of matrices relative to integral images on CPU, forward and backward: 0.9 and 0.6 at H + W = 32,
# 1.1 and 0.9 at 48, 1.0 and 1.3 at 52, 1.3 and 1.0 at 72, 1.6 and 1.7 at 104, 2.5 and 4.9 at 192.
_LARGEST_MATRIX_SIDES = 50


@functools.partial(jax.jit, static_argnames=("normalize", "whole_pixels"))
def forward(x: Array, theta: Array, *, normalize: bool, whole_pixels: bool = False) -> Array:
    """Box averages, or integrals without `normalize`; faster where all sides lie on pixel edges."""
    # Whole pixels save matrices nothing, and integral images a fifth to a third of the time.
    if _takes_matrices(x) and not whole_pixels:
        return overlap_matrices.forward(x, theta, normalize=normalize)
    return integral_image.forward(x, theta, normalize=normalize, whole_pixels=whole_pixels)


@functools.partial(jax.jit, static_argnames=("normalize", "whole_pixels", "by_x"))
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
    if _takes_matrices(g):
        return overlap_matrices.backward(x, theta, g, normalize=normalize, by_x=by_x)
    return _backward_by_integral_images(x, theta, g, normalize, whole_pixels, by_x)


def _takes_matrices(planes: Array) -> bool:
    return sum(planes.shape[-2:]) <= _LARGEST_MATRIX_SIDES


type _Gradients = tuple[Array | None, Array | None]
type _Residuals = tuple[Array | None, Array, Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _backward_by_integral_images(
    x: Array | None, theta: Array, g: Array, normalize: bool, whole_pixels: bool, by_x: bool
) -> _Gradients:
    return integral_image.backward(
        x, theta, g, normalize=normalize, whole_pixels=whole_pixels, by_x=by_x
    )


def _backward_fwd(
    x: Array | None, theta: Array, g: Array, normalize: bool, whole_pixels: bool, by_x: bool
) -> tuple[_Gradients, _Residuals]:
    gradients = _backward_by_integral_images(x, theta, g, normalize, whole_pixels, by_x)
    return gradients, (x, theta, g)


def _backward_bwd(
    normalize: bool, whole_pixels: bool, by_x: bool, residuals: _Residuals, cotangents: _Gradients
) -> _Residuals:
    del whole_pixels  # the boxes are the same
    # Integral images are whole numbers, which have no derivatives. Matrices have all of them.
    backward = functools.partial(overlap_matrices.backward, normalize=normalize, by_x=by_x)
    return jax.vjp(backward, *residuals)[1](cotangents)


_backward_by_integral_images.defvjp(_backward_fwd, _backward_bwd)
