"""The networks of the box convolution paper, by name."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jaxbox.models import enet, erfnet
from jaxbox.models.network import Architecture, SegmentationNetwork

__all__ = ["NETWORKS", "Architecture", "SegmentationNetwork", "Variant", "create"]

Variant = Literal["paper", "pytorch"]
"""`"paper"`: as counted in Table 3. `"pytorch"`: as in the authors' PyTorch code."""

_VARIANTS: Final[Mapping[str, Mapping[str, Architecture]]] = {
    "paper": {**enet.PAPER, **erfnet.PAPER},
    "pytorch": {**enet.PYTORCH, **erfnet.PYTORCH},
}

NETWORKS: Final[Mapping[str, Architecture]] = MappingProxyType(_VARIANTS["paper"])


def create(
    name: str,
    num_classes: int,
    image_size: tuple[int, int],
    *,
    variant: Variant = "paper",
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
      variant: `"paper"`, the networks of Table 3, or `"pytorch"`, those of the authors' PyTorch
        code: fewer biases, other dropout, PReLU in ENet's decoder. That code has an output for
        void too.
      dtype: Of the computation. Parameters, statistics and boxes are float32.
      rngs: The random keys; the streams `params` and `dropout` are used.

    Returns:
      The network, in training mode: `model.eval()` turns dropout off and uses running statistics.

    Raises:
      ValueError: There is no such network or variant, `num_classes` is below 1, or a side of
        `image_size` is not a multiple of 8.

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
    if variant not in _VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(_VARIANTS)}, got {variant!r}.")
    architecture = _VARIANTS[variant][name]
    return SegmentationNetwork(architecture, num_classes, image_size, dtype=dtype, rngs=rngs)
