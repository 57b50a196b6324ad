"""Convolutions as functions of arrays, with the semantics of Flax's layers.

The files `conv_*.py` beside this one compute special cases in a form that XLA runs faster on CPU.
"""

from collections.abc import Callable, Sequence
from typing import TypedDict

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from jaxbox_kernels.common import sizes

__all__ = [
    "ConvGeneralDilated",
    "ConvOptions",
    "ConvTransposeOptions",
    "Padding",
    "conv",
    "conv_transpose",
]

type Padding = str | int | Sequence[int | tuple[int, int]]
type ConvGeneralDilated = Callable[..., Array]


class ConvTransposeOptions(TypedDict, total=False):
    """The keyword arguments of `conv_transpose` that an operation may pass through."""

    padding: Padding
    kernel_dilation: int | Sequence[int]
    dtype: DTypeLike | None
    precision: lax.PrecisionLike


class ConvOptions(ConvTransposeOptions, total=False):
    """The keyword arguments of `conv` that an operation may pass through."""

    conv_general_dilated: ConvGeneralDilated


def conv(
    x: Array,
    kernel: Array,
    bias: Array | None = None,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    kernel_dilation: int | Sequence[int] = 1,
    feature_group_count: int = 1,
    dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
    conv_general_dilated: ConvGeneralDilated = lax.conv_general_dilated,
) -> Array:
    """Convolves as `flax.nnx.Conv` does.

    Args:
      x: The input, `(..., *spatial, I)`, with any number of batch axes.
      kernel: The kernel, `(*kernel_size, I / feature_group_count, O)`.
      bias: The bias, `(O,)`, or `None` for a convolution without one.
      strides: The distance in pixels between neighbouring outputs, for all axes or for each.
      padding: `"SAME"`, `"VALID"`, `"CIRCULAR"`, `"REFLECT"`, `"CAUSAL"` (one spatial axis only),
        or the number of pixels: for all sides, for each axis, or as pairs (before, after).
      kernel_dilation: The distance in pixels between neighbouring taps, for all axes or for each.
      feature_group_count: The number of groups that the channels are divided into.
      dtype: The dtype of the computation. By default the arrays are promoted to a common one.
      precision: The precision of the products, as in `jax.lax.conv_general_dilated`.
      conv_general_dilated: The function that convolves, called as `jax.lax.conv_general_dilated`.

    Returns:
      The output, `(..., *outputs, O)`.

    Raises:
      ValueError: The padding is not one of the above, or `dtype` is not a floating dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox_kernels.common.conv import conv
      >>> x = jnp.array([[1.0], [2.0], [4.0]])  # Three pixels, one channel.
      >>> conv(x, jnp.ones((3, 1, 1)))[:, 0].tolist()
      [3.0, 7.0, 6.0]
    """
    rank = kernel.ndim - 2
    batch, x = _with_one_batch_axis(x, rank)
    dilation = _per_axis(kernel_dilation, rank)
    x, lax_padding = _pad(x, padding, kernel.shape[:-2], dilation)
    dtype = _computation_dtype([x, kernel] if bias is None else [x, kernel, bias], dtype)
    y = conv_general_dilated(
        jnp.asarray(x, dtype),
        jnp.asarray(kernel, dtype),
        _per_axis(strides, rank),
        lax_padding,
        lhs_dilation=(1,) * rank,
        rhs_dilation=dilation,
        dimension_numbers=_channels_last(rank),
        feature_group_count=feature_group_count,
        precision=precision,
    )
    if bias is not None:
        y += jnp.asarray(bias, dtype).reshape((1,) * (y.ndim - 1) + bias.shape)
    return y if len(batch) == 1 else y.reshape(*batch, *y.shape[1:])


def conv_transpose(
    x: Array,
    kernel: Array,
    *,
    strides: int | Sequence[int] = 1,
    padding: Padding = "SAME",
    kernel_dilation: int | Sequence[int] = 1,
    dtype: DTypeLike | None = None,
    precision: lax.PrecisionLike = None,
) -> Array:
    """Computes the transposed convolution as `flax.nnx.ConvTranspose` without a bias does.

    Args:
      x: The input, `(..., *spatial, I)`, with any number of batch axes.
      kernel: The kernel, `(*kernel_size, I, O)`.
      strides: How many times larger the output is, along all axes or along each.
      padding: `"SAME"`, `"VALID"`, `"CIRCULAR"`, or the number of pixels as in :func:`conv`.
      kernel_dilation: The distance in pixels between neighbouring taps, for all axes or for each.
      dtype: The dtype of the computation. By default the arrays are promoted to a common one.
      precision: The precision of the products, as in `jax.lax.conv_transpose`.

    Returns:
      The output, `(..., *outputs, O)`.

    Raises:
      ValueError: The padding is not one of the above, or `dtype` is not a floating dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox_kernels.common.conv import conv_transpose
      >>> x = jnp.array([[1.0], [2.0]])
      >>> conv_transpose(x, jnp.ones((2, 1, 1)), strides=2)[:, 0].tolist()
      [1.0, 1.0, 2.0, 2.0]
    """
    rank = kernel.ndim - 2
    batch, x = _with_one_batch_axis(x, rank)
    strides = _per_axis(strides, rank)
    dtype = _computation_dtype([x, kernel], dtype)
    y = lax.conv_transpose(
        jnp.asarray(x, dtype),
        jnp.asarray(kernel, dtype),
        strides,
        "VALID" if padding == "CIRCULAR" else _lax_padding(padding, rank),
        rhs_dilation=_per_axis(kernel_dilation, rank),
        precision=precision,
    )
    if padding == "CIRCULAR":
        y = _wrap(y, [n * stride for n, stride in zip(x.shape[1:-1], strides, strict=True)])
    return y if len(batch) == 1 else y.reshape(*batch, *y.shape[1:])


