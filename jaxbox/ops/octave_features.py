"""Features of octave convolution: channels at full resolution and channels at half of it.

Such features are an :class:`Octaves`, of high and of low spatial frequency. A branch without
channels is `None`. Features without a low branch are the plain array `high`, as in and out of an
ordinary convolution.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Final, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxbox.arguments import (
    check_callable,
    check_choice,
    check_count,
    check_fraction,
    is_sequence,
    sizes_per_axis,
    to_array,
)
from jaxbox_kernels.common import sizes
from jaxbox_kernels.common.dtypes import sum_dtype

__all__ = [
    "Features",
    "Octaves",
    "Pooling",
    "average_pool",
    "check_rank",
    "from_octaves",
    "from_pair",
    "map_octaves",
    "pooled_size",
    "spatial_size",
    "split_channels",
    "to_octaves",
    "to_pair",
    "upsample_nearest",
]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Octaves:
    """Features of two octaves.

    It is a pytree, and `high, low = octaves` unpacks it. Unlike a tuple it passes through Flax's
    `Sequential` as one argument. Functions and layers that take features take tuples too.

    Attributes:
      high: The features of high spatial frequency, `(..., *spatial, channels)`, or `None`.
      low: The features of low spatial frequency, of half the size, or `None`.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxbox import Octaves
      >>> x = Octaves(jnp.ones((4, 6, 3)), jnp.ones((2, 3, 1)))
      >>> high, low = jax.tree.map(lambda branch: 2 * branch, x)
      >>> high.shape, low.shape
      ((4, 6, 3), (2, 3, 1))
    """

    high: Array | None
    low: Array | None

    def __iter__(self) -> Iterator[Array | None]:
        """Yields both branches."""
        yield self.high
        yield self.low


type Features = Array | Octaves | tuple[Array | None, Array | None]

Pooling = Literal["floor", "ceil"]

# `alpha` is a short decimal or a quotient of numbers of channels, whose nearest float is neither.
_MAX_DENOMINATOR: Final = 10**6


def to_pair(x: Features) -> tuple[Array | None, Array | None]:
    """Returns features as a pair `(high, low)` of arrays.

    Raises:
      TypeError: A branch is no array of a real floating dtype.
      ValueError: `x` is neither an array nor a pair, or a branch has no axis of channels.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.ops.octave_features import to_pair
      >>> to_pair(jnp.ones(3))
      (Array([1., 1., 1.], dtype=float32), None)
    """
    branches: tuple[Array | None, ...]
    if isinstance(x, Octaves):
        branches = (x.high, x.low)
    elif not isinstance(x, tuple | list):
        return _to_branch("x, Octaves, a pair (high, low) or the array high,", x), None
    elif len(x) != 2:
        raise ValueError(
            "x must be Octaves, a pair (high, low) or the array high; got a sequence of "
            f"{len(x)} branches."
        )
    else:
        branches = tuple(x)
    high, low = (
        None if branch is None else _to_branch(f"the {name} branch of x", branch)
        for name, branch in zip(("high", "low"), branches, strict=True)
    )
    return high, low


def from_pair(high: Array | None, low: Array | None) -> Array | Octaves:
    """Returns two branches as features: the array `high` alone if there is no low branch.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.ops.octave_features import from_pair
      >>> from_pair(jnp.ones(3), None)
      Array([1., 1., 1.], dtype=float32)
    """
    return high if low is None and high is not None else Octaves(high, low)


def map_octaves(function: Callable[[Array], Array], x: Features) -> Array | Octaves:
    """Applies a function, such as an activation or dropout, to each branch that is there.

    In a `Sequential`, `functools.partial(map_octaves, jax.nn.relu)` is an activation. A layer with
    parameters, such as BatchNorm, differs between the branches: see `jaxbox.PerOctave`.

    Args:
      function: A function of one array.
      x: Features.

    Returns:
      Features with the same branches.

    Raises:
      TypeError: `function` is no function, or a branch no array of a real floating dtype.
      ValueError: `x` is neither an array nor a pair.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxbox.ops.octave_features import map_octaves
      >>> map_octaves(jax.nn.relu, (None, jnp.array([-1.0, 2.0])))
      Octaves(high=None, low=Array([0., 2.], dtype=float32))
    """
    check_callable("function", function)
    high, low = (None if branch is None else function(branch) for branch in to_pair(x))
    return from_pair(high, low)


def split_channels(channels: int, alpha: float | Fraction) -> tuple[int, int]:
    """Returns the numbers of channels of the high and of the low branch.

    The high branch has `floor((1 - alpha) * channels)`, the low one the others. `alpha` is taken as
    the simple fraction that it stands for: 0.8 is 4/5, although the float is slightly larger.

    Source: the implementation by BrainCreators, which loses a channel to rounding now and then.

    Args:
      channels: The number of all channels, at least 1.
      alpha: The share of the low branch, from 0 to 1.

    Returns:
      The numbers of channels `(high, low)`.

    Raises:
      TypeError: `channels` is not an integer, or `alpha` not a real number.
      ValueError: A number is out of range.

    Example:
      >>> from jaxbox.ops.octave_features import split_channels
      >>> split_channels(20, 0.8), split_channels(3, 0.5), split_channels(3, 1)
      ((4, 16), (1, 2), (0, 3))
    """
    channels = check_count("channels", channels)
    check_fraction("alpha", alpha)
    share = alpha if isinstance(alpha, Fraction) else Fraction(float(alpha))
    high = math.floor((1 - share.limit_denominator(_MAX_DENOMINATOR)) * channels)
    return high, channels - high


def to_octaves(
    x: Array, alpha: float, *, rank: int = 2, pooling: Pooling = "floor"
) -> Array | Octaves:
    """Splits ordinary features into two octaves: the last channels become the low branch.

    Args:
      x: Ordinary features, `(..., *spatial, C)`.
      alpha: The share of the low branch in the channels, from 0 to 1.
      rank: The number of spatial axes.
      pooling: How an axis of odd size is pooled, as in :func:`jaxbox.octave_conv`.

    Returns:
      The two branches, or `x` itself if `alpha` leaves no channels to the low branch.

    Raises:
      TypeError: `x` is no array of a real floating dtype, or another argument of the wrong type.
      ValueError: A number is out of range, `pooling` is unknown, or no pixel would be left.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.ops.octave_features import to_octaves
      >>> high, low = to_octaves(jnp.ones((6, 8, 4)), 0.25)
      >>> high.shape, low.shape
      ((6, 8, 3), (3, 4, 1))
    """
    rank = check_rank(rank)
    check_choice("pooling", pooling, get_args(Pooling))
    x = _to_branch("x", x)
    _check_spatial("x", x, rank)
    high, low = split_channels(x.shape[-1], alpha)
    if not low:
        return x
    pooled = average_pool(x[..., high:], rank, 2, pooling)
    return Octaves(x[..., :high] if high else None, pooled)


def from_octaves(x: Features, *, rank: int = 2, size: Sequence[int] | None = None) -> Array:
    """Joins two octaves into ordinary features: the low branch is upsampled.

    Args:
      x: Features of two octaves.
      rank: The number of spatial axes.
      size: The size of the result in pixels, used if there is no high branch. By default it is
        twice the size of the low branch.

    Returns:
      Ordinary features `(..., *spatial, C)`, the channels of the high branch first.

    Raises:
      TypeError: A branch is no array of a real floating dtype, or another argument of the wrong
        type.
      ValueError: `x` has neither branch, `rank` or `size` does not fit, or the branches have other
        batch axes.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.ops.octave_features import from_octaves
      >>> from_octaves((jnp.ones((5, 8, 3)), jnp.ones((2, 4, 1)))).shape
      (5, 8, 4)
    """
    rank = check_rank(rank)
    size = None if size is None else _check_size(size, rank)
    high, low = to_pair(x)
    for branch in (high, low):
        if branch is not None:
            _check_spatial("each branch of x", branch, rank)
    if low is None:
        if high is None:
            raise ValueError("x must have a branch, got none.")
        return high
    if 0 in low.shape:
        raise ValueError(f"the low branch of x must not be empty, got shape {low.shape}.")
    if high is not None and high.shape[: -rank - 1] != low.shape[: -rank - 1]:
        raise ValueError(
            f"both branches of x must have the same batch axes; got {high.shape} and {low.shape}, "
            f"of which the last {rank + 1} are no batch axes."
        )
    if high is None:
        return upsample_nearest(low, rank, size)
    upsampled = upsample_nearest(low, rank, spatial_size(high, rank))
    return jnp.concatenate([high, upsampled], axis=-1)


def check_rank(rank: int) -> int:
    """Checks a number of spatial axes and returns it as an `int`.

    Raises:
      TypeError: It is not an integer.
      ValueError: It is not from 1 to 3.
    """
    rank = check_count("rank", rank)
    if rank > 3:
        raise ValueError(f"rank must be from 1 to 3, got {rank}.")
    return rank


def spatial_size(x: Array, rank: int) -> tuple[int, ...]:
    """Returns the size in pixels of images with `rank` spatial axes, `(..., *spatial, C)`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.ops.octave_features import spatial_size
      >>> spatial_size(jnp.ones((2, 5, 6, 3)), rank=2)
      (5, 6)
    """
    return x.shape[-rank - 1 : -1]


def pooled_size(size: Sequence[int], factor: int, pooling: Pooling) -> tuple[int, ...]:
    """Returns the size of what :func:`average_pool` makes of images of a size.

    Example:
      >>> from jaxbox.ops.octave_features import pooled_size
      >>> pooled_size((4, 7), 2, "floor"), pooled_size((4, 7), 2, "ceil")
      ((2, 3), (2, 4))
    """
    if factor % 2 == 0 and factor > 2:
        # JAX knows of a symbolic size only that this is equal, not that it equals `n // factor`.
        return pooled_size(pooled_size(size, 2, pooling), factor // 2, pooling)
    return tuple(n // factor if pooling == "floor" else -(-n // factor) for n in size)


def average_pool(x: Array, rank: int, factor: int, pooling: Pooling) -> Array:
    """Averages over cells of `factor` pixels along each of the `rank` spatial axes.

    Args:
      x: Images, `(..., *spatial, C)`.
      rank: The number of spatial axes.
      factor: The number of pixels of a cell along each axis; 1 leaves `x` as it is.
      pooling: What happens to pixels that fill no whole cell: `"floor"` leaves them out, `"ceil"`
        averages over those that there are.

    Returns:
      The means, `(..., *pooled_size, C)`, of the dtype of `x`.

    Raises:
      ValueError: No pixel would be left.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.ops.octave_features import average_pool
      >>> x = jnp.array([[1.0], [2.0], [7.0]])
      >>> average_pool(x, 1, 2, "floor").tolist(), average_pool(x, 1, 2, "ceil").tolist()
      ([[1.5]], [[1.5], [7.0]])
    """
    if factor == 1:
        return x
    size = spatial_size(x, rank)
    cells = pooled_size(size, factor, pooling)
    if 0 in cells:
        raise ValueError(
            f"nothing is left of {size} pixels by pooling {factor} with pooling={pooling!r}: "
            "'ceil' takes any size."
        )
    batch, channels = x.shape[: -rank - 1], x.shape[-1]
    kept = x.astype(sum_dtype(x))
    if pooling == "floor":
        kept = kept[(..., *(slice(m * factor) for m in cells), slice(None))]
    else:
        missing = [(0, m * factor - n) for n, m in zip(size, cells, strict=True)]
        kept = jnp.pad(kept, [(0, 0)] * len(batch) + [*missing, (0, 0)])
    split = [length for m in cells for length in (m, factor)]
    axes = tuple(len(batch) + 2 * i + 1 for i in range(rank))
    sums = kept.reshape(*batch, *split, channels).sum(axes)
    # The pixels of each cell along an axis; the last cell may have fewer than `factor`.
    numpy = np if sizes.are_known(*size) else jnp
    lengths = [
        numpy.minimum(factor, n - factor * numpy.arange(m))
        for n, m in zip(size, cells, strict=True)
    ]
    pixels = functools.reduce(numpy.multiply.outer, lengths)
    pixels = pixels.reshape((1,) * len(batch) + (*cells, 1))
    return (sums / jnp.asarray(pixels, sums.dtype)).astype(x.dtype)


def upsample_nearest(x: Array, rank: int, size: Sequence[int] | None = None) -> Array:
    """Enlarges images by repeating pixels.

    Args:
      x: Images, `(..., *spatial, C)`.
      rank: The number of spatial axes.
      size: The size of the result in pixels, by default twice that of `x`. Pixel `i` of `m` shows
        pixel `floor(i * n / m)` of `n`.

    Returns:
      The enlarged images, `(..., *size, C)`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.ops.octave_features import upsample_nearest
      >>> upsample_nearest(jnp.array([[1.0], [2.0]]), 1, (5,))[:, 0].tolist()
      [1.0, 1.0, 1.0, 2.0, 2.0]
    """
    old = spatial_size(x, rank)
    doubled = tuple(2 * n for n in old)
    new = doubled if size is None else tuple(size)
    batch, channels = x.shape[: -rank - 1], x.shape[-1]
    if new == doubled:
        # The gradient of this form is a sum, where that of `take` is a slow scatter.
        apart = x.reshape(*batch, *[length for n in old for length in (n, 1)], channels)
        pairs = [length for n in old for length in (n, 2)]
        return jnp.broadcast_to(apart, (*batch, *pairs, channels)).reshape(*batch, *new, channels)
    for axis, (n, m) in enumerate(zip(old, new, strict=True), start=len(batch)):
        x = jnp.take(x, jnp.arange(m) * n // m, axis=axis, mode="clip")
    return x


def _check_size(size: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """Checks and returns a size of images, in which symbolic numbers are taken as they are."""
    if not is_sequence(size) or sizes.are_known(*size):
        return sizes_per_axis("size", size, rank)
    sizes_per_axis("size", [n if sizes.are_known(n) else 1 for n in size], rank)
    return tuple(size)


def _to_branch(name: str, branch: Array) -> Array:
    array = to_array(name, branch)
    if not array.ndim:
        raise ValueError(f"{name} must be (..., *spatial, channels), got a single number.")
    return array


def _check_spatial(name: str, x: Array, rank: int) -> None:
    if x.ndim < rank + 1:
        raise ValueError(
            f"{name} must be (..., *spatial, channels) with rank = {rank} spatial axes; got shape "
            f"{x.shape}."
        )
