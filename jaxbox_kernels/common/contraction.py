"""Products of matrices, in full precision and in any dtype."""

import functools

from jax import Array, lax

# The sum of 1024 equal float32 numbers is off by 5e-6 of it if they are added one after the other,
# as some platforms do; with parts of this many, by 1e-6.
_MOST_TERMS = 64


def contract_in_parts(subscripts: str, a: Array, b: Array, along: str) -> Array:
    """Computes what `contract` does, with smaller rounding errors in long sums of float32 numbers.

    Args:
      subscripts: as of `contract`.
      a: the first array.
      b: the second array.
      along: the letter of an axis that is summed over, in parts that are then added.
    """
    axis_a, axis_b = (axes.index(along) for axes in subscripts.split("->")[0].split(","))
    size = a.shape[axis_a]
    parts = []
    for first in range(0, size, _MOST_TERMS):
        end = min(first + _MOST_TERMS, size)
        slices = (
            lax.slice_in_dim(array, first, end, axis=axis)
            for array, axis in ((a, axis_a), (b, axis_b))
        )
        parts.append(contract(subscripts, *slices))
    return functools.reduce(lax.add, parts)


def contract(subscripts: str, a: Array, b: Array) -> Array:
    """Computes what `jnp.einsum` does of two arrays, in the notation "ab,bc->ac".

    `jnp.einsum` names the dtype of its result, which `jax.vmap` then refuses where float64 is
    enabled only for a part of the computation.

    Args:
      subscripts: one letter for each axis, none twice in an array; every letter of the result is
        one of the arguments', and a letter that it lacks belongs to both of them.
      a: the first array.
      b: the second array.
    """
    arguments, result = subscripts.split("->")
    axes_a, axes_b = arguments.split(",")
    shared = [axis for axis in axes_a if axis in axes_b]
    batch = [axis for axis in shared if axis in result]
    summed = [axis for axis in shared if axis not in result]

    def places(axes: list[str]) -> tuple[list[int], list[int]]:
        return [axes_a.index(axis) for axis in axes], [axes_b.index(axis) for axis in axes]

    # Without the precision TPUs and recent GPUs would multiply in fewer than 24 bits.
    product = lax.dot_general(
        a, b, (places(summed), places(batch)), precision=lax.Precision.HIGHEST
    )
    axes = [*batch, *(axis for axis in axes_a + axes_b if axis not in shared)]
    return lax.transpose(product, [axes.index(axis) for axis in result])
