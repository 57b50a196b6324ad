"""Derivatives of gradients, where kernels have none of their own."""

import functools
from typing import Protocol

import jax
from jax import Array

from jaxbox_kernels.common.dtypes import sum_dtype
from jaxbox_kernels.xla import overlap_matrices

type Gradients = tuple[Array | None, Array | None]


class Backward(Protocol):
    """An implementation's gradients by `x` and by `theta`."""

    def __call__(
        self,
        x: Array | None,
        theta: Array,
        g: Array,
        *,
        normalize: bool,
        whole_pixels: bool = False,
        by_x: bool = True,
    ) -> Gradients:
        """That by `theta` is left out where there is no `x`, the other without `by_x`."""


def by_matrices(backward: Backward) -> Backward:
    """The same, differentiable: overlap matrices are ordinary functions of boxes and pixels."""

    @functools.wraps(backward)
    def differentiable(
        x: Array | None,
        theta: Array,
        g: Array,
        *,
        normalize: bool,
        whole_pixels: bool = False,
        by_x: bool = True,
    ) -> Gradients:
        @jax.custom_vjp
        def gradients(x: Array | None, theta: Array, g: Array) -> Gradients:
            return backward(x, theta, g, normalize=normalize, whole_pixels=whole_pixels, by_x=by_x)

        def by_overlap(x: Array | None, theta: Array, g: Array) -> Gradients:
            dtype = sum_dtype(theta)
            dx, dtheta = overlap_matrices.backward(
                None if x is None else x.astype(dtype),
                theta.astype(dtype),
                g.astype(dtype),
                normalize=normalize,
                by_x=by_x,
            )
            return None if dx is None else dx.astype(g.dtype), dtheta

        def differentiate(
            arguments: tuple[Array | None, Array, Array], cotangents: Gradients
        ) -> tuple[Array | None, Array, Array]:
            return jax.vjp(by_overlap, *arguments)[1](cotangents)

        gradients.defvjp(lambda *arguments: (gradients(*arguments), arguments), differentiate)
        return gradients(x, theta, g)

    return differentiable
