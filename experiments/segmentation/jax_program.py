"""A network as a program of `jax.export`, which runs without this project."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import export

import jaxbox
from experiments.common.program import first_line
from experiments.segmentation.artefact import ArtefactError, Logits
from experiments.segmentation.data.source import Size
from jaxbox.models import SegmentationNetwork

PLATFORMS: Final = ("cpu", "cuda", "tpu")
"""The platforms that a program is compiled for."""


def to_jax_program(model: SegmentationNetwork, size: Size) -> bytes:
    """Serialises a network for any number of images of one size, for all of `PLATFORMS`.

    Args:
      model: the network, in the form for inference.
      size: `(H, W)` of the images in pixels.
    """
    # The parameters of a run are spread over the devices of this machine; a program has its own.
    graph, state = nnx.split(model)
    model = nnx.merge(graph, jax.device_get(state))

    def network(images: jax.Array) -> jax.Array:
        return model(images).astype(jnp.float32)

    (number,) = export.symbolic_shape("number")
    images = jax.ShapeDtypeStruct((number, *size, 3), jnp.float32)
    # The fastest backend of this machine need not be there on another, or cannot be exported.
    with jaxbox.default_implementation("xla"), _without_paths():
        exported = export.export(jax.jit(network), platforms=PLATFORMS)(images)
    return bytes(exported.serialize())


def load_jax_program(program: bytes, size: Size, classes: int) -> Logits:
    """Compiles a serialised network for one image at a time.

    Args:
      program: what `to_jax_program` returned.
      size: `(H, W)` of the images in pixels.
      classes: the number of logits of a pixel.

    Raises:
      ArtefactError: it is no such program, or cannot be compiled on this machine.
    """
    try:
        exported = export.deserialize(bytearray(program))
    except Exception as error:  # the reader checks nothing, so that any error is possible
        raise ArtefactError(f"JAX cannot read its program: {first_line(error)}") from error
    shapes = [(a.shape[1:], a.dtype) for a in (*exported.in_avals, *exported.out_avals)]
    if shapes != [((*size, 3), jnp.float32), ((*size, classes), jnp.float32)]:
        raise ArtefactError("its program is for images or classes of other numbers")
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    try:
        compiled = jax.jit(exported.call).lower(image).compile()
    except (ValueError, RuntimeError) as error:
        raise ArtefactError(f"JAX cannot compile its program: {first_line(error)}") from error
    return lambda images: np.asarray(compiled(images))


@contextmanager
def _without_paths() -> Iterator[None]:
    """Keeps JAX from noting in a program which line of which file each operation comes from.

    Those are paths of this machine, and they make the same network another program each time.
    """
    option = "jax_traceback_in_locations_limit"
    before = jax.config.values[option]
    jax.config.update(option, 0)
    try:
        yield
    finally:
        jax.config.update(option, before)
