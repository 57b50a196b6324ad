"""Octave convolution: channels of high and of low spatial frequency, these at half the resolution.

Features are a pair `(high, low)`. A branch without channels is `None` in it; features without a low
branch are the plain array `high`, as in and out of an ordinary convolution.
"""

import functools
import operator
from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from jaxbox.layers.plain_conv import conv_with
from jaxbox_kernels.common.dtypes import sum_dtype

Pooling = Literal["floor", "ceil"]

type Features = Array | tuple[Array | None, Array | None]


class OctaveKernels(NamedTuple):
    """The kernels `(*kernel_size, I / groups, O)` of the four paths; `None` where there is none."""

    high_to_high: Array | None = None
    high_to_low: Array | None = None
    low_to_high: Array | None = None
    low_to_low: Array | None = None


class OctaveBias(NamedTuple):
    """The biases `(O,)` of the two outputs; `None` where there is none."""

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
    **options: Any,
) -> Features:
    """Convolves features of two octaves; each output gets a share from each input.

    With `pool` the mean over 2 pixels along each axis, and `up` the nearest-neighbour enlargement,

        y_high = conv(x_high, high_to_high) + up(conv(x_low, low_to_high))
        y_low = conv(x_low, low_to_low) + conv(pool(x_high), high_to_low)

    Stride 2 pools first, for strided convolutions would shift one octave against the other: `x` is
    replaced by `pool(x)` in all but `low_to_high`, whose result is not enlarged then.

    Along an axis of odd size `n`, `pooling="floor"` leaves out the last pixel: the low octave has
    `floor(n / 2)` pixels, and `up` stretches it, output pixel `i` showing pixel
    `floor(i * floor(n / 2) / n)`, as PyTorch's `interpolate` does in the first implementation
    below.
    `"ceil"` averages what there is: `ceil(n / 2)` pixels, and `up` doubles and cuts off the last.
    Under stride 2, `high_to_low` sees the means over 4 pixels at once.

    Source: Chen et al. 2019, "Drop an octave"; for the odd sizes, the implementations by
    BrainCreators (`"floor"`) and by the authors for Gluon (`"ceil"`).

    Args:
      x: `(high, low)`, each `(..., *spatial, channels)`, or `None` where it has no channels; or
        `high` alone. The low octave has the size that `pooling` gives it.
      kernels: Of the four paths, for one to three spatial axes; the numbers of groups follow from
        their shapes and those of `x`. Both paths to an output, or from an input, may be missing.
      bias: Of the two outputs.
      strides: 1 or 2.
      pooling: What becomes of the last pixel of an odd number.
      **options: `padding`, `kernel_dilation`, `dtype`, `precision` and `conv_general_dilated` of
        `flax.nnx.Conv`. With a padding other than one that keeps the size the two outputs may not
        fit each other as inputs of another octave convolution.

    Returns:
      `(high, low)` as `x`: the array `high` where no path leads to the low output, `(None, low)`
      where none leads to the high one.

    Raises:
      ValueError: A kernel does not fit its input, an input has no kernel, the sizes of the octaves
        do not fit, nothing would be left of the high octave by pooling, or an option is out of
        range.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.ops.octave import OctaveKernels, octave_conv
      >>> x = (jnp.ones((4, 6, 1)), jnp.ones((2, 3, 1)))
      >>> one = jnp.ones((1, 1, 1, 1))
      >>> high, low = octave_conv(x, OctaveKernels(one, one, one, one))
      >>> high.shape, low.shape, high[0, 0, 0].item()
      ((4, 6, 1), (2, 3, 1), 2.0)
    """
    if strides not in (1, 2):
        raise ValueError(f"strides must be 1 or 2, got {strides}.")
    rank, high, low = _check(x, kernels, pooling)

    def conv(x: Array, kernel: Array) -> Array:
        groups = x.shape[-1] // kernel.shape[-2]
        return conv_with(kernel, None, feature_group_count=groups, **options)(x)

    to_high, to_low = [], []
    if kernels.high_to_high is not None:
        to_high.append(conv(pool(high, rank, strides, pooling), kernels.high_to_high))
    if kernels.low_to_high is not None:
        shared = conv(low, kernels.low_to_high)
        if strides == 1:
            shared = enlarge(shared, rank, _size(to_high[0], rank) if to_high else None)
        to_high.append(shared)
    if kernels.high_to_low is not None:
        to_low.append(conv(pool(high, rank, 2 * strides, pooling), kernels.high_to_low))
    if kernels.low_to_low is not None:
        to_low.append(conv(pool(low, rank, strides, pooling), kernels.low_to_low))
    return join(_add(to_high, bias.high), _add(to_low, bias.low))


