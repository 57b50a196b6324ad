"""The kernel of a dilated convolution with learnable spacings (DCLS), built from its taps."""

import math
from collections.abc import Sequence
from typing import Final, Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from jaxbox.arguments import check_choice, sizes_per_axis, to_array
from jaxbox_kernels.common import sizes
from jaxbox_kernels.common.dtypes import sum_dtype

__all__ = ["Version", "dcls_kernel", "repulsion"]

Version = Literal["v0", "v1", "max", "gauss"]

# Constants of the original code: the least width of a Gaussian, in cells, and what keeps a tap
# outside the kernel from a division by zero.
_MIN_WIDTH: Final = 0.27
_EPSILON: Final = 1e-7

# Chunk size, in taps times the cells along one axis. Groups of taps are processed chunk by chunk,
# because memory that is new to the process costs more time than the arithmetic.
_CHUNK_SIZE: Final = 2**19


def dcls_kernel(
    weight: ArrayLike,
    positions: ArrayLike,
    sigma: ArrayLike | None,
    kernel_size: Sequence[int],
    version: Version = "gauss",
) -> Array:
    """Builds a convolution's kernel from taps with learnable positions.

    Tap `k` lies at `p = positions[:, k] + floor(kernel_size / 2)`, in cells. Its share in cell `c`
    of the kernel is the product over the axes `a` of

    - `"v0"`, `"v1"`: `max(0, 1 - |c_a - p_a|)`, bilinear interpolation,
    - `"max"`: `max(0, 1 + |sigma_a| - |c_a - p_a|)`, a triangle,
    - `"gauss"`: `exp(-((c_a - p_a) / (0.27 + |sigma_a|))^2 / 2)`,

    All versions but `"v0"` divide it by its sum over the kernel's cells plus 1e-7. The kernel is
    the sum over the taps of weight times share; what falls outside the kernel is dropped.

    At kinks the derivatives are those of the original code: `|u|` and `max(0, u)` have the
    derivative 0 at `u = 0`, and `"v0"` has the right-sided derivative at integer positions. Hence
    at `sigma = 0` the derivative with respect to `sigma` is 0, and at integer positions that of
    `"v1"` with respect to the positions is 0.

    No intermediate array is larger than the taps times the cells along one axis.

    Source: Khalfaoui-Hassani et al. 2023, "Dilated convolution with learnable spacings" and "...
    beyond bilinear interpolation". Unlike the original code, position `a` belongs to spatial axis
    `a` in every version, and rectangular kernels work.

    Args:
      weight: The weights of the taps, `(K, I, O)`: taps, input channels (of a group), output
        channels.
      positions: The positions of the taps, `(d, K, I, O)`, or `(d, K, I, 1)` for positions that all
        output channels share. They are in cells, which are pixels of the input, along `d` = 1, 2 or
        3 spatial axes in their order. 0 is the cell `floor(kernel_size / 2)`, the middle one of an
        odd size.
      sigma: The widths of the taps, in cells, of the shape of `positions`. `"v0"` and `"v1"` ignore
        them; pass `None`.
      kernel_size: The number of cells along each spatial axis.
      version: How a tap is spread over the cells: `"v0"`, `"v1"`, `"max"` or `"gauss"`.

    Returns:
      The kernel, `(*kernel_size, I, O)` as for `flax.nnx.Conv`, of the dtype of `weight`. The
      arithmetic is float32 or wider.

    Raises:
      TypeError: An array is not of a real floating dtype, or a size is not an integer.
      ValueError: A shape does not fit, `version` is unknown, or its `sigma` is missing.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox import dcls_kernel
      >>> weight = jnp.array([8.0]).reshape(1, 1, 1)  # One tap,
      >>> positions = jnp.array([0.25]).reshape(1, 1, 1, 1)  # a quarter of a cell off the middle.
      >>> dcls_kernel(weight, positions, None, (5,), "v0")[:, 0, 0].tolist()
      [0.0, 0.0, 6.0, 2.0, 0.0]
    """
    check_choice("version", version, get_args(Version))
    kernel_size = sizes_per_axis("kernel_size", kernel_size)
    weight, positions = to_array("weight", weight), to_array("positions", positions)
    sigma = None if sigma is None else to_array("sigma", sigma)
    _check(weight, positions, sigma, kernel_size, version)
    if version in ("v0", "v1"):
        sigma = None
    dtype = sum_dtype(weight)
    count, inputs, outputs = weight.shape
    # Channels that share positions form a group: taps (groups, channels, K), the others
    # (groups, d, K).
    spread_by = [array.astype(dtype) for array in (positions, sigma) if array is not None]
    shared = all(array.shape[-1] == 1 for array in spread_by)
    groups = inputs if shared else inputs * outputs
    shape = (len(kernel_size), count, inputs, 1 if shared else outputs)
    spread_by = [
        jnp.broadcast_to(array, shape).reshape(*shape[:2], groups).transpose(2, 0, 1)
        for array in spread_by
    ]
    taps = weight.astype(dtype).reshape(count, groups, -1).transpose(1, 2, 0)

    # The intermediate arrays are computed again for the gradient, to save their memory.
    @jax.checkpoint
    def group_kernel(arrays: Sequence[Array]) -> Array:
        return _group_kernel(*arrays, kernel_size=kernel_size, version=version)

    batch_size = None
    if sizes.are_known(*weight.shape):
        chunk = _CHUNK_SIZE // (count * max(kernel_size) * taps.shape[1])
        batch_size = min(max(chunk, 1), groups)
    kernel = lax.map(group_kernel, [taps, *spread_by], batch_size=batch_size)
    kernel = kernel.reshape(inputs, outputs, *kernel_size)
    return jnp.moveaxis(kernel, (0, 1), (-2, -1)).astype(weight.dtype)


