"""The networks of the box convolution paper, by name."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jaxbox.models.enet import BOX_ENET, ENET, ENET_MINUS
from jaxbox.models.network import Architecture, SegmentationNetwork

__all__ = ["NETWORKS", "Architecture", "SegmentationNetwork", "create"]

NETWORKS: Final[Mapping[str, Architecture]] = MappingProxyType(
    {"enet": ENET, "boxenet": BOX_ENET, "enet-minus": ENET_MINUS}
)


def create(
    name: str,
    num_classes: int,
    image_size: tuple[int, int],
    *,
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
) -> SegmentationNetwork:
    """Builds a network by its name.

    Source: Burkov & Lempitsky 2018, section 4 and Table 3.

    Args:
      name: A key of `NETWORKS`.
      num_classes: Number of logits of a pixel.
      image_size: `(H, W)` in pixels. It sets the windows of the boxes; the network takes images of
        other sizes too.
      dtype: Of the computation. Parameters, statistics and boxes are float32.
      rngs: The random keys; the streams `params` and `dropout` are used.

    Returns:
      The network, in training mode: `model.eval()` turns dropout off and uses running statistics.

    Raises:
      ValueError: There is no such network, `num_classes` is below 1, or a side of `image_size` is
        not a multiple of 8.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from jaxbox import models
      >>> model = models.create("enet", num_classes=11, image_size=(16, 24), rngs=nnx.Rngs(0))
      >>> model.eval()
      >>> jax.eval_shape(model, jax.ShapeDtypeStruct((2, 16, 24, 3), "float32")).shape
      (2, 16, 24, 11)
    """
    if name not in NETWORKS:
        raise ValueError(f"name must be one of {', '.join(NETWORKS)}, got {name!r}.")
    return SegmentationNetwork(NETWORKS[name], num_classes, image_size, dtype=dtype, rngs=rngs)