def _with_one_batch_axis(x: Array, rank: int) -> tuple[tuple[int, ...], Array]:
    """Returns the batch axes of `x`, and `x` with exactly one of them."""
    count = x.ndim - rank - 1
    return x.shape[:count], x if count == 1 else jnp.reshape(x, (-1, *x.shape[count:]))


def _per_axis(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)


def _channels_last(rank: int) -> lax.ConvDimensionNumbers:
    axes = (0, rank + 1, *range(1, rank + 1))
    return lax.ConvDimensionNumbers(axes, (rank + 1, rank, *range(rank)), axes)


def _computation_dtype(arrays: Sequence[Array], dtype: DTypeLike | None) -> DTypeLike:
    if dtype is None:
        dtype = jnp.result_type(*arrays)
        if not jnp.issubdtype(dtype, jnp.inexact):
            dtype = jnp.promote_types(jnp.float32, dtype)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise ValueError(f"dtype must be a floating dtype, got {dtype}.")
    return dtype


def _lax_padding(padding: Padding, rank: int) -> str | list[tuple[int, int]]:
    """Returns a padding in the form that `jax.lax` takes."""
    if isinstance(padding, str):
        return padding
    pads = [padding] * rank if isinstance(padding, int) else list(padding)
    pairs = [(pad, pad) if isinstance(pad, int) else pad for pad in pads]
    if len(pairs) != rank or any(not isinstance(p, tuple) or len(p) != 2 for p in pairs):
        raise ValueError(
            "padding must be a string, a number, or for each of the "
            f"{rank} axes a number or a pair of numbers; got {padding}."
        )
    return pairs


def _pad(
    x: Array, padding: Padding, kernel_size: Sequence[int], dilation: Sequence[int]
) -> tuple[Array, str | list[tuple[int, int]]]:
    """Pads `x` where `jax.lax` cannot; returns it with the padding that is left to do."""
    pads = _lax_padding(padding, len(kernel_size))
    extents = [(n - 1) * d + 1 for n, d in zip(kernel_size, dilation, strict=True)]
    if pads == "CAUSAL":
        if len(extents) != 1:
            raise ValueError("Causal padding is only implemented for 1D convolutions.")
        return jnp.pad(x, [(0, 0), (extents[0] - 1, 0), (0, 0)]), "VALID"
    if pads not in ("CIRCULAR", "REFLECT"):
        return x, pads
    borders = [((extent - 1) // 2, extent // 2) for extent in extents]
    if not sizes.are_known(*x.shape[1:-1]):
        source = _wrapped_pixels if pads == "CIRCULAR" else _reflected_pixels
        for axis, border in enumerate(borders, start=1):
            x = jnp.take(x, source(x.shape[axis], *border), axis, mode="clip")
        return x, "VALID"
    mode = "wrap" if pads == "CIRCULAR" else "reflect"
    return jnp.pad(x, [(0, 0), *borders, (0, 0)], mode=mode), "VALID"


def _wrapped_pixels(size: int, before: int, after: int) -> Array:
    """The pixels of an axis of any size that periodic padding repeats: `(before+size+after,)`."""
    return (jnp.arange(before + size + after) - before) % size


def _reflected_pixels(size: int, before: int, after: int) -> Array:
    """The pixels of an axis of any size that padding by reflection repeats."""
    period = jnp.maximum(2 * (size - 1), 1)
    place = (jnp.arange(before + size + after) - before) % period
    return jnp.minimum(place, period - place)


def _wrap(y: Array, periods: Sequence[int]) -> Array:
    """Adds up what lies a whole number of periods apart, along each spatial axis."""
    missing = [
        -(n - period) % (2 * period) for n, period in zip(y.shape[1:-1], periods, strict=True)
    ]
    if not sizes.are_known(*y.shape[1:-1]):
        for axis, (period, more) in enumerate(zip(periods, missing, strict=True), start=1):
            places = (jnp.arange(y.shape[axis]) + (more + 1) // 2) % period
            start = jnp.zeros((*y.shape[:axis], period, *y.shape[axis + 1 :]), y.dtype)
            y = start.at[(slice(None),) * axis + (places,)].add(y)
        return y
    y = jnp.pad(y, [(0, 0), *[((n + 1) // 2, n // 2) for n in missing], (0, 0)])
    for axis, period in enumerate(periods, start=1):
        y = y.reshape(*y.shape[:axis], -1, period, *y.shape[axis + 1 :]).sum(axis)
    return y
