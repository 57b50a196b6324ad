"""The network that a run trains."""

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.common.program import UserError
from experiments.segmentation.data.source import Size
from experiments.segmentation.training.box_learning import prepare_boxes
from experiments.segmentation.training.settings import Settings
from jaxbox import models, surgery


def build_network(settings: Settings, num_classes: int, size: Size) -> models.SegmentationNetwork:
    """Builds the network with its initial parameters.

    Args:
      settings: the run's settings, of which model, context, box_learning, dropout,
        precision and seed are used.
      num_classes: the number of classes, which is the number of logits for each pixel.
      size: `(H, W)` of the images in pixels.

    Raises:
      UserError: the network has no dilated convolutions, or none that the layer can replace.
    """
    # XLA compiles this generator many times faster than JAX's default one.
    rngs = nnx.Rngs(jax.random.key(settings.seed, impl="rbg"))
    dtype = {"float32": jnp.float32, "bf16": jnp.bfloat16}[settings.precision]
    model = models.create(settings.model, num_classes, size, dtype=dtype, rngs=rngs)
    if settings.context != "dilated":
        try:
            model = surgery.replace_convs(model, settings.context, rngs=rngs)
        except ValueError as error:
            raise UserError(
                f"--context must be dilated for {settings.model}; got {settings.context}: {error}"
            ) from error
    prepare_boxes(model, settings.box_learning, rngs)
    for _, layer in nnx.iter_modules(model):
        if isinstance(layer, nnx.Dropout):
            layer.rate *= settings.training.dropout
    return model
