"""The table of the networks by their names, and how one of them is built."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jaxbox.arguments import check_choice
from jaxbox.models import enet, erfnet
from jaxbox.models.architecture import Architecture
from jaxbox.models.network import SegmentationNetwork

__all__ = ["NETWORKS", "VARIANTS", "Variant", "create"]

Variant = Literal["paper", "pytorch"]
"""`"paper"` is as counted in Table 3, `"pytorch"` is as in the authors' PyTorch code."""

VARIANTS: Final[Mapping[Variant, dict[str, Architecture]]] = MappingProxyType(
    {
        "paper": {**enet.PAPER, **erfnet.PAPER},
        "pytorch": {**enet.PYTORCH, **erfnet.PYTORCH},
    }
)
"""The networks of each variant by their names."""

NETWORKS: Final[Mapping[str, Architecture]] = MappingProxyType(VARIANTS["paper"])
"""The networks of Table 3 by their names."""


def create(
    name: str,
    num_classes: int,
    image_size: tuple[int, int],
    *,
    variant: Variant = "paper",
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
) -> SegmentationNetwork:
    """Builds a network of the paper.

    Source: Burkov & Lempitsky 2018, section 4 and Table 3.

    Args:
      name: A key of `NETWORKS`.
      num_classes: The number of logits of a pixel.
      image_size: The size `(H, W)` of the images in pixels. It sets the windows of the boxes. The
        network accepts images of other sizes too.
      variant: `"paper"` for the networks of Table 3, or `"pytorch"` for those of the authors'
        PyTorch code, which have fewer biases, other dropout rates and PReLU in ENet's decoder.
        There, class 0 is void.
      dtype: The dtype of the computation. Parameters, statistics and boxes are float32.
      rngs: The random keys; the streams `params` and `dropout` are used.

    Returns:
      The network in training mode. `model.eval()` turns dropout off and uses running statistics.

    Raises:
      TypeError: An argument is of the wrong type.
      ValueError: `name` or `variant` is unknown, `num_classes` is below 1, or `H` or `W` is not a
        multiple of 8.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from jaxbox import models
      >>> model = models.create("enet", num_classes=11, image_size=(16, 24), rngs=nnx.Rngs(0))
      >>> model.eval()
      >>> jax.eval_shape(model, jax.ShapeDtypeStruct((2, 16, 24, 3), "float32")).shape
      (2, 16, 24, 11)
    """
    check_choice("name", name, tuple(NETWORKS))
    check_choice("variant", variant, tuple(VARIANTS))
    architecture = VARIANTS[variant][name]
    return SegmentationNetwork(architecture, num_classes, image_size, dtype=dtype, rngs=rngs)
