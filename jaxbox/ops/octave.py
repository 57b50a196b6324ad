"""Octave convolution: an ordinary and a transposed one, of features of two octaves."""

import functools
import operator
from collections.abc import Sequence
from typing import Final, NamedTuple, Unpack, get_args

import jax.numpy as jnp
from jax import Array

from jaxbox.ops.octave_features import (
    Features,
    Octaves,
    Pooling,
    average_pool,
    from_pair,
    pooled_size,
    spatial_size,
    to_pair,
    upsample_nearest,
)
from jaxbox_kernels.common import sizes
from jaxbox_kernels.common.conv import ConvOptions, ConvTransposeOptions, conv, conv_transpose

__all__ = ["OctaveBias", "OctaveKernels", "octave_conv", "octave_conv_transpose"]


class OctaveKernels(NamedTuple):
    """The kernels of the four paths, `(*kernel_size, I / groups, O)` each; `None` for no path."""

    high_to_high: Array | None = None
    high_to_low: Array | None = None
    low_to_high: Array | None = None
    low_to_low: Array | None = None


class OctaveBias(NamedTuple):
    """The biases of the two outputs, `(O,)` each; `None` for no bias."""

    high: Array | None = None
    low: Array | None = None


_NO_BIAS: Final = OctaveBias()


def octave_conv(
    x: Features,
    kernels: OctaveKernels,
    bias: OctaveBias = _NO_BIAS,
    *,
    strides: int = 1,
    pooling: Pooling = "floor",
    **options: Unpack[ConvOptions],
) -> Array | Octaves:
    """Convolves features of two octaves; each output gets a share from each input.

    With `pool` the mean over 2 pixels along each axis, and `up` nearest-neighbour upsampling,

        y_high = conv(x_high, high_to_high) + up(conv(x_low, low_to_high))
        y_low = conv(x_low, low_to_low) + conv(pool(x_high), high_to_low)

    Stride 2 pools first, because strided convolutions would shift one octave against the other: `x`
    is replaced by `pool(x)` in all paths but `low_to_high`, whose result is then not upsampled.

    Along an axis of odd size `n`, `pooling="floor"` leaves out the last pixel: the low octave has
    `floor(n / 2)` pixels, and `up` stretches it such that output pixel `i` shows pixel
    `floor(i * floor(n / 2) / n)`, as PyTorch's `interpolate` does in the first implementation
    below. `"ceil"` averages over the pixels that there are: the low octave has `ceil(n / 2)`
    pixels, and `up` doubles it and cuts off the last one. With stride 2, `high_to_low` sees means
    over 4 pixels along each axis.

    Source: Chen et al. 2019, "Drop an octave"; for the odd sizes, the implementations by
    BrainCreators (`"floor"`) and by the authors for Gluon (`"ceil"`).

    Args:
      x: The features: :class:`Octaves` or a tuple `(high, low)`, each `(..., *spatial, channels)`,
        or `None` for a branch without channels; or the array `high` alone. The low octave has the
        size that `pooling` gives it.
      kernels: The kernels of the four paths, for one to three spatial axes. The numbers of groups
        follow from their shapes and that of `x`. Both paths to an output, or both from an input,
        may be missing.
      bias: The biases of the two outputs.
      strides: The stride, 1 or 2.
      pooling: How an axis of odd size is pooled, `"floor"` or `"ceil"`.
      **options: `padding`, `kernel_dilation`, `dtype`, `precision` and `conv_general_dilated`, as
        in `flax.nnx.Conv`. With a padding that does not keep the size the two outputs may not fit
        each other as inputs of another octave convolution.

    Returns:
      The features, :class:`Octaves`: its `high` is `None` if no path leads to the high output. If
      none leads to the low one, they are the array `high` alone.

    Raises:
      ValueError: A kernel does not fit its input, an input has no kernel, the sizes of the octaves
        do not fit, pooling would leave nothing of the high octave, or an option is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxbox
      >>> x = (jnp.ones((4, 6, 1)), jnp.ones((2, 3, 1)))
      >>> one = jnp.ones((1, 1, 1, 1))
      >>> high, low = jaxbox.octave_conv(x, jaxbox.OctaveKernels(one, one, one, one))
      >>> high.shape, low.shape, high[0, 0, 0].item()
      ((4, 6, 1), (2, 3, 1), 2.0)
    """
    if strides not in (1, 2):
        raise ValueError(f"strides must be 1 or 2, got {strides}.")
    rank, high, low = _check(x, kernels, pooling)

    def convolve(x: Array, kernel: Array) -> Array:
        groups = x.shape[-1] // kernel.shape[-2]
        return conv(x, kernel, feature_group_count=groups, **options)

    to_high, to_low = [], []
    if high is not None and kernels.high_to_high is not None:
        to_high.append(convolve(average_pool(high, rank, strides, pooling), kernels.high_to_high))
    if low is not None and kernels.low_to_high is not None:
        y = convolve(low, kernels.low_to_high)
        to_high.append(_upsample_like(y, to_high, rank) if strides == 1 else y)
    if high is not None and kernels.high_to_low is not None:
        pooled = average_pool(high, rank, 2 * strides, pooling)
        to_low.append(convolve(pooled, kernels.high_to_low))
    if low is not None and kernels.low_to_low is not None:
        to_low.append(convolve(average_pool(low, rank, strides, pooling), kernels.low_to_low))
    return from_pair(_sum(to_high, bias.high), _sum(to_low, bias.low))


