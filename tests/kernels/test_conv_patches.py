"""Convolutions as products of matrices: the same as by `jax.lax`, to which a switch goes back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbox_kernels.common import conv_patches

CASES = {
    "pointwise": (conv_patches.pointwise_conv, 1),
    "patch": (conv_patches.patch_conv, 2),
    "patch transposed": (conv_patches.patch_conv_transpose, 2),
    "upsampling": (conv_patches.upsampling_conv, 3),
}


@pytest.mark.parametrize("outputs", [2, 5])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_output_and_gradients_agree_with_lax(rng, monkeypatch, name, batch, outputs):
    function, size = CASES[name]
    x, kernel, bias = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((*batch, 4, 6, 3), (size, size, 3, outputs), (outputs,))
    )

    def results():
        def scalar(*arrays):
            y = function(*arrays)
            return jnp.sum(jnp.sin(y)), y

        # A function of its own, so that nothing is cached from before the switch.
        return jax.jit(jax.value_and_grad(scalar, (0, 1, 2), has_aux=True))(x, kernel, bias)

    as_products = results()
    monkeypatch.setattr(conv_patches, "MATRIX_PRODUCTS", False)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        as_products,
        results(),
    )


@pytest.mark.parametrize("products", [True, False])
@pytest.mark.parametrize("outputs", [2, 5])
@pytest.mark.parametrize("axes", [(-1, -3), (-3, -1), (-3, -3)])
def test_pointwise_in_every_layout(rng, monkeypatch, axes, outputs, products):
    monkeypatch.setattr(conv_patches, "MATRIX_PRODUCTS", products)
    x, kernel, bias = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((2, 4, 6, 3), (1, 1, 3, outputs), (outputs,))
    )
    expected = conv_patches.pointwise_conv(x, kernel, bias)
    y = conv_patches.pointwise_conv(jnp.moveaxis(x, -1, axes[0]), kernel, bias, axes)
    np.testing.assert_allclose(jnp.moveaxis(y, axes[1], -1), expected, rtol=1e-5, atol=1e-5)
