"""From a kernel to Flax's convolution with it."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

__all__ = ["check_groups", "conv_with", "positive_sizes"]


def conv_with(
    kernel: jax.Array, bias: jax.Array | None, *, feature_group_count: int = 1, **options: Any
) -> nnx.Conv:
    """Makes a `flax.nnx.Conv` of a kernel and a bias that exist already.

    Args:
      kernel: `(*kernel_size, I / groups, O)`.
      bias: `(O,)`, or `None` for a convolution without one.
      feature_group_count: The number of groups.
      **options: Of `flax.nnx.Conv`.

    Returns:
      The layer.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.layers.plain_conv import conv_with
      >>> conv = conv_with(jnp.ones((3, 1, 1)), None)
      >>> conv(jnp.ones((4, 1)))[:, 0].tolist()
      [2.0, 3.0, 3.0, 2.0]
    """
    *kernel_size, inputs, outputs = kernel.shape
    return nnx.Conv(
        inputs * feature_group_count,
        outputs,
        kernel_size,
        feature_group_count=feature_group_count,
        use_bias=bias is not None,
        kernel_init=lambda *_: kernel,
        bias_init=lambda *_: bias,
        rngs=nnx.Rngs(0),
        **options,
    )


def positive_sizes(
    name: str, sizes: int | Sequence[int], rank: int | None = None
) -> tuple[int, ...]:
    """Returns an argument as a tuple of sizes, one for each spatial axis.

    Args:
      name: Of the argument.
      sizes: One size for every axis, or one for each.
      rank: The number of spatial axes; `None` for as many as there are sizes.

    Returns:
      The sizes.

    Raises:
      ValueError: There is another number of sizes, or one is below 1.

    Example:
      >>> from jaxbox.layers.plain_conv import positive_sizes
      >>> positive_sizes("dilation", 2, rank=3)
      (2, 2, 2)
    """
    sizes = (sizes,) * (rank or 1) if isinstance(sizes, int) else tuple(sizes)
    if min(sizes, default=0) < 1 or len(sizes) != (rank or len(sizes)):
        expected = "positive" if rank is None else f"{rank} positive"
        raise ValueError(f"{name} must be {expected} sizes, got {sizes}.")
    return sizes


def check_groups(in_features: int, out_features: int, groups: int) -> None:
    """Checks that groups divide the channels.

    Raises:
      ValueError: A number is below 1, or the groups divide one of the other two unevenly.
    """
    if min(in_features, out_features, groups) < 1 or in_features % groups or out_features % groups:
        raise ValueError(
            "feature_group_count must divide in_features and out_features, all at least 1; got "
            f"{groups}, {in_features} and {out_features}."
        )