def octave_conv_transpose(
    x: Features,
    kernels: OctaveKernels,
    bias: OctaveBias = _NO_BIAS,
    *,
    strides: int = 1,
    pooling: Pooling = "floor",
    **options: Any,
) -> Features:
    """Convolves features of two octaves, each path by a transposed convolution.

    The formula of :func:`octave_conv` with `flax.nnx.ConvTranspose` in place of the convolutions,
    which have the stride themselves. The low output is cut, or its last pixels repeated, to the
    size that `pooling` gives for the high one: odd sizes times the stride would not fit.

    Source: the paper has none; asked for by users of Chen et al. 2019.

    Args:
      x: As in :func:`octave_conv`.
      kernels: As there, without groups, which Flax's transposed convolution lacks.
      bias: Of the two outputs.
      strides: At least 1: how many times larger the output is.
      pooling: As in :func:`octave_conv`.
      **options: `padding`, `kernel_dilation`, `dtype` and `precision` of `flax.nnx.ConvTranspose`.

    Returns:
      As :func:`octave_conv`.

    Raises:
      ValueError: As :func:`octave_conv`; or a kernel has groups.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.ops.octave import OctaveKernels, octave_conv_transpose
      >>> x = (jnp.ones((3, 5, 1)), jnp.ones((1, 2, 1)))
      >>> kernel = jnp.ones((2, 2, 1, 1))
      >>> high, low = octave_conv_transpose(x, OctaveKernels(*[kernel] * 4), strides=2)
      >>> high.shape, low.shape
      ((6, 10, 1), (3, 5, 1))
    """
    if strides < 1:
        raise ValueError(f"strides must be at least 1, got {strides}.")
    rank, high, low = _check(x, kernels, pooling)

    def conv(x: Array, kernel: Array) -> Array:
        *size, inputs, outputs = kernel.shape
        if inputs != x.shape[-1]:
            raise ValueError(
                f"kernels must have no groups here: all {x.shape[-1]} channels of the input; one "
                f"has the shape {kernel.shape}."
            )
        return nnx.ConvTranspose(
            inputs,
            outputs,
            size,
            strides,
            use_bias=False,
            kernel_init=lambda *_: kernel,
            rngs=nnx.Rngs(0),
            **options,
        )(x)

    to_high, to_low = [], []
    if kernels.high_to_high is not None:
        to_high.append(conv(high, kernels.high_to_high))
    if kernels.low_to_high is not None:
        shared = conv(low, kernels.low_to_high)
        to_high.append(enlarge(shared, rank, _size(to_high[0], rank) if to_high else None))
    if kernels.high_to_low is not None:
        to_low.append(conv(pool(high, rank, 2, pooling), kernels.high_to_low))
    if kernels.low_to_low is not None:
        to_low.append(conv(low, kernels.low_to_low))
    if to_high and to_low:
        size = pooled_size(_size(to_high[0], rank), 2, pooling)
        to_low = [_cut_or_extend(y, size) for y in to_low]
    return join(_add(to_high, bias.high), _add(to_low, bias.low))


def branches(x: Features) -> tuple[Array | None, Array | None]:
    """Returns features as a pair.

    Raises:
      ValueError: They are neither an array nor a pair.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.ops.octave import branches
      >>> branches(jnp.ones(3))
      (Array([1., 1., 1.], dtype=float32), None)
    """
    if not isinstance(x, tuple | list):
        return x, None
    if len(x) != 2:
        raise ValueError(f"features must be an array or a pair (high, low), got {len(x)} branches.")
    high, low = x
    return high, low


