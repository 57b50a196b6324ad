"""Octave convolution as Flax NNX layers."""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype, Initializer, PaddingLike, PrecisionLike
from jax import lax

from jaxbox.arguments import (
    check_callable,
    check_choice,
    check_count,
    check_fraction,
    sizes_per_axis,
)
from jaxbox.layers.conv_options import check_conv_options, per_axis_if_needed
from jaxbox.layers.fold import check_images
from jaxbox.layers.initializers import KERNEL_INIT
from jaxbox.layers.parameters import NO_METADATA, check_metadata, map_drawn
from jaxbox.ops.octave import OctaveBias, OctaveKernels, octave_conv, octave_conv_transpose
from jaxbox.ops.octave_features import (
    Features,
    Octaves,
    Pooling,
    from_octaves,
    from_pair,
    pooled_size,
    spatial_size,
    split_channels,
    to_octaves,
    to_pair,
)
from jaxbox_kernels.common.conv import ConvGeneralDilated

__all__ = ["ArrayOctConv", "OctConv", "OctConvTranspose", "PerOctave"]

type Alpha = float | tuple[float, float]


class OctConv(nnx.Module):
    """A convolution whose channels are of high or of low spatial frequency.

    It maps features of two octaves to such features by :func:`jaxbox.octave_conv`. Features are
    :class:`jaxbox.Octaves`, `high` and `low`, the low octave at half the resolution. A branch
    without channels is `None`; features without a low branch, as with an `alpha` of 0, are a plain
    array, as in and out of an ordinary convolution. Such layers follow each other in
    `flax.nnx.Sequential`; see :class:`PerOctave` for BatchNorm and activations between them.

    The parameters are the kernels `high_to_high`, `high_to_low`, `low_to_high` and `low_to_low`,
    each `(*kernel_size, inputs / groups, outputs)`, or `None` if a branch is missing, and the
    biases `high_bias` and `low_bias`, one for each output. The two kernels that lead to an output
    start as one kernel of all the input channels, cut in two. Outputs therefore have the variance
    of an ordinary convolution's, and with an `alpha` of 0 or 1 the layer starts as an ordinary
    convolution.

    Source: Chen et al. 2019.

    Args:
      in_features: The number of channels of the input, of both octaves together.
      out_features: The number of channels of the output, of both octaves together.
      kernel_size: The number of taps along each of one to three spatial axes. A single number is
        one axis.
      strides: The stride, 1 or 2. Stride 2 pools first.
      alpha: The share of the low octave in the channels, from 0 to 1: one for input and output, or
        a pair. See :func:`jaxbox.layers.split_channels`.
      padding: The padding, as in `flax.nnx.Conv`. With a padding that changes the size the outputs
        may not fit each other as inputs of another octave convolution.
      kernel_dilation: The distance in pixels between neighbouring taps.
      feature_group_count: The number of groups that each path is divided into. If it is
        `in_features`, the layer is depthwise: it has no paths from one octave to the other, as in
        the authors' code.
      use_bias: Whether to add biases to the outputs.
      pooling: How an axis of odd size is pooled, `"floor"` or `"ceil"`; see
        :func:`jaxbox.octave_conv`.
      dtype: The dtype of the computation. By default it is inferred from input and parameters.
      param_dtype: The dtype of the parameters.
      precision: The precision of the convolutions, as in `flax.nnx.Conv`.
      kernel_init: The initializer of the kernels.
      bias_init: The initializer of the biases.
      conv_general_dilated: The function that convolves, as in `flax.nnx.Conv`.
      kernel_metadata: Further metadata of the kernels, as `flax.nnx.Conv` takes for its own.
      bias_metadata: The same for the biases.
      rngs: The random keys; the stream `params` is used.

    Raises:
      TypeError: An argument is of the wrong type.
      ValueError: An argument is out of range, or the groups do not divide the channels of a branch.

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

    _transposed: ClassVar[bool] = False

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
        kernel_init: Initializer = KERNEL_INIT,
        bias_init: Initializer = nnx.initializers.zeros,
        conv_general_dilated: ConvGeneralDilated = lax.conv_general_dilated,
        kernel_metadata: Mapping[str, Any] = NO_METADATA,
        bias_metadata: Mapping[str, Any] = NO_METADATA,
        rngs: nnx.Rngs,
    ) -> None:
        self.kernel_size = sizes_per_axis("kernel_size", kernel_size)
        rank = len(self.kernel_size)
        self.alpha = _pair_of_alphas(alpha)
        self.in_features = split_channels(check_count("in_features", in_features), self.alpha[0])
        self.out_features = split_channels(check_count("out_features", out_features), self.alpha[1])
        self.strides = check_count("strides", strides)
        if not self._transposed and self.strides > 2:
            raise ValueError(f"strides must be 1 or 2, got {strides}.")
        self.padding = check_conv_options(
            rank,
            padding=padding,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            flags={"use_bias": use_bias},
            functions={
                "kernel_init": kernel_init,
                "bias_init": bias_init,
                "conv_general_dilated": conv_general_dilated,
            },
            rngs=rngs,
            transposed=self._transposed,
        )
        self.kernel_dilation = per_axis_if_needed("kernel_dilation", kernel_dilation, rank)
        self.feature_group_count = check_count("feature_group_count", feature_group_count)
        check_choice("pooling", pooling, get_args(Pooling))
        self.pooling = pooling
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.precision = precision
        self.conv_general_dilated = conv_general_dilated

        of_kernels = check_metadata("kernel_metadata", kernel_metadata)
        of_biases = check_metadata("bias_metadata", bias_metadata)
        high_inputs, low_inputs = self._inputs_per_group()
        (self.high_to_high, self.low_to_high), (self.high_to_low, self.low_to_low) = (
            _output_kernels(kernel_init, self.kernel_size, *channels, param_dtype, of_kernels, rngs)
            for channels in zip(high_inputs, low_inputs, self.out_features, strict=True)
        )
        self.high_bias, self.low_bias = (
            nnx.Param(bias_init(rngs.params(), (outputs,), param_dtype), **of_biases)
            if use_bias and outputs
            else nnx.data(None)
            for outputs in self.out_features
        )

    @property
    def kernels(self) -> OctaveKernels:
        """The kernels of the four paths, as :func:`jaxbox.octave_conv` takes them."""
        paths = (self.high_to_high, self.high_to_low, self.low_to_high, self.low_to_low)
        return OctaveKernels(*(None if path is None else path[...] for path in paths))

    @property
    def bias(self) -> OctaveBias:
        """The biases of the two outputs, as :func:`jaxbox.octave_conv` takes them."""
        biases = (self.high_bias, self.low_bias)
        return OctaveBias(*(None if bias is None else bias[...] for bias in biases))

    def __call__(self, x: Features) -> jax.Array | Octaves:
        """Convolves.

        Args:
          x: The features: `Octaves` or a tuple `(high, low)`, each `(..., *spatial, channels)`, or
            `None` for an octave without channels; the array `high` if the low octave has none.

        Returns:
          The output, features of the same form.

        Raises:
          TypeError: A branch is not of a real floating dtype.
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
        given = tuple(0 if octave is None else octave.shape[-1] for octave in to_pair(x))
        if given != self.in_features:
            raise ValueError(
                f"x must have {self.in_features} channels of high and low frequency, got {given}."
            )

    def _inputs_per_group(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Returns the input channels of a group: from the high octave to each octave, from the low.

        Raises:
          ValueError: The groups do not divide the channels.
        """
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
    """An octave convolution made of transposed convolutions.

    It computes :func:`jaxbox.octave_conv_transpose` with the parameters of :class:`OctConv`. It has
    no groups, because Flax's transposed convolution has none.

    Args:
      in_features: The number of channels of the input, of both octaves together.
      out_features: The number of channels of the output, of both octaves together.
      kernel_size: The number of taps along each of one to three spatial axes. A single number is
        one axis.
      strides: How many times larger the output is.
      alpha: The share of the low octave in the channels, as in :class:`OctConv`.
      padding: The padding, as in `flax.nnx.ConvTranspose`.
      kernel_dilation: The distance in pixels between neighbouring taps.
      use_bias: Whether to add biases to the outputs.
      pooling: How an axis of odd size is pooled, as in :class:`OctConv`.
      dtype: The dtype of the computation. By default it is inferred from input and parameters.
      param_dtype: The dtype of the parameters.
      precision: The precision of the convolutions, as in `flax.nnx.ConvTranspose`.
      kernel_init: The initializer of the kernels.
      bias_init: The initializer of the biases.
      kernel_metadata: Further metadata of the kernels, as `flax.nnx.Conv` takes for its own.
      bias_metadata: The same for the biases.
      rngs: The random keys; the stream `params` is used.

    Raises:
      TypeError: An argument is of the wrong type.
      ValueError: An argument is out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxbox.layers import OctConvTranspose
      >>> layer = OctConvTranspose(8, 4, (3, 3), 2, rngs=nnx.Rngs(0))
      >>> high, low = layer((jnp.ones((5, 7, 4)), jnp.ones((2, 3, 4))))
      >>> high.shape, low.shape
      ((10, 14, 2), (5, 7, 2))
    """

    _transposed: ClassVar[bool] = True

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
        kernel_init: Initializer = KERNEL_INIT,
        bias_init: Initializer = nnx.initializers.zeros,
        kernel_metadata: Mapping[str, Any] = NO_METADATA,
        bias_metadata: Mapping[str, Any] = NO_METADATA,
        rngs: nnx.Rngs,
    ) -> None:
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
            kernel_metadata=kernel_metadata,
            bias_metadata=bias_metadata,
            rngs=rngs,
        )

    def __call__(self, x: Features) -> jax.Array | Octaves:
        """Convolves; arguments and result are those of :class:`OctConv`."""
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


class ArrayOctConv(nnx.Module):
    """An octave convolution from arrays to arrays, in place of an ordinary convolution.

    The last channels of the input become the low octave (:func:`jaxbox.layers.to_octaves`), and the
    low octave of the output is upsampled (:func:`jaxbox.layers.from_octaves`). The parameters are
    those of the attribute `conv`, an :class:`OctConv`.

    Source: Chen et al. 2019, for the convolution.

    Args:
      in_features: The number of channels of the input.
      out_features: The number of channels of the output.
      kernel_size: The number of taps along each of one to three spatial axes. A single number is
        one axis.
      strides: The stride, 1 or 2.
      **options: The other arguments of :class:`OctConv`.

    Raises:
      ValueError: An argument is out of range, as in :class:`OctConv`.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxbox.layers import ArrayOctConv
      >>> layer = ArrayOctConv(16, 32, (3, 3), alpha=0.25, rngs=nnx.Rngs(0))
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
    ) -> None:
        self.conv = OctConv(in_features, out_features, kernel_size, strides, **options)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `(..., *spatial, in_features)` to `(..., *outputs, out_features)`.

        Raises:
          TypeError: `x` is not of a real floating dtype.
          ValueError: The channels or the number of axes of `x` do not fit.
        """
        rank = len(self.conv.kernel_size)
        x = check_images(x, rank, sum(self.conv.in_features))
        octaves = to_octaves(x, self.conv.alpha[0], rank=rank, pooling=self.conv.pooling)
        size = spatial_size(x, rank)
        if self.conv.strides == 2:
            size = pooled_size(size, 2, self.conv.pooling)
        return from_octaves(self.conv(octaves), rank=rank, size=size)


class PerOctave(nnx.Module):
    """Applies a layer of its own to each octave, such as BatchNorm.

    Args:
      layer: The layer's class or another function that builds it. It is called with the number of
        channels and `rngs`.
      features: The number of channels, of both octaves together.
      alpha: The share of the low octave in them, from 0 to 1.
      rngs: The random keys for the layers.

    Raises:
      TypeError: An argument is of the wrong type.
      ValueError: `alpha` is not from 0 to 1, or `features` is below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxbox.layers import PerOctave
      >>> norm = PerOctave(nnx.BatchNorm, 8, 0.25, rngs=nnx.Rngs(0))
      >>> high, low = norm((jnp.ones((4, 4, 6)), jnp.ones((2, 2, 2))))
      >>> high.shape, low.shape
      ((4, 4, 6), (2, 2, 2))

      A residual block of octave convolutions:

      >>> import functools
      >>> import jax
      >>> from jaxbox.layers import OctConv, map_octaves
      >>> class OctaveBlock(nnx.Module):
      ...     def __init__(self, features, alpha, rngs):
      ...         def conv():
      ...             return OctConv(features, features, (3, 3), alpha=alpha, rngs=rngs)
      ...         def norm():
      ...             return PerOctave(nnx.BatchNorm, features, alpha, rngs=rngs)
      ...         relu = functools.partial(map_octaves, nnx.relu)
      ...         self.branch = nnx.Sequential(conv(), norm(), relu, conv(), norm())
      ...     def __call__(self, x):
      ...         return map_octaves(nnx.relu, jax.tree.map(jnp.add, x, self.branch(x)))
      >>> block = OctaveBlock(8, 0.25, nnx.Rngs(0))
      >>> stem = OctConv(3, 8, (3, 3), alpha=(0, 0.25), rngs=nnx.Rngs(1))
      >>> high, low = block(stem(jnp.ones((2, 32, 32, 3))))
      >>> high.shape, low.shape
      ((2, 32, 32, 6), (2, 16, 16, 2))
    """

    def __init__(
        self,
        layer: Callable[..., Callable[[jax.Array], jax.Array]],
        features: int,
        alpha: float,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        check_callable("layer", layer)
        check_fraction("alpha", alpha)
        if not isinstance(rngs, nnx.Rngs):
            raise TypeError(f"rngs must be flax.nnx.Rngs, got {rngs!r}.")
        high, low = split_channels(check_count("features", features), alpha)
        self.high: Any = layer(high, rngs=rngs) if high else nnx.data(None)
        self.low: Any = layer(low, rngs=rngs) if low else nnx.data(None)

    def __call__(self, x: Features) -> jax.Array | Octaves:
        """Maps each octave by its layer."""
        high, low = (
            None if octave is None else layer(octave)
            for octave, layer in zip(to_pair(x), (self.high, self.low), strict=True)
        )
        return from_pair(high, low)


def _pair_of_alphas(alpha: Alpha) -> tuple[float, float]:
    """Returns the alphas of input and output."""
    pair = tuple(alpha) if isinstance(alpha, tuple | list) else (alpha, alpha)
    if len(pair) != 2:
        raise ValueError(
            f"alpha must be a number from 0 to 1, or a pair of them for input and output; got "
            f"{alpha!r}."
        )
    for each in pair:
        check_fraction("alpha", each)
    return pair


def _output_kernels(
    kernel_init: Initializer,
    kernel_size: tuple[int, ...],
    high_inputs: int,
    low_inputs: int,
    outputs: int,
    dtype: Dtype,
    metadata: Mapping[str, Any],
    rngs: nnx.Rngs,
) -> list[nnx.Param[jax.Array] | None]:
    """Draws the kernels from the high and from the low octave to an output as one kernel."""
    if not (high_inputs or low_inputs) or not outputs:
        return [nnx.data(None), nnx.data(None)]
    shape = (*kernel_size, high_inputs + low_inputs, outputs)
    kernel = kernel_init(rngs.params(), shape, dtype)
    parts = ((slice(high_inputs), high_inputs), (slice(high_inputs, None), low_inputs))
    return [
        nnx.Param(map_drawn(operator.itemgetter((..., part, slice(None))), kernel), **metadata)
        if inputs
        else nnx.data(None)
        for part, inputs in parts
    ]