def repulsion(positions: ArrayLike) -> Array:
    """Measures how much taps lie on top of each other: the repulsive loss of one layer.

    It is the mean over pairs of taps, and over channels, of `max(0, 1 - distance)`: 1 if all taps
    coincide, 0 if they are a cell or more apart. As in the authors' code, taps that coincide
    exactly do not repel each other, and taps exactly one cell apart do.
    :func:`jaxbox.layers.repulsive_loss` is its mean over a model's layers, whose square the authors
    add to the loss.

    Source: the training code of Khalfaoui-Hassani et al. 2023 for ConvNeXt.

    Args:
      positions: The positions of the taps, `(..., d, K, I, O)`, in cells. The loss of several
        layers, along leading axes, is the mean of theirs.

    Returns:
      The loss, a scalar; 0 for a single tap.

    Raises:
      TypeError: `positions` is not of a real floating dtype.
      ValueError: `positions` has less than four axes.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.ops.dcls import repulsion
      >>> repulsion(jnp.array([0.0, 0.25, 4.0]).reshape(1, 3, 1, 1)).item()
      0.25
    """
    positions = to_array("positions", positions)
    if positions.ndim < 4:
        raise ValueError(f"positions must be (..., d, K, I, O), got shape {positions.shape}.")
    count = positions.shape[-3]
    if count < 2:
        return jnp.zeros((), positions.dtype)
    first, second = jnp.triu_indices(count, 1)
    apart = positions[..., first, :, :] - positions[..., second, :, :]
    squared = jnp.square(apart).sum(-4)
    coincide = squared == 0
    # The derivative of the square root is infinite at 0, and `where` around the root alone would
    # multiply that by 0.
    distance = jnp.where(coincide, 0, jnp.sqrt(jnp.where(coincide, 1, squared)))
    # The derivative at a distance of 1 is that of PyTorch's `clamp_min`; that of `relu` is 0 there.
    return jnp.where(distance <= 1, 1 - distance, 0).mean()


def _check(
    weight: Array,
    positions: Array,
    sigma: Array | None,
    kernel_size: Sequence[int],
    version: Version,
) -> None:
    if version in ("max", "gauss") and sigma is None:
        raise ValueError(f"version {version!r} needs sigma, got None.")
    if weight.ndim != 3 or 0 in weight.shape:
        raise ValueError(f"weight must be (K, I, O), each at least 1, got shape {weight.shape}.")
    shape = (len(kernel_size), *weight.shape)
    for name, array in (("positions", positions), ("sigma", sigma)):
        if array is not None and array.shape not in (shape, (*shape[:-1], 1)):
            raise ValueError(
                f"{name} must be (d, K, I, O) = {shape} or (d, K, I, 1), for weight {weight.shape} "
                f"and kernel_size {kernel_size}; got shape {array.shape}."
            )


def _group_kernel(
    taps: Array,
    positions: Array,
    sigma: Array | None = None,
    *,
    kernel_size: Sequence[int],
    version: Version,
) -> Array:
    """Builds the kernels `(M, *kernel_size)` of taps `(M, K)` with the same positions `(d, K)`."""
    spreads = [
        _spread(size, positions[axis] + size // 2, None if sigma is None else sigma[axis], version)
        for axis, size in enumerate(kernel_size)
    ]
    if version != "v0":
        taps = taps / (math.prod(spread.sum(0, keepdims=True) for spread in spreads) + _EPSILON)
    return _add_taps(taps, spreads)


def _spread(size: int, centre: Array, width: Array | None, version: Version) -> Array:
    """Returns the share of each tap in each cell along one axis: `(size, K)`."""
    cell = jnp.arange(size, dtype=centre.dtype)[:, None]
    centre = centre[None]
    if version == "v0":
        low = jnp.floor(centre)
        rest = centre - low
        zero = jnp.zeros_like(rest)
        return jnp.where(cell == low, 1 - rest, zero) + jnp.where(cell == low + 1, rest, zero)
    if width is None:
        return jax.nn.relu(1 - _magnitude(cell - centre))
    width = _magnitude(width)[None]
    if version == "max":
        return jax.nn.relu(1 + width - _magnitude(cell - centre))
    return jnp.exp(-0.5 * jnp.square((cell - centre) / (_MIN_WIDTH + width)))


def _magnitude(x: Array) -> Array:
    """Returns `|x|`, whose derivative at 0 is 0 as in PyTorch; that of `jnp.abs` is 1 there."""
    return x * jnp.sign(x)


def _add_taps(taps: Array, spreads: Sequence[Array]) -> Array:
    """Sums taps `(M, K)`, each spread over the cells of every axis: `(M, *kernel_size)`."""
    first, *others = spreads
    weighted = taps[:, None] * first[None]
    if not others:
        return weighted.sum(-1)
    if len(others) == 1:
        pairs = (((2,), (1,)), ((), ()))
        return lax.dot_general(weighted, others[0], pairs, precision=lax.Precision.HIGHEST)
    # One plane at a time, computed again for the gradient: all at once would need an array of taps
    # times the cells along two axes.
    plane = jax.checkpoint(lambda weighted: _add_taps(weighted, others))
    return jnp.moveaxis(lax.map(plane, jnp.moveaxis(weighted, 1, 0)), 0, 1)
