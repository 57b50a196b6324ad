"""Convolutions with kernels larger than the image, against the oracle."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbox_kernels.common import workarounds
from jaxbox_kernels.common.conv import conv
from jaxbox_kernels.common.conv_large_kernel import conv_large_kernel
from jaxbox_kernels.common.workarounds import Workaround
from tests.cases.box_conv import relative_error
from tests.oracles import conv as conv_oracle

# Image, kernel, stride, padding, groups.
CASES = (
    ((5,), (9,), 1, "SAME", 1),
    ((4,), (31,), 3, "SAME", 1),
    ((3, 4), (5, 6), 1, "SAME", 1),
    ((3, 4), (17, 16), 1, "SAME", 2),
    ((1, 7), (9, 9), 1, "SAME", 1),
    ((7, 1), (2, 5), 2, "SAME", 1),
    ((5, 6), (8, 7), 2, "SAME", 1),
    ((1, 1), (3, 3), 1, "SAME", 1),
    ((3, 3), (4, 5), 1, [(4, 0), (1, 3)], 1),
    ((3, 3), (6, 2), 2, [(9, 7), (0, 0)], 1),
    ((2, 3, 2), (4, 3, 5), 1, "SAME", 2),
    ((6, 7), (3, 3), 1, "SAME", 1),
)


@pytest.mark.parametrize(("image", "size", "stride", "padding", "groups"), CASES)
def test_output_and_gradients(image, size, stride, padding, groups, rng):
    x = rng.normal(size=(2, *image, 4)).astype(np.float32)
    kernel = rng.normal(size=(*size, 4 // groups, 6)).astype(np.float32)
    options = {"strides": stride, "padding": padding, "groups": groups}

    def expected(x, kernel):
        return np.stack([conv_oracle.convolve(image, kernel, **options) for image in x])

    def found(x, kernel):
        return conv(
            x,
            kernel,
            strides=stride,
            padding=padding,
            feature_group_count=groups,
            conv_general_dilated=conv_large_kernel,
        )

    y = found(x, kernel)
    assert relative_error(y, expected(x, kernel)) < 1e-5

    g = rng.normal(size=y.shape).astype(np.float32)
    dx, dkernel = jax.jit(jax.grad(lambda *arrays: jnp.vdot(g, found(*arrays)), (0, 1)))(x, kernel)
    along_x, along_kernel = (rng.normal(size=array.shape) for array in (x, kernel))
    slopes = conv_oracle.slopes(
        lambda x, kernel: np.vdot(g, expected(x, kernel)), (x, kernel), (along_x, along_kernel)
    )
    derivatives = [
        np.vdot(along_x, np.asarray(dx, np.float64)),
        np.vdot(along_kernel, np.asarray(dkernel, np.float64)),
    ]
    scale = np.linalg.norm(g) * np.linalg.norm(x) * np.linalg.norm(kernel)
    np.testing.assert_allclose(derivatives, slopes, atol=1e-6 * scale)


@pytest.mark.parametrize(
    ("pixels", "after", "outputs"), [(2, -9, 0), (2, -7, 2), (0, -6, 1), (0, 0, 7)]
)
def test_windows_that_never_meet_the_image(pixels, after, outputs):
    x, kernel = jnp.ones((1, pixels, 1)), jnp.ones((3, 1, 1))
    names = ("NWC", "WIO", "NWC")
    y = conv_large_kernel(x, kernel, (1,), [(9, after)], dimension_numbers=names)
    np.testing.assert_array_equal(y, np.zeros((1, outputs, 1)))


def test_bfloat16(rng):
    x, kernel = (
        jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in ((1, 5, 4), (9, 4, 3))
    )
    y = conv_large_kernel(x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
    assert y.dtype == jnp.bfloat16
    expected = conv_oracle.convolve(x[0], kernel)
    assert relative_error(y[0], expected) < 0.02


def test_no_block_is_larger_than_the_image():
    """Otherwise XLA would exchange the two and reverse the image, which is the kernel then."""
    names = ("NHWC", "HWIO", "NHWC")
    x, kernel = jnp.ones((2, 6, 7, 3)), jnp.ones((11, 9, 3, 4))

    def reverses_windows():
        function = partial(
            conv_large_kernel, window_strides=(1, 1), padding="SAME", dimension_numbers=names
        )
        program = jax.jit(function).lower(x, kernel).compile().as_text()
        assert "convolution(" in program
        return "rhs_reversal" in program

    assert not reverses_windows()
    with workarounds.disabled(Workaround.LARGE_KERNEL_BLOCKS):
        assert reverses_windows()
