"""The kernel of DO-Conv: values and gradients against its formula."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbox.ops.doconv import doconv_kernel
from tests.cases.box_conv import relative_error
from tests.oracles import conv as conv_oracle


def _oracle(weight, deviation, groups, legacy=False):
    """Every tap, channel and output in turn."""
    *kernel_size, multiplier, inputs = deviation.shape
    taps, own, outputs = math.prod(kernel_size), inputs // groups, weight.shape[-1]
    depthwise = deviation.reshape(taps, multiplier, inputs).copy()
    for copy in range(multiplier // taps):
        for m in range(taps):
            depthwise[m, copy * taps + m] += 1
    kernel = np.zeros((taps, own, outputs))
    for m in range(taps):
        for j in range(own):
            for o in range(outputs):
                group = o % groups if legacy else o // (outputs // groups)
                kernel[m, j, o] = depthwise[m, :, group * own + j] @ weight[:, j, o]
    return kernel.reshape(*kernel_size, own, outputs)


def _draw(rng, kernel_size, multiplier, inputs, outputs, groups):
    shapes = ((multiplier, inputs // groups, outputs), (*kernel_size, multiplier, inputs))
    return tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize(
    ("kernel_size", "multiplier"), [((3,), 3), ((2, 3), 6), ((1, 4), 9), ((2, 1, 2), 8)]
)
def test_kernel_and_gradients(kernel_size, multiplier, groups, legacy, rng):
    arrays = _draw(rng, kernel_size, multiplier, 6, 12, groups)
    options = {"feature_group_count": groups, "legacy_torch_grouping": legacy}
    kernel, vjp = jax.vjp(jax.jit(lambda *arrays: doconv_kernel(*arrays, **options)), *arrays)
    expected = _oracle(*(a.astype(np.float64) for a in arrays), groups, legacy)
    assert relative_error(kernel, expected) <= 1e-5
    g = rng.normal(size=kernel.shape).astype(np.float32)
    directions = [rng.normal(size=array.shape) for array in arrays]
    slopes = conv_oracle.slopes(
        lambda *arrays: (g * _oracle(*arrays, groups, legacy)).sum(), arrays, directions
    )
    assert conv_oracle.error_of_slopes(vjp(g), directions, slopes) <= 1e-5


def test_the_legacy_grouping_agrees_where_the_original_is_right(rng):
    for inputs, outputs, groups in ((4, 6, 1), (4, 4, 4)):
        arrays = _draw(rng, (3, 3), 9, inputs, outputs, groups)
        kernels = [
            doconv_kernel(*arrays, feature_group_count=groups, legacy_torch_grouping=legacy)
            for legacy in (False, True)
        ]
        np.testing.assert_allclose(*kernels, rtol=1e-5, atol=1e-5)


def test_bad_arguments():
    with pytest.raises(ValueError, match="weight must have at least as many elements along S"):
        doconv_kernel(jnp.ones((4, 2, 3)), jnp.ones((3, 3, 4, 2)))
    with pytest.raises(
        ValueError, match=r"deviation must be .* \(9, 2\) .*; got shape \(3, 3, 9, 4\)"
    ):
        doconv_kernel(jnp.ones((9, 2, 3)), jnp.ones((3, 3, 9, 4)))
    with pytest.raises(TypeError, match="weight must be of a real"):
        doconv_kernel(jnp.ones((9, 2, 3), jnp.int32), jnp.ones((3, 3, 9, 2)))