def octave_conv_transpose(
    x: Features,
    kernels: OctaveKernels,
    bias: OctaveBias = _NO_BIAS,
    *,
    strides: int = 1,
    pooling: Pooling = "floor",
    **options: Unpack[ConvTransposeOptions],
) -> Array | Octaves:
    """Convolves features of two octaves, each path by a transposed convolution.

    This is the formula of :func:`octave_conv` with `flax.nnx.ConvTranspose` in place of the
    convolutions; the transposed convolutions have the stride themselves. The low output is cut, or
    its last pixels are repeated, to the size that `pooling` gives for the high output: an odd size
    times the stride would not fit.

    Source: the paper has none; users of Chen et al. 2019 asked for it.

    Args:
      x: The features, as in :func:`octave_conv`.
      kernels: The kernels of the four paths, without groups, which Flax's transposed convolution
        lacks.
      bias: The biases of the two outputs.
      strides: How many times larger the output is, at least 1.
      pooling: How an axis of odd size is pooled, as in :func:`octave_conv`.
      **options: `padding`, `kernel_dilation`, `dtype` and `precision`, as in
        `flax.nnx.ConvTranspose`.

    Returns:
      The features, as from :func:`octave_conv`.

    Raises:
      ValueError: As in :func:`octave_conv`, or a kernel has groups.

    Example:
      >>> import jax.numpy as jnp
      >>> import jaxbox
      >>> x = (jnp.ones((3, 5, 1)), jnp.ones((1, 2, 1)))
      >>> kernels = jaxbox.OctaveKernels(*[jnp.ones((2, 2, 1, 1))] * 4)
      >>> high, low = jaxbox.octave_conv_transpose(x, kernels, strides=2)
      >>> high.shape, low.shape
      ((6, 10, 1), (3, 5, 1))
    """
    if strides < 1:
        raise ValueError(f"strides must be at least 1, got {strides}.")
    rank, high, low = _check(x, kernels, pooling)

    def convolve(x: Array, kernel: Array) -> Array:
        if kernel.shape[-2] != x.shape[-1]:
            raise ValueError(
                f"kernels must have no groups here: all {x.shape[-1]} channels of the input; one "
                f"has the shape {kernel.shape}."
            )
        return conv_transpose(x, kernel, strides=strides, **options)

    to_high, to_low = [], []
    if high is not None and kernels.high_to_high is not None:
        to_high.append(convolve(high, kernels.high_to_high))
    if low is not None and kernels.low_to_high is not None:
        to_high.append(_upsample_like(convolve(low, kernels.low_to_high), to_high, rank))
    if high is not None and kernels.high_to_low is not None:
        to_low.append(convolve(average_pool(high, rank, 2, pooling), kernels.high_to_low))
    if low is not None and kernels.low_to_low is not None:
        to_low.append(convolve(low, kernels.low_to_low))
    if to_high and to_low:
        size = pooled_size(spatial_size(to_high[0], rank), 2, pooling)
        to_low = [_cut_or_extend(y, size) for y in to_low]
    return from_pair(_sum(to_high, bias.high), _sum(to_low, bias.low))


