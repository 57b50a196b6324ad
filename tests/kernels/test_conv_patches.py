"""Convolutions as products of matrices: the same as by `jax.lax`, to which a switch goes back."""

import contextlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbox_kernels.common import conv_patches, workarounds
from jaxbox_kernels.common.workarounds import Workaround

CASES = {
    "pointwise": (conv_patches.pointwise_conv, 1),
    "patch": (conv_patches.patch_conv, 2),
    "patch transposed": (conv_patches.patch_conv_transpose, 2),
    "upsampling": (conv_patches.upsampling_conv, 3),
}


@pytest.mark.parametrize("outputs", [2, 5])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_output_and_gradients_agree_with_lax(rng, name, batch, outputs):
    function, size = CASES[name]
    x, kernel, bias = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((*batch, 4, 6, 3), (size, size, 3, outputs), (outputs,))
    )

    def results():
        def scalar(*arrays):
            y = function(*arrays)
            return jnp.sum(jnp.sin(y)), y

        return jax.jit(jax.value_and_grad(scalar, (0, 1, 2), has_aux=True))(x, kernel, bias)

    as_products = results()
    with workarounds.disabled(Workaround.MATRIX_PRODUCTS):
        by_lax = results()
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), as_products, by_lax)


@pytest.mark.parametrize("switched_off", [(), (Workaround.MATRIX_PRODUCTS,)])
@pytest.mark.parametrize("outputs", [2, 5])
@pytest.mark.parametrize("axes", [(-1, -3), (-3, -1), (-3, -3)])
def test_pointwise_in_every_layout(rng, axes, outputs, switched_off):
    x, kernel, bias = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((2, 4, 6, 3), (1, 1, 3, outputs), (outputs,))
    )
    expected = conv_patches.pointwise_conv(x, kernel, bias)
    with workarounds.disabled(*switched_off) if switched_off else contextlib.nullcontext():
        y = conv_patches.pointwise_conv(jnp.moveaxis(x, -1, axes[0]), kernel, bias, axes)
    np.testing.assert_allclose(jnp.moveaxis(y, axes[1], -1), expected, rtol=1e-5, atol=1e-5)
