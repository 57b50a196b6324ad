"""BatchNorm against Flax's."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxbox.models.normalization import BatchNorm


def normal(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def test_agrees_with_flax(rng):
    ours = BatchNorm(5, dtype=jnp.float32)
    flax = nnx.BatchNorm(5, momentum=0.9, rngs=nnx.Rngs(0))
    scale, bias = normal(rng, 5), normal(rng, 5)
    for norm in (ours, flax):
        norm.scale[...] = scale
        norm.bias[...] = bias
    x, weight = normal(rng, 3, 4, 6, 5) + 1.5, normal(rng, 3, 4, 6, 5)

    def gradient(norm):
        loss = nnx.grad(lambda norm, x: (norm(x) * weight).sum(), argnums=(0, 1))
        grads, dx = nnx.jit(loss)(norm, x)
        return grads["scale"][...], grads["bias"][...], dx

    for actual, expected in zip(gradient(ours), gradient(flax), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(ours(x), flax(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours.mean[...], flax.mean[...], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours.var[...], flax.var[...], rtol=1e-5)
    ours.eval()
    flax.eval()
    np.testing.assert_allclose(ours(x), flax(x), rtol=1e-5, atol=1e-5)


def test_bfloat16_uses_float32_statistics(rng):
    norm = BatchNorm(3, dtype=jnp.bfloat16)
    x = (normal(rng, 64, 64, 3) + 4.0).astype(jnp.bfloat16)
    y = norm(x)
    assert (y.dtype, norm.mean.dtype) == (jnp.bfloat16, jnp.float32)
    exact = x.astype(jnp.float32)
    np.testing.assert_allclose(norm.mean[...], 0.1 * exact.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(y.astype(jnp.float32).std((0, 1)), 1.0, atol=1e-2)


def test_view_chooses_the_statistics(rng):
    norm = BatchNorm(3, dtype=jnp.float32)
    x = normal(rng, 4, 3) + 1.0
    np.testing.assert_allclose(nnx.view(norm, use_running_average=True)(x), x, rtol=1e-4)


def test_running_affine_is_the_evaluation_mode(rng):
    norm = BatchNorm(3, dtype=jnp.float32)
    norm(normal(rng, 8, 3) + 1.0)
    norm.eval()
    gain, shift = norm.running_affine()
    x = normal(rng, 4, 3)
    expected = x * gain.reshape(1, 3) + shift.reshape(1, 3)
    np.testing.assert_allclose(jax.jit(norm)(x), expected, rtol=1e-5, atol=1e-6)
