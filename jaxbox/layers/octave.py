"""Octave convolution as Flax NNX layers, and what goes between them."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, Final

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype, Initializer, PaddingLike, PrecisionLike
from jax import lax

from jaxbox.layers.plain_conv import positive_sizes
from jaxbox.ops.octave import (
    Features,
    OctaveBias,
    OctaveKernels,
    Pooling,
    branches,
    enlarge,
    join,
    octave_conv,
    octave_conv_transpose,
    pool,
    pooled_size,
)

_KERNEL_INIT: Final = nnx.initializers.lecun_normal()

# An alpha is a short decimal or a quotient of channels; its nearest float is neither.
_LARGEST_DENOMINATOR = 10**6

type Alpha = float | tuple[float, float]


class OctConv(nnx.Module):
    """A convolution whose channels are of high or of low spatial frequency.

    Maps features of two octaves to such features by :func:`jaxbox.octave_conv`: `(high, low)`, the
    low octave at half the resolution. A branch without channels is `None`; features without a low
    branch, as with an alpha of 0, are a plain array, as in and out of an ordinary convolution.

    The parameters are the kernels `high_to_high`, `high_to_low`, `low_to_high` and `low_to_low`,
    each `(*kernel_size, inputs / groups, outputs)` or `None` where a branch is missing, and the
    biases `high_bias` and `low_bias`, one for each output. The two kernels that lead to an output
    start as one kernel of all the input channels, cut in two: outputs have the variance of an
    ordinary convolution's, and with alpha 0 or 1 the layer starts as one.

    Source: Chen et al. 2019.

    Args:
      in_features: Channels of the input, of both octaves.
      out_features: Channels of the output, of both octaves.
      kernel_size: Pixels along each of one to three spatial axes. A single number is one axis.
      strides: 1 or 2. Stride 2 pools first.
      alpha: The share of the low octave in the channels of input and output, or of each, from 0 to
        1; see :func:`split_channels`.
      padding: As in `flax.nnx.Conv`. Paddings that change the size may give outputs that do not
        fit each other as inputs of another octave convolution.
      kernel_dilation: Pixels from a tap to the next.
      feature_group_count: The number of groups, into which each path is divided. Where it is
        `in_features` the layer is depthwise: it has no paths from one octave to the other, as in
        the authors' code.
      use_bias: Whether outputs have biases.
      pooling: What becomes of the last pixel of an odd number, as in :func:`jaxbox.octave_conv`.
      dtype: Of the computation. Default: inferred from input and parameters.
      param_dtype: Of the parameters.
      precision: As in `flax.nnx.Conv`.
      kernel_init: A function of `(key, shape, dtype)`.
      bias_init: The same.
      conv_general_dilated: As in `flax.nnx.Conv`.
      rngs: The random keys; the stream `params` is used.

    Raises:
      ValueError: An alpha, the stride or the pooling is out of range, or groups do not divide the
        channels of a branch.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxbox.layers import OctConv
      >>> rngs = nnx.Rngs(0)
      >>> first = OctConv(3, 10, (3, 3), alpha=(0, 0.5), rngs=rngs)
      >>> second = OctConv(10, 20, (7, 7), alpha=(0.5, 0.8), rngs=rngs)
      >>> last = OctConv(20, 1, (3, 3), alpha=(0.8, 0), rngs=rngs)
      >>> high, low = second(first(jnp.ones((5, 200, 200, 3))))
      >>> high.shape, low.shape
      ((5, 200, 200, 4), (5, 100, 100, 16))
      >>> last((high, low)).shape
      (5, 200, 200, 1)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int = 1,
        *,
        alpha: Alpha = 0.5,
        padding: PaddingLike = "SAME",
        kernel_dilation: int | Sequence[int] = 1,
        feature_group_count: int = 1,
        use_bias: bool = True,
        pooling: Pooling = "floor",
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = _KERNEL_INIT,
        bias_init: Initializer = nnx.initializers.zeros,
        conv_general_dilated: Callable[..., jax.Array] = lax.conv_general_dilated,
        rngs: nnx.Rngs,
    ):
        self.kernel_size = positive_sizes("kernel_size", kernel_size)
        self.alpha = alpha if isinstance(alpha, tuple) else (alpha, alpha)
        self.in_features = split_channels(in_features, self.alpha[0])
        self.out_features = split_channels(out_features, self.alpha[1])
        self.strides = strides
        self.padding = padding
        self.kernel_dilation = kernel_dilation
        self.feature_group_count = feature_group_count
        self.pooling = pooling
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.precision = precision
        self.conv_general_dilated = conv_general_dilated

        from_high, from_low = self._inputs_of_a_group()
        parts = [
            _cut(kernel_init, (*self.kernel_size, n_high, n_low, outputs), param_dtype, rngs)
            for n_high, n_low, outputs in zip(from_high, from_low, self.out_features, strict=True)
        ]
        (self.high_to_high, self.low_to_high), (self.high_to_low, self.low_to_low) = parts
        self.high_bias, self.low_bias = (
            nnx.Param(bias_init(rngs.params(), (outputs,), param_dtype))
            if use_bias and outputs
            else nnx.data(None)
            for outputs in self.out_features
        )

    @property
    def kernels(self) -> OctaveKernels:
        """The kernels of the four paths."""
        paths = (self.high_to_high, self.high_to_low, self.low_to_high, self.low_to_low)
        return OctaveKernels(*(None if path is None else path[...] for path in paths))

    @property
    def bias(self) -> OctaveBias:
        """The biases of the two outputs."""
        biases = (self.high_bias, self.low_bias)
        return OctaveBias(*(None if bias is None else bias[...] for bias in biases))

    def __call__(self, x: Features) -> Features:
        """Convolves.

        Args:
          x: `(high, low)`, each `(..., *spatial, channels)`, `None` where the octave has no
            channels; or the array `high` where the low octave has none.

        Returns:
          Features of the same kind.

        Raises:
          ValueError: The channels or sizes do not fit.
        """
        self._check_channels(x)
        return octave_conv(
            x,
            self.kernels,
            self.bias,
            strides=self.strides,
            pooling=self.pooling,
            padding=self.padding,
            kernel_dilation=self.kernel_dilation,
            dtype=self.dtype,
            precision=self.precision,
            conv_general_dilated=self.conv_general_dilated,
        )

    def _check_channels(self, x: Features) -> None:
        given = tuple(0 if octave is None else octave.shape[-1] for octave in branches(x))
        if given != self.in_features:
            raise ValueError(
                f"x must have {self.in_features} channels of high and low frequency, got {given}."
            )

    def _inputs_of_a_group(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """How many channels of the high and of the low octave lead to (high, low) in a group."""
        groups, (high, low) = self.feature_group_count, self.in_features
        if groups > 1 and groups == high + low:
            for n, outputs in zip((high, low), self.out_features, strict=True):
                if (outputs % n if n else outputs) or (n and not outputs):
                    raise ValueError(
                        "a depthwise octave convolution must have for each octave a multiple of "
                        f"its inputs as outputs; got {self.in_features} and {self.out_features}."
                    )
            return (min(high, 1), 0), (0, min(low, 1))
        if groups < 1 or any(n % groups for n in (high, low, *self.out_features)):
            raise ValueError(
                "feature_group_count must be in_features, or divide the channels of each octave, "
                f"{self.in_features} and {self.out_features}; got {groups}."
            )
        return (high // groups,) * 2, (low // groups,) * 2


class OctConvTranspose(OctConv):
    """The octave convolution of transposed convolutions, :func:`jaxbox.octave_conv_transpose`.

    Its parameters are those of :class:`OctConv`. It has no groups, for Flax's transposed
    convolution has none.

    Args:
      in_features: Channels of the input, of both octaves.
      out_features: Channels of the output, of both octaves.
      kernel_size: Pixels along each of one to three spatial axes. A single number is one axis.
      strides: How many times larger the output is.
      alpha: As of :class:`OctConv`.
      padding: As in `flax.nnx.ConvTranspose`.
      kernel_dilation: Pixels from a tap to the next.
      use_bias: Whether outputs have biases.
      pooling: As of :class:`OctConv`.
      dtype: Of the computation. Default: inferred from input and parameters.
      param_dtype: Of the parameters.
      precision: As in `flax.nnx.ConvTranspose`.
      kernel_init: A function of `(key, shape, dtype)`.
      bias_init: The same.
      rngs: The random keys; the stream `params` is used.

    Raises:
      ValueError: An alpha, the stride or the pooling is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxbox.layers import OctConvTranspose
      >>> layer = OctConvTranspose(8, 4, (3, 3), 2, rngs=nnx.Rngs(0))
      >>> high, low = layer((jnp.ones((5, 7, 4)), jnp.ones((2, 3, 4))))
      >>> high.shape, low.shape
      ((10, 14, 2), (5, 7, 2))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int = 1,
        *,
        alpha: Alpha = 0.5,
        padding: PaddingLike = "SAME",
        kernel_dilation: int | Sequence[int] = 1,
        use_bias: bool = True,
        pooling: Pooling = "floor",
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = _KERNEL_INIT,
        bias_init: Initializer = nnx.initializers.zeros,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            in_features,
            out_features,
            kernel_size,
            strides,
            alpha=alpha,
            padding=padding,
            kernel_dilation=kernel_dilation,
            use_bias=use_bias,
            pooling=pooling,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            kernel_init=kernel_init,
            bias_init=bias_init,
            rngs=rngs,
        )

    def __call__(self, x: Features) -> Features:
        """Convolves; as :class:`OctConv`."""
        self._check_channels(x)
        return octave_conv_transpose(
            x,
            self.kernels,
            self.bias,
            strides=self.strides,
            pooling=self.pooling,
            padding=self.padding,
            kernel_dilation=self.kernel_dilation,
            dtype=self.dtype,
            precision=self.precision,
        )


class DropInOctConv(nnx.Module):
    """An octave convolution between ordinary features, in place of an ordinary convolution.

    The last channels of the input become the low octave (:func:`to_octaves`), and the low octave of
    the output is enlarged (:func:`from_octaves`). The parameter is that of `conv`, an
    :class:`OctConv`.

    Source: Chen et al. 2019, for the convolution.

    Args:
      in_features: Channels of the input.
      out_features: Channels of the output.
      kernel_size: Pixels along each of one to three spatial axes. A single number is one axis.
      strides: 1 or 2.
      **options: Of :class:`OctConv`.

    Raises:
      ValueError: As :class:`OctConv`.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxbox.layers.octave import DropInOctConv
      >>> layer = DropInOctConv(16, 32, (3, 3), alpha=0.25, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((2, 28, 28, 16))).shape
      (2, 28, 28, 32)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        strides: int = 1,
        **options: Any,
    ):
        self.conv = OctConv(in_features, out_features, kernel_size, strides, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `(..., *spatial, in_features)` to the same with `out_features`."""
        rank = len(self.conv.kernel_size)
        octaves = to_octaves(x, self.conv.alpha[0], rank=rank, pooling=self.conv.pooling)
        size = x.shape[-rank - 1 : -1]
        if self.conv.strides == 2:
            size = pooled_size(size, 2, self.conv.pooling)
        return from_octaves(self.conv(octaves), rank=rank, size=size)


class PerOctave(nnx.Module):
    """The same kind of layer for each octave, with parameters of its own: BatchNorm, PReLU.

    Args:
      layer: Builds the layer for a number of channels, which it is called with, and with `rngs`.
      features: Channels, of both octaves.
      alpha: The share of the low octave in them.
      rngs: The random keys for the layers.

    Raises:
      ValueError: `alpha` is not from 0 to 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxbox.layers.octave import PerOctave
      >>> norm = PerOctave(nnx.BatchNorm, 8, 0.25, rngs=nnx.Rngs(0))
      >>> high, low = norm((jnp.ones((4, 4, 6)), jnp.ones((2, 2, 2))))
      >>> high.shape, low.shape
      ((4, 4, 6), (2, 2, 2))
    """

    def __init__(
        self,
        layer: Callable[..., Callable[[jax.Array], jax.Array]],
        features: int,
        alpha: float,
        *,
        rngs: nnx.Rngs,
    ):
        high, low = split_channels(features, alpha)
        self.high: Any = layer(high, rngs=rngs) if high else nnx.data(None)
        self.low: Any = layer(low, rngs=rngs) if low else nnx.data(None)

    def __call__(self, x: Features) -> Features:
        """Maps each octave by its own layer."""
        high, low = (
            None if octave is None else layer(octave)
            for octave, layer in zip(branches(x), (self.high, self.low), strict=True)
        )
        return join(high, low)


def map_octaves(function: Callable[[jax.Array], jax.Array], x: Features) -> Features:
    """Applies a function to each octave that is there: an activation, dropout.

    Args:
      function: Of one octave.
      x: Features.

    Returns:
      Features of the same kind.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxbox.layers.octave import map_octaves
      >>> map_octaves(jax.nn.relu, (None, jnp.array([-1.0, 2.0])))
      (None, Array([0., 2.], dtype=float32))
    """
    # `None` is no leaf of a tree.
    return jax.tree.map(function, x)


def split_channels(channels: int, alpha: float) -> tuple[int, int]:
    """Returns how many of some channels belong to the high and to the low octave.

    High are `floor((1 - alpha) * channels)`, low the others, `alpha` being exactly the simple
    fraction that it is meant as: 0.8 is 4/5, though the float is a little more.

    Source: the implementation by BrainCreators, whose rounding errors lose a channel here and
    there.

    Args:
      channels: At least 1.
      alpha: The share of the low octave, from 0 to 1.

    Returns:
      Channels of the high and of the low octave.

    Raises:
      ValueError: A number is out of range.

    Example:
      >>> from jaxbox.layers.octave import split_channels
      >>> split_channels(20, 0.8), split_channels(3, 0.5), split_channels(3, 1)
      ((4, 16), (1, 2), (0, 3))
    """
    if channels < 1:
        raise ValueError(f"channels must be at least 1, got {channels}.")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be from 0 to 1, got {alpha}.")
    high = math.floor((1 - Fraction(alpha).limit_denominator(_LARGEST_DENOMINATOR)) * channels)
    return high, channels - high


def to_octaves(
    x: jax.Array, alpha: float, *, rank: int = 2, pooling: Pooling = "floor"
) -> Features:
    """Makes features of two octaves of ordinary ones: the last channels become the low octave.

    Args:
      x: `(..., *spatial, C)`.
      alpha: The share of the low octave.
      rank: The number of spatial axes.
      pooling: What becomes of the last pixel of an odd number.

    Returns:
      `(high, low)`; `x` itself where `alpha` leaves nothing for the low octave.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.layers.octave import to_octaves
      >>> high, low = to_octaves(jnp.ones((6, 8, 4)), 0.25)
      >>> high.shape, low.shape
      ((6, 8, 3), (3, 4, 1))
    """
    high, low = split_channels(x.shape[-1], alpha)
    if not low:
        return x
    pooled = pool(x[..., high:], rank, 2, pooling)
    return (x[..., :high] if high else None, pooled)


def from_octaves(x: Features, *, rank: int = 2, size: Sequence[int] | None = None) -> jax.Array:
    """Makes ordinary features of those of two octaves: the low octave is enlarged.

    Args:
      x: Features.
      rank: The number of spatial axes.
      size: Of the result, where there is no high octave to tell; default: twice the low one's.

    Returns:
      `(..., *spatial, C)`, first the channels of the high octave.

    Raises:
      ValueError: Neither branch is there.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxbox.layers.octave import from_octaves
      >>> from_octaves((jnp.ones((5, 8, 3)), jnp.ones((2, 4, 1)))).shape
      (5, 8, 4)
    """
    high, low = branches(x)
    if low is None:
        if high is None:
            raise ValueError("x must have a branch, got none.")
        return high
    if high is None:
        return enlarge(low, rank, size)
    return jnp.concatenate([high, enlarge(low, rank, high.shape[-rank - 1 : -1])], axis=-1)


def _cut(
    kernel_init: Initializer, shape: tuple[int, ...], dtype: Dtype, rngs: nnx.Rngs
) -> list[nnx.Param | None]:
    """The kernels from the high and from the low octave to an output, drawn as one."""
    *size, n_high, n_low, outputs = shape
    if not (n_high or n_low) or not outputs:
        return [nnx.data(None), nnx.data(None)]
    kernel = kernel_init(rngs.params(), (*size, n_high + n_low, outputs), dtype)
    return [
        nnx.Param(part) if part.size else nnx.data(None)
        for part in jnp.split(kernel, [n_high], axis=-2)
    ]
