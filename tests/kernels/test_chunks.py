"""Many planes are computed a few at a time: the numbers do not depend on how many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbox_kernels.xla import integral_image
from tests.cases.box_conv import boxes_of_all_kinds, images, relative_error
from tests.oracles import box_conv as reference


@pytest.mark.parametrize("planes", [1, 2, 5, 1000])
@pytest.mark.parametrize("shape", [(2, 3), (1, 7), (4, 1)])
def test_outputs_and_gradients(shape, planes, monkeypatch):
    boxes, size = 2, (6, 9)
    outputs = planes * boxes * size[0] * size[1]
    monkeypatch.setattr(integral_image, "_OUTPUTS_AT_ONCE", outputs)
    rng = np.random.default_rng()
    x, theta = images(rng, (*shape, *size)), boxes_of_all_kinds(rng, (shape[1], boxes), size)
    g = rng.normal(size=(*shape, boxes, *size)).astype(np.float32)

    output = integral_image.forward(jnp.asarray(x), jnp.asarray(theta), normalize=True)
    assert relative_error(output, reference.forward(x, theta)) <= 2e-6
    dx, dtheta = integral_image.backward(
        jnp.asarray(x), jnp.asarray(theta), jnp.asarray(g), normalize=True
    )
    expected_dx, expected_dtheta = reference.backward(x, theta, g)
    assert relative_error(dx, expected_dx) <= 5e-6
    assert relative_error(dtheta, expected_dtheta) <= 2e-5


def test_memory_does_not_grow_with_the_batch():
    """16 MB for what makes 32 MB of outputs: section 5's second shape."""
    x = jax.ShapeDtypeStruct((8, 32, 64, 128), jnp.float32)
    theta = jax.ShapeDtypeStruct((32, 4, 4), jnp.float32)
    g = jax.ShapeDtypeStruct((8, 32, 4, 64, 128), jnp.float32)

    def run(x, theta, g):
        return (
            integral_image.forward(x, theta, normalize=True),
            integral_image.backward(x, theta, g, normalize=True),
        )

    analysis = jax.jit(run).lower(x, theta, g).compile().memory_analysis()
    assert analysis.temp_size_in_bytes <= 16e6
