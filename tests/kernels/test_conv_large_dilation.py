"""Convolution with a large dilation: the same as by `jax.lax`, whether switched on or off."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbox_kernels.common import workarounds
from jaxbox_kernels.common.conv import conv
from jaxbox_kernels.common.conv_large_dilation import conv_large_dilation
from jaxbox_kernels.common.workarounds import Workaround


@pytest.mark.parametrize(
    ("dilation", "options"),
    [
        ((8, 1), {}),
        ((2, 9), {"strides": 2, "padding": "VALID"}),
        ((8, 8), {"padding": [(3, 4), (0, 9)], "feature_group_count": 2}),
        ((4, 4), {}),
    ],
)
def test_output_and_gradients(rng, dilation, options):
    x, kernel = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((2, 20, 19, 4), (3, 2, 4 // options.get("feature_group_count", 1), 6))
    )

    def outputs(*function):
        options_here = dict(zip(("conv_general_dilated",), function, strict=False))

        def scalar(x, kernel):
            y = conv(x, kernel, kernel_dilation=dilation, **options, **options_here)
            return jnp.sum(jnp.sin(y))

        program = jax.jit(jax.value_and_grad(scalar, (0, 1))).lower(x, kernel)
        return program.as_text(), jax.tree.leaves(program.compile()(x, kernel))

    plain, expected = outputs()
    program, found = outputs(conv_large_dilation)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    assert (program == plain) == (max(dilation) < 8)
    with workarounds.disabled(Workaround.DILATION_BY_ZEROS):
        assert outputs(conv_large_dilation)[0] == plain
