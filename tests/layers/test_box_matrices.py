"""Box convolution as plain matrix products: the same averages, made of simple operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxbox import boxes, models, surgery
from jaxbox.layers import BoxConv, BoxMatrices
from tests.cases.networks import SMALL_ENET, build
from tests.oracles import box_conv as oracle


def _layer(**options):
    return BoxConv(3, 2, window=(9, 12), rngs=nnx.Rngs(0), **options)


@pytest.mark.parametrize("channel_axis", [-1, -3])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("whole_pixels", [True, False])
@pytest.mark.parametrize("batch", [(), (2,), (2, 1)])
def test_it_averages_as_the_oracle_does(channel_axis, normalize, whole_pixels, batch, rng):
    layer = _layer(channel_axis=channel_axis, normalize=normalize, whole_pixels=whole_pixels)
    planes = rng.normal(size=(*batch, 3, 9, 12)).astype(np.float32)
    theta = layer.theta[...]
    if whole_pixels:
        theta = boxes.round_to_pixels(theta)
    images = planes.reshape(-1, *planes.shape[-3:])
    expected = oracle.forward(images, np.asarray(theta), normalize=normalize)
    expected = expected.reshape(*batch, 6, 9, 12)
    y = BoxMatrices(layer)(jnp.moveaxis(planes, -3, channel_axis))
    actual = np.moveaxis(np.asarray(y), channel_axis, -3)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_it_computes_with_valid_boxes():
    layer = _layer()
    layer.theta[...] = jnp.full_like(layer.theta[...], 99.0)
    x = jnp.ones((9, 12, 3))
    np.testing.assert_allclose(BoxMatrices(layer)(x), layer(x), rtol=1e-6, atol=1e-7)


def test_it_returns_the_dtype_of_the_layer():
    x = jnp.ones((9, 12, 3), jnp.bfloat16)
    assert BoxMatrices(_layer())(x).dtype == jnp.bfloat16
    assert BoxMatrices(_layer(dtype=jnp.float32))(x).dtype == jnp.float32


def test_it_has_no_control_flow_and_no_wide_numbers():
    program = str(jax.make_jaxpr(BoxMatrices(_layer()))(jnp.ones((9, 12, 3))))
    assert "dot_general" in program
    for name in ("cond", "while", "scan", "platform_index", "f64", "i64", "bitcast"):
        assert name not in program


def test_any_other_layer_is_refused():
    with pytest.raises(TypeError, match="layer must be a BoxConv, got a Conv"):
        BoxMatrices(nnx.Conv(1, 1, (1, 1), rngs=nnx.Rngs(0)))


def test_every_box_convolution_of_a_network_is_replaced(rng):
    model = models.inference.for_inference(build(SMALL_ENET))
    replaced = surgery.boxes_to_matrices(model)
    kinds = {type(module) for _, module in nnx.iter_modules(replaced)}
    assert BoxMatrices in kinds
    assert BoxConv not in kinds
    assert any(isinstance(module, BoxConv) for _, module in nnx.iter_modules(model))
    x = jnp.asarray(rng.normal(size=(1, 16, 24, 3)), jnp.float32)
    expected = jax.jit(lambda x: model(x))(x)
    actual = jax.jit(lambda x: replaced(x))(x)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("options", [{"strides": 2}, {"padding": "edge"}, {"num_dims": 1}])
def test_layers_that_matrices_do_not_stand_for_are_refused(options):
    layer = BoxConv(3, 2, rngs=nnx.Rngs(0), **options)
    with pytest.raises(ValueError, match="layer must be for images, with zeros outside"):
        BoxMatrices(layer)