def _check(
    x: Features, kernels: OctaveKernels, pooling: Pooling
) -> tuple[int, Array | None, Array | None]:
    """Returns the number of spatial axes and the two branches."""
    if pooling not in get_args(Pooling):
        raise ValueError(f"pooling must be 'floor' or 'ceil', got {pooling!r}.")
    ranks = {kernel.ndim - 2 for kernel in kernels if kernel is not None}
    if len(ranks) != 1 or not 1 <= (rank := ranks.pop()) <= 3:
        raise ValueError("kernels must be at least one, all (*kernel_size, I, O) of 1 to 3 axes.")
    high, low = to_pair(x)
    _check_branch("high", high, [kernels.high_to_high, kernels.high_to_low], rank)
    _check_branch("low", low, [kernels.low_to_high, kernels.low_to_low], rank)
    if high is not None and low is not None:
        expected = pooled_size(spatial_size(high, rank), 2, pooling)
        if spatial_size(low, rank) != expected:
            raise ValueError(
                f"with pooling={pooling!r} the low branch of x must have the size {expected} for a "
                f"high branch of {spatial_size(high, rank)}, got {spatial_size(low, rank)}."
            )
    return rank, high, low


def _check_branch(
    name: str, branch: Array | None, kernels: Sequence[Array | None], rank: int
) -> None:
    """Checks that the kernels of the paths from a branch fit the branch."""
    present = [kernel for kernel in kernels if kernel is not None]
    if (branch is None) != (not present):
        raise ValueError(
            f"x has {'no' if branch is None else 'a'} {name} branch, but kernels has "
            f"{len(present)} paths from it."
        )
    if branch is None:
        return
    for kernel in present:
        if branch.ndim < rank + 1 or branch.shape[-1] % kernel.shape[-2]:
            raise ValueError(
                f"the {name} branch of x must be (..., {rank} spatial axes, channels), the "
                f"channels a multiple of {kernel.shape[-2]}; got shape {branch.shape}."
            )
        groups = branch.shape[-1] // kernel.shape[-2]
        if kernel.shape[-1] % groups:
            raise ValueError(
                f"a kernel of {groups} groups, from the shapes {branch.shape} of the {name} "
                f"branch and {kernel.shape}, must have a multiple of as many outputs."
            )


def _upsample_like(y: Array, others: Sequence[Array], rank: int) -> Array:
    """Upsamples `y` to the size of the other shares of its output, or else by two."""
    return upsample_nearest(y, rank, spatial_size(others[0], rank) if others else None)


def _sum(shares: Sequence[Array], bias: Array | None) -> Array | None:
    """Adds up the shares of an output and its bias; `None` if there are no shares."""
    if not shares:
        return None
    y = functools.reduce(operator.add, shares)
    return y if bias is None else y + bias.astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))


def _cut_or_extend(x: Array, size: Sequence[int]) -> Array:
    """Cuts off the last pixels along each axis, or repeats the last one."""
    start = x.ndim - 1 - len(size)
    if not sizes.are_known(*x.shape[start:-1], *size):
        for axis, m in enumerate(size, start=start):
            x = jnp.take(x, jnp.minimum(jnp.arange(m), x.shape[axis] - 1), axis, mode="clip")
        return x
    for axis, m in enumerate(size, start=start):
        x = x[(slice(None),) * axis + (slice(m),)]
        padding = [(0, 0)] * x.ndim
        padding[axis] = (0, m - x.shape[axis])
        x = jnp.pad(x, padding, mode="edge")
    return x
