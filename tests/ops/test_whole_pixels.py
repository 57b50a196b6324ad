"""Boxes on whole pixels: the cheaper path gives what the exact one gives for rounded boxes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbox
from jaxbox import boxes
from tests.cases.box_conv import boxes_of_all_kinds, images, relative_error, to_channels_last
from tests.oracles import box_conv as reference

SIZES = [(1, 1), (1, 9), (9, 1), (7, 11), (64, 128), (3, 330)]
C, F = 4, 8


def case(size):
    rng = np.random.default_rng()
    x = images(rng, (2, C, *size))
    return x, boxes_of_all_kinds(rng, (C, F), size)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_outputs_are_those_of_the_rounded_boxes(size, normalize):
    x, theta = case(size)
    rounded = np.asarray(boxes.round_to_pixels(theta))
    planes = to_channels_last(x)
    output = jaxbox.box_conv(planes, theta, normalize=normalize, whole_pixels=True)
    expected = to_channels_last(reference.forward(x, rounded, normalize=normalize))
    assert relative_error(output, expected) <= 2e-6
    exact = jaxbox.box_conv(planes, rounded, normalize=normalize)
    assert relative_error(output, np.asarray(exact, np.float64)) <= 4e-6


@pytest.mark.parametrize("size", [(7, 11), (64, 128)])
def test_gradients(size):
    x, theta = case(size)
    rounded = np.asarray(boxes.round_to_pixels(theta))
    g = np.random.default_rng().normal(size=(2, C, F, *size)).astype(np.float32)

    def op(x, theta):
        return jaxbox.box_conv(x, theta, whole_pixels=True)

    _, pull_back = jax.vjp(op, jnp.asarray(to_channels_last(x)), jnp.asarray(theta))
    dx, dtheta = pull_back(jnp.asarray(to_channels_last(g)))
    expected, _ = reference.backward(x, rounded, g)
    assert relative_error(dx, to_channels_last(expected)) <= 5e-6
    assert not dtheta.any()


def test_the_path_is_cheaper():
    """It reads 4 corners of the integral image where fractions take twice 4 sides."""
    x, theta = case((64, 128))

    def reads(*, whole_pixels):
        jaxpr = jax.make_jaxpr(lambda *a: jaxbox.box_conv(*a, whole_pixels=whole_pixels))
        return str(jaxpr(to_channels_last(x), theta)).count("slice_sizes=(1, 128)")

    assert (reads(whole_pixels=True), reads(whole_pixels=False)) == (4, 8)
