"""Arguments of a function under `jax.shard_map`, of which some may be the same on all devices."""

import jax
from jax import Array, lax


def vary_alike(*arrays: Array) -> tuple[Array, ...]:
    """Marks arrays as varying over all mesh axes over which any of them varies.

    Under `jax.shard_map` the transpose of a linear map must return gradients that vary over the
    same axes as the arguments. The derivative of the mark adds up over devices, which is what makes
    the gradient with respect to a replicated argument whole. Outside `jax.shard_map`, and with
    `check_vma=False`, nothing is marked.

    Args:
      *arrays: the arguments.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox_kernels.common.manual_axes import vary_alike
      >>> [array.item() for array in vary_alike(jnp.ones(()), jnp.zeros(()))]
      [1.0, 0.0]
    """
    axes = [jax.typeof(array).manual_axis_type.varying for array in arrays]
    union = frozenset().union(*axes)

    def mark(array: Array, present: frozenset[str]) -> Array:
        missing = tuple(sorted(union - present, key=str))
        return lax.pcast(array, missing, to="varying") if missing else array

    return tuple(mark(*pair) for pair in zip(arrays, axes, strict=True))
