"""Whether the sizes of arrays are known when JAX traces.

`jax.export` with `jax.export.symbolic_shape` traces once for all sizes. A symbolic size can be
computed with and passed to JAX, but Python cannot compare it, loop over it or take its logarithm.
Code that chooses by a size must first ask here, and do what is right for every size if the size is
symbolic.
"""

import jax.export


def are_known(*sizes: int) -> bool:
    """Whether all sizes are numbers, and none is symbolic.

    Args:
      *sizes: sizes of axes, or numbers computed from such sizes.

    Example:
      >>> from jax.export import symbolic_shape
      >>> from jaxbox_kernels.common import sizes
      >>> sizes.are_known(8, 16), sizes.are_known(*symbolic_shape("batch, 16"))
      (True, False)
    """
    return not any(jax.export.is_symbolic_dim(size) for size in sizes)