def pooled_size(size: Sequence[int], factor: int, pooling: Pooling) -> tuple[int, ...]:
    """Returns the size of what `pool` makes of an image's size.

    Example:
      >>> from jaxbox.ops.octave import pooled_size
      >>> pooled_size((4, 7), 2, "floor"), pooled_size((4, 7), 2, "ceil")
      ((2, 3), (2, 4))
    """
    return tuple(n // factor if pooling == "floor" else -(-n // factor) for n in size)


def pool(x: Array, rank: int, factor: int, pooling: Pooling) -> Array:
    """Averages over cells of `factor` pixels along each of the `rank` spatial axes.

    Args:
      x: `(..., *spatial, C)`.
      rank: The number of spatial axes.
      factor: Pixels of a cell along each axis; 1 leaves `x` as it is.
      pooling: `"floor"` leaves out what fills no whole cell, `"ceil"` averages what there is of it.

    Returns:
      `(..., *pooled_size, C)`, of the dtype of `x`.

    Raises:
      ValueError: No pixel would be left.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.ops.octave import pool
      >>> x = jnp.array([[1.0], [2.0], [7.0]])
      >>> pool(x, 1, 2, "floor").tolist(), pool(x, 1, 2, "ceil").tolist()
      ([[1.5]], [[1.5], [7.0]])
    """
    if factor == 1:
        return x
    size = _size(x, rank)
    cells = pooled_size(size, factor, pooling)
    if 0 in cells:
        raise ValueError(
            f"nothing is left of {size} pixels by pooling {factor} with pooling={pooling!r}: "
            "'ceil' takes any size."
        )
    batch, channels = x.shape[: -rank - 1], x.shape[-1]
    whole = [(0, max(m * factor - n, 0)) for n, m in zip(size, cells, strict=True)]
    kept = x[(..., *(slice(m * factor) for m in cells), slice(None))]
    kept = jnp.pad(kept.astype(sum_dtype(x)), [(0, 0)] * len(batch) + [*whole, (0, 0)])
    split = [length for m in cells for length in (m, factor)]
    axes = tuple(len(batch) + 2 * i + 1 for i in range(rank))
    sums = kept.reshape(*batch, *split, channels).sum(axes)
    # The pixels of a cell along each axis: fewer than `factor` in the last, perhaps.
    lengths = [
        np.minimum(factor, n - factor * np.arange(m)) for n, m in zip(size, cells, strict=True)
    ]
    pixels = functools.reduce(np.multiply.outer, lengths).reshape((1,) * len(batch) + (*cells, 1))
    return (sums / jnp.asarray(pixels, sums.dtype)).astype(x.dtype)


def enlarge(x: Array, rank: int, size: Sequence[int] | None = None) -> Array:
    """Enlarges images by repeating pixels.

    Args:
      x: `(..., *spatial, C)`.
      rank: The number of spatial axes.
      size: Of the result; default: twice that of `x`. Pixel `i` of `m` shows the pixel
        `floor(i * n / m)` of `n`.

    Returns:
      `(..., *size, C)`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.ops.octave import enlarge
      >>> enlarge(jnp.array([[1.0], [2.0]]), 1, (5,))[:, 0].tolist()
      [1.0, 1.0, 1.0, 2.0, 2.0]
    """
    old = _size(x, rank)
    new = tuple(2 * n for n in old) if size is None else tuple(size)
    batch, channels = x.shape[: -rank - 1], x.shape[-1]
    if new == tuple(2 * n for n in old):
        # Its gradient is a sum, where that of `take` is a slow scatter.
        apart = x.reshape(*batch, *[length for n in old for length in (n, 1)], channels)
        pairs = [length for n in old for length in (n, 2)]
        return jnp.broadcast_to(apart, (*batch, *pairs, channels)).reshape(*batch, *new, channels)
    for axis, (n, m) in enumerate(zip(old, new, strict=True), start=len(batch)):
        x = jnp.take(x, jnp.arange(m) * n // m, axis=axis, mode="clip")
    return x


def join(high: Array | None, low: Array | None) -> Features:
    """Returns a pair as features: without a low branch, the high one alone.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.ops.octave import join
      >>> join(jnp.ones(3), None)
      Array([1., 1., 1.], dtype=float32)
    """
    return high if low is None and high is not None else (high, low)


def _check(x: Features, kernels: OctaveKernels, pooling: Pooling) -> tuple[int, Any, Any]:
    """The number of spatial axes and the two octaves."""
    if pooling not in get_args(Pooling):
        raise ValueError(f"pooling must be 'floor' or 'ceil', got {pooling!r}.")
    ranks = {kernel.ndim - 2 for kernel in kernels if kernel is not None}
    if len(ranks) != 1 or not 1 <= (rank := ranks.pop()) <= 3:
        raise ValueError("kernels must be at least one, all (*kernel_size, I, O) of 1 to 3 axes.")
    high, low = branches(x)
    paths = {
        "high": (high, kernels.high_to_high, kernels.high_to_low),
        "low": (low, kernels.low_to_high, kernels.low_to_low),
    }
    for name, (octave, *own) in paths.items():
        present = [kernel for kernel in own if kernel is not None]
        if (octave is None) != (not present):
            raise ValueError(
                f"x has {'no' if octave is None else 'a'} {name} branch, but kernels has "
                f"{len(present)} paths from it."
            )
        if octave is None:
            continue
        for kernel in present:
            if octave.ndim < rank + 1 or octave.shape[-1] % kernel.shape[-2]:
                raise ValueError(
                    f"the {name} branch of x must be (..., {rank} spatial axes, channels), the "
                    f"channels a multiple of {kernel.shape[-2]}; got shape {octave.shape}."
                )
            groups = octave.shape[-1] // kernel.shape[-2]
            if kernel.shape[-1] % groups:
                raise ValueError(
                    f"a kernel of {groups} groups, from the shapes {octave.shape} of the {name} "
                    f"branch and {kernel.shape}, must have a multiple of as many outputs."
                )
    if high is not None and low is not None:
        expected = pooled_size(_size(high, rank), 2, pooling)
        if _size(low, rank) != expected:
            raise ValueError(
                f"with pooling={pooling!r} the low branch of x must have the size {expected} for a "
                f"high branch of {_size(high, rank)}, got {_size(low, rank)}."
            )
    return rank, high, low


def _size(x: Array, rank: int) -> tuple[int, ...]:
    return x.shape[-rank - 1 : -1]


def _add(shares: Sequence[Array], bias: Array | None) -> Array | None:
    if not shares:
        return None
    y = functools.reduce(operator.add, shares)
    return y if bias is None else y + bias.astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))


def _cut_or_extend(x: Array, size: Sequence[int]) -> Array:
    """Leaves out the last pixels along each axis, or repeats the last one."""
    start = x.ndim - 1 - len(size)
    for axis, m in enumerate(size, start=start):
        x = x[(slice(None),) * axis + (slice(m),)]
        padding = [(0, 0)] * x.ndim
        padding[axis] = (0, m - x.shape[axis])
        x = jnp.pad(x, padding, mode="edge")
    return x
