"""Octave convolution: an ordinary and a transposed one, of features of two octaves."""

import functools
import operator
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Unpack, get_args

import jax.numpy as jnp
from jax import Array

from jaxbox.arguments import (
    check_callable,
    check_choice,
    check_count,
    check_dtype,
    check_padding,
    check_precision,
    sizes_per_axis,
    to_array,
)
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
      TypeError: An argument is of the wrong type, or an array not of a real floating dtype.
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
    strides = check_count("strides", strides)
    if strides > 2:
        raise ValueError(f"strides must be 1 or 2, got {strides}.")
    rank, high, low, kernels, bias = _check(x, kernels, bias, pooling)
    checked = _check_options(rank, options)

    def convolve(x: Array, kernel: Array) -> Array:
        groups = x.shape[-1] // kernel.shape[-2]
        return conv(x, kernel, feature_group_count=groups, **checked)

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
      TypeError: As in :func:`octave_conv`.
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
    strides = check_count("strides", strides)
    rank, high, low, kernels, bias = _check(x, kernels, bias, pooling)
    checked = _check_options(rank, options, transposed=True)

    def convolve(x: Array, kernel: Array) -> Array:
        if kernel.shape[-2] != x.shape[-1]:
            raise ValueError(
                f"kernels must have no groups here: all {x.shape[-1]} channels of the input; one "
                f"has the shape {kernel.shape}."
            )
        return conv_transpose(x, kernel, strides=strides, **checked)

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


class _Arguments(NamedTuple):
    """The arguments of an octave convolution, checked, with arrays of JAX.

    Attributes:
      rank: The number of spatial axes.
      high: The high branch, or `None`.
      low: The low branch, or `None`.
      kernels: The kernels of the four paths.
      bias: The biases of the two outputs.
    """

    rank: int
    high: Array | None
    low: Array | None
    kernels: OctaveKernels
    bias: OctaveBias


def _check(x: Features, kernels: OctaveKernels, bias: OctaveBias, pooling: Pooling) -> _Arguments:
    check_choice("pooling", pooling, get_args(Pooling))
    kernels = _to_arrays("kernels", kernels, OctaveKernels)
    bias = _to_arrays("bias", bias, OctaveBias)
    ranks = {kernel.ndim - 2 for kernel in kernels if kernel is not None}
    if len(ranks) != 1 or not 1 <= (rank := ranks.pop()) <= 3:
        raise ValueError("kernels must be at least one, all (*kernel_size, I, O) of 1 to 3 axes.")
    if any(kernel is not None and 0 in kernel.shape for kernel in kernels):
        raise ValueError("kernels must not be empty; the kernel of a path that is missing is None.")
    high, low = to_pair(x)
    _check_branch("high", high, [kernels.high_to_high, kernels.high_to_low], rank)
    _check_branch("low", low, [kernels.low_to_high, kernels.low_to_low], rank)
    _check_output("high", [kernels.high_to_high, kernels.low_to_high], bias.high)
    _check_output("low", [kernels.high_to_low, kernels.low_to_low], bias.low)
    if high is not None and low is not None:
        expected = (*high.shape[: -rank - 1], *pooled_size(spatial_size(high, rank), 2, pooling))
        if low.shape[:-1] != expected:
            raise ValueError(
                f"with pooling={pooling!r} the low branch of x must have the size {expected} for a "
                f"high branch of {high.shape[:-1]}, got {low.shape[:-1]}."
            )
    return _Arguments(rank, high, low, kernels, bias)


def _to_arrays[Arrays: (OctaveKernels, OctaveBias)](
    name: str, arrays: Arrays, kind: type[Arrays]
) -> Arrays:
    if not isinstance(arrays, kind):
        raise TypeError(f"{name} must be jaxbox.{kind.__name__}, got a {type(arrays).__name__}.")
    return kind(
        *(
            None if array is None else to_array(f"{field} of {name}", array)
            for field, array in zip(kind._fields, arrays, strict=True)
        )
    )


def _check_options(
    rank: int, options: ConvOptions | ConvTransposeOptions, *, transposed: bool = False
) -> dict[str, Any]:
    """Returns the options of the convolutions, checked, with Python's numbers."""
    checked: dict[str, Any] = dict(options)
    if "padding" in checked:
        checked["padding"] = check_padding(checked["padding"], rank, transposed=transposed)
    if "kernel_dilation" in checked:
        dilation = checked["kernel_dilation"]
        checked["kernel_dilation"] = sizes_per_axis("kernel_dilation", dilation, rank)
    if checked.get("dtype") is not None:
        check_dtype("dtype", checked["dtype"])
    check_precision(checked.get("precision"))
    if "conv_general_dilated" in checked:
        check_callable("conv_general_dilated", checked["conv_general_dilated"])
    return checked


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
                f"channels a multiple of {kernel.shape[-2]}, for kernels of the shape "
                f"{kernel.shape}; got shape {branch.shape}."
            )
        groups = branch.shape[-1] // kernel.shape[-2]
        if kernel.shape[-1] % groups:
            raise ValueError(
                f"a kernel of {groups} groups, from the shapes {branch.shape} of the {name} "
                f"branch and {kernel.shape}, must have a multiple of as many outputs."
            )


def _check_output(name: str, kernels: Sequence[Array | None], bias: Array | None) -> None:
    """Checks that the kernels of the paths to an output, and its bias, fit each other."""
    outputs = {kernel.shape[-1] for kernel in kernels if kernel is not None}
    if len(outputs) > 1:
        raise ValueError(
            f"the kernels of the paths to the {name} output must have the same number of outputs; "
            f"got {outputs}."
        )
    if bias is not None and (bias.ndim != 1 or set(bias.shape) != outputs):
        number = outputs.pop() if outputs else "no channels: None"
        raise ValueError(
            f"{name} of bias must be (O,) for the {name} output of {number}; got shape "
            f"{bias.shape}."
        )


def _upsample_like(y: Array, others: Sequence[Array], rank: int) -> Array:
    """Upsamples `y` to the size of the other shares of its output, or else by two.

    Raises:
      ValueError: The padding has cropped everything.
    """
    if 0 in spatial_size(y, rank):
        raise ValueError(
            f"padding leaves nothing of the low octave, a size of {y.shape[-rank - 1 : -1]}."
        )
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
