"""What is particular to integral images: chunks, memory, and the cheaper path on whole pixels."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbox
from jaxbox_kernels.backend import Options
from jaxbox_kernels.xla import chunks
from jaxbox_kernels.xla.backend import INTEGRAL_IMAGES
from tests.cases.backends import run
from tests.cases.box_conv import arguments, assert_close
from tests.oracles import box_conv as oracle

_SIZE, _BOXES = (6, 9), 2


@pytest.mark.parametrize(("planes", "size"), [(1, 1), (2, 2), (3, None), (5, None), (1000, None)])
def test_planes_are_computed_in_chunks_of_equal_size(planes, size, monkeypatch, rng):
    """Of 6 planes, as many at a time as fit, or all if there are no more than twice as many."""
    monkeypatch.setattr(chunks, "_CHUNK_OUTPUTS", planes * _BOXES * math.prod(_SIZE))
    x, theta, _ = arguments(rng, _SIZE, batch=1, channels=6, number=_BOXES)
    seen = []

    def function(theta, x):
        seen.append(len(x))
        return x.sum((-1, -2)) + theta[:, 0, 0]

    result = chunks.map_planes(function, jnp.asarray(theta), jnp.asarray(x[0]))
    np.testing.assert_allclose(result, x[0].sum((-1, -2)) + theta[:, 0, 0], rtol=1e-4, atol=1e-4)
    assert set(seen) == {size or 6}


# Chunks of two planes divide the first number of planes and not the second.
@pytest.mark.parametrize(("batch", "channels", "planes"), [(2, 3, 2), (1, 7, 2), (4, 1, 1)])
def test_numbers_do_not_depend_on_the_chunk_size(batch, channels, planes, monkeypatch, rng):
    monkeypatch.setattr(chunks, "_CHUNK_OUTPUTS", planes * _BOXES * math.prod(_SIZE))
    x, theta, g = arguments(rng, _SIZE, batch=batch, channels=channels, number=_BOXES)
    # JAX must not find what it traced with chunks of another size.
    run_anew = jax.jit(functools.partial(run.__wrapped__, backend=INTEGRAL_IMAGES))
    output, dx, dtheta = run_anew(x, theta, g)
    expected_dx, expected_dtheta = oracle.backward(x, theta, g)
    assert_close(output, oracle.forward(x, theta), "forward")
    assert_close(dx, expected_dx, "dx")
    assert_close(dtheta, expected_dtheta, "dtheta")


def test_memory_does_not_grow_with_the_batch():
    """16 MB for what makes 32 MB of outputs: section 5's second shape."""
    x = jax.ShapeDtypeStruct((8, 32, 64, 128), jnp.float32)
    theta = jax.ShapeDtypeStruct((32, 4, 4), jnp.float32)
    g = jax.ShapeDtypeStruct((8, 32, 4, 64, 128), jnp.float32)
    lowered = run.lower(x, theta, g, backend=INTEGRAL_IMAGES, options=Options())
    assert lowered.compile().memory_analysis().temp_size_in_bytes <= 16e6


def test_whole_pixels_take_fewer_reads():
    """4 corners of the integral image, where fractions take 4 rows and 4 columns."""
    x, theta = np.ones((2, 64, 128, 4), np.float32), np.ones((4, 8, 4), np.float32)

    def reads(*, whole_pixels):
        by_xla = functools.partial(jaxbox.box_conv, whole_pixels=whole_pixels, implementation="xla")
        jaxpr = jax.make_jaxpr(by_xla)
        return str(jaxpr(x, theta)).count("slice_sizes=(1, 128)")

    assert (reads(whole_pixels=True), reads(whole_pixels=False)) == (4, 8)
