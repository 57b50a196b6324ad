"""The kernel of a depthwise over-parameterized convolution (DO-Conv), composed of its factors."""

import math

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from jaxbox.arguments import check_count, check_flag, to_array
from jaxbox_kernels.common.dtypes import sum_dtype

__all__ = ["doconv_kernel", "identity"]


def doconv_kernel(
    weight: ArrayLike,
    deviation: ArrayLike,
    *,
    feature_group_count: int = 1,
    legacy_torch_grouping: bool = False,
) -> Array:
    """Composes a convolution's kernel from an ordinary factor and a depthwise one.

    With `D' = deviation + identity`, `m` the taps of the kernel and `c` the input channel that is
    the `j`-th of output channel `o`'s group,

        kernel[m, j, o] = sum over s of D'[m, s, c] * weight[s, j, o]

    The identity is `eye(taps)`, repeated side by side as often as it fits into the depth multiplier
    `S`, and zeros after it: if `deviation` is 0 and `S` is the number of taps,
    the kernel is `weight`. A convolution with the kernel computes the depthwise convolution with
    `D'` followed by the convolution with `weight`, at the cost of an ordinary convolution.

    Source: Cao et al. 2020, "DO-Conv", equations 2 to 4 (kernel composition).

    Args:
      weight: The ordinary factor, `(S, I / groups, O)`.
      deviation: The difference of the depthwise factor from the identity, `(*kernel_size, S, I)`.
      feature_group_count: The number of groups that the channels are divided into.
      legacy_torch_grouping: Whether to compute what the authors' PyTorch code does, which reshapes
        where it should permute: output channel `o` takes the depthwise factor of group
        `o % groups`, not that of its own group `o // (O / groups)`.

    Returns:
      The kernel, `(*kernel_size, I / groups, O)` as for `flax.nnx.Conv`, of the dtype of `weight`.
      The arithmetic is float32 or wider.

    Raises:
      TypeError: An array is not of a real floating dtype, or another argument of the wrong type.
      ValueError: A shape does not fit, or `S` is less than the number of taps, with which not every
        kernel could be composed.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox import doconv_kernel
      >>> weight = jnp.arange(3.0).reshape(3, 1, 1)
      >>> doconv_kernel(weight, jnp.zeros((3, 3, 1)))[:, 0, 0].tolist()
      [0.0, 1.0, 2.0]
    """
    weight, deviation = to_array("weight", weight), to_array("deviation", deviation)
    groups = check_count("feature_group_count", feature_group_count)
    check_flag("legacy_torch_grouping", legacy_torch_grouping)
    _check(weight, deviation, groups)
    *kernel_size, multiplier, inputs = deviation.shape
    taps, outputs = math.prod(kernel_size), weight.shape[-1]
    dtype = sum_dtype(weight)
    eye = jnp.asarray(identity(taps, multiplier), dtype)
    depthwise = deviation.astype(dtype).reshape(taps, multiplier, inputs) + eye[..., None]
    depthwise = depthwise.reshape(taps, multiplier, groups, inputs // groups)
    # In the einsum output channel `o` is `(g, r)`: number `r` of group `g`.
    order = (outputs // groups, groups) if legacy_torch_grouping else (groups, outputs // groups)
    factor = weight.astype(dtype).reshape(*weight.shape[:2], *order)
    sums = "msgj,sjrg->mjrg" if legacy_torch_grouping else "msgj,sjgr->mjgr"
    kernel = jnp.einsum(sums, depthwise, factor, precision=lax.Precision.HIGHEST)
    return kernel.reshape(*kernel_size, inputs // groups, outputs).astype(weight.dtype)


def identity(taps: int, multiplier: int) -> np.ndarray:
    """Returns the identity of the depthwise factor: identity matrices side by side, then zeros.

    Args:
      taps: The number of taps of the kernel.
      multiplier: The depth multiplier.

    Returns:
      A matrix `(taps, multiplier)` with as many identity matrices as fit.

    Example:
      >>> from jaxbox.ops.doconv import identity
      >>> identity(2, 5).astype(int).tolist()
      [[1, 0, 1, 0, 0], [0, 1, 0, 1, 0]]
    """
    repeated = np.tile(np.eye(taps), multiplier // taps)
    return np.pad(repeated, [(0, 0), (0, multiplier % taps)])


def _check(weight: Array, deviation: Array, groups: int) -> None:
    if weight.ndim != 3 or weight.shape[-1] % groups or 0 in weight.shape:
        raise ValueError(
            f"weight must be (S, I / groups, O), O a multiple of feature_group_count = {groups}; "
            f"got shape {weight.shape}."
        )
    multiplier, inputs, _ = weight.shape
    expected = (multiplier, inputs * groups)
    if deviation.ndim < 3 or deviation.shape[-2:] != expected:
        raise ValueError(
            f"deviation must be (*kernel_size, S, I), (S, I) = {expected} for weight "
            f"{weight.shape} and feature_group_count = {groups}; got shape {deviation.shape}."
        )
    taps = math.prod(deviation.shape[:-2])
    if multiplier < taps:
        raise ValueError(
            f"weight must have at least as many elements along S, the depth multiplier, as there "
            f"are taps in deviation, {taps}; got {multiplier}."
        )
