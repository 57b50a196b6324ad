"""Uses an installed jaxbox as a newcomer does: the operation, layers, a training step, weights."""

import platform
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import jaxbox

has_kernels = jaxbox.backends()["native"] is None
assert has_kernels == (sys.argv[1] == "with"), jaxbox.backends()

# A box of 2 x 2 pixels around the corner of four pixels averages them.
x = jnp.arange(16.0).reshape(4, 4, 1)
y = jaxbox.box_conv(x, jnp.array([[[-0.5, 1.5, -0.5, 1.5]]]))
assert y[1, 1, 0] == jnp.mean(x[1:3, 1:3]), y

model = nnx.Sequential(
    nnx.Linear(3, 8, rngs=nnx.Rngs(0)), jaxbox.BoxConv(8, 2, window=(16, 24), rngs=nnx.Rngs(1))
)
images = jax.random.normal(jax.random.key(0), (2, 16, 24, 3))
optimizer = nnx.Optimizer(model, jaxbox.optim.constrain(optax.adam(1e-2), model), wrt=nnx.Param)


@nnx.jit
def step(model, optimizer):
    """Makes the outputs smaller."""
    loss, gradients = nnx.value_and_grad(lambda model: jnp.mean(model(images) ** 2))(model)
    optimizer.update(model, gradients)
    return loss


losses = [float(step(model, optimizer)) for _ in range(3)]
assert losses[2] < losses[1] < losses[0], losses

layer = jaxbox.linen.BoxConv(num_boxes=2)
assert layer.init_with_output(jax.random.key(0), images)[0].shape == (2, 16, 24, 6)

network = jaxbox.models.create("enet-minus", 2, (16, 24), rngs=nnx.Rngs(0))
card = jaxbox.models.ModelCard(
    "enet-minus", (16, 24), ("road", "car"), (0.5,) * 3, (0.25,) * 3, license="Apache-2.0"
)
with tempfile.TemporaryDirectory() as folder:
    jaxbox.models.save(Path(folder, "weights.safetensors"), network, card)
    loaded, _ = jaxbox.models.load(Path(folder, "weights.safetensors"))
network.eval()
assert jnp.array_equal(loaded(images), network(images))

kernels = "with" if has_kernels else "without"
print(
    f"jaxbox {jaxbox.__version__} {kernels} native kernels works with Python "
    f"{platform.python_version()} and JAX {jax.__version__}"
)
