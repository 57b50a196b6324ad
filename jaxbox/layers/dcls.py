"""The dilated convolution with learnable spacings (DCLS) as a Flax NNX layer."""

import math
import operator
from collections.abc import Sequence
from typing import Final, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.typing import Dtype, Initializer, PaddingLike, PrecisionLike

from jaxbox.layers.plain_conv import check_groups, conv_with, positive_sizes
from jaxbox.ops.dcls import Version, dcls_kernel, repulsion
from jaxbox_kernels.common.large_kernel import conv_general_dilated

# The `tag` in the metadata of a Param that holds positions; its limits stand beside it.
POSITIONS_TAG: Final = "positions"

type Limits = tuple[tuple[float, float], ...]

# Where positions start around their places of rest, in cells, and how wide taps start.
_POSITIONS_INIT: Final = nnx.initializers.normal(0.5)
_SIGMA: Final[dict[Version, float]] = {"gauss": 0.23, "max": 0.0}


class DclsConv(nnx.Module):
    """A convolution with a large kernel of few taps that learn where in it they lie.

    Maps `(..., *spatial, in_features)` to `(..., *spatial, out_features)` as `flax.nnx.Conv` does,
    with the kernel that :func:`jaxbox.dcls_kernel` builds from the parameters

    - `weight`: `(kernel_count, in_features / groups, out_features)`,
    - `positions`: `(d, kernel_count, in_features / groups, out_features)`, or 1 in place of
      `out_features` where output channels share them; times `gain` they are in cells of the kernel,
      which are pixels, from its middle,
    - `sigma`: of the shape of `positions`, in cells; `None` for versions `"v0"` and `"v1"`,
    - `bias`: `(out_features,)`.

    `positions` has the metadata `tag="positions"` and `limits`, by which :mod:`jaxbox.optim` finds
    it. Nothing here keeps positions inside the kernel: training must, and
    :func:`jaxbox.optim.for_model` makes any optimizer do so. The authors exclude positions from
    weight decay (:func:`jaxbox.optim.decay_mask`).

    Source: Khalfaoui-Hassani et al. 2023.

    Args:
      in_features: Channels of the input.
      out_features: Channels of the output.
      kernel_size: Cells along each spatial axis, one to three; or, with `dilation`, taps. A single
        number is one axis.
      kernel_count: The number of taps, for each pair of channels. Not with `dilation`.
      strides: Pixels from an output to the next.
      dilation: Gives the form of a dilated convolution: `kernel_size` taps along each axis, spread
        over `dilation * kernel_size` cells. They rest where the taps of a convolution so dilated
        are, with padding `"SAME"`, and start around there.
      padding: As in `flax.nnx.Conv`: `"SAME"`, `"VALID"`, `"CIRCULAR"`, `"REFLECT"`, or numbers of
        pixels.
      feature_group_count: The number of groups of channels.
      use_bias: Whether there is a bias.
      version: How a tap between cells is spread over them, as in :func:`jaxbox.dcls_kernel`.
      gain: What positions are multiplied by: a larger one makes an optimizer move taps faster.
      share_positions: Whether all output channels have the same positions (and sigmas), as in the
        original's im2col method.
      whole_positions: Round positions to whole cells, for inference; they do not train then.
      dtype: Of the computation. Default: inferred from input and parameters.
      param_dtype: Of the parameters. Keep float32 in bfloat16 models.
      precision: Of the convolution, as in `flax.nnx.Conv`.
      weight_init: A function of `(key, shape, dtype)`. Default: uniform in
        `+-1 / sqrt(fan_in)`, `fan_in` being `kernel_count * in_features / groups`, as in the
        original.
      bias_init: The same, with the same default.
      positions_init: The same, of the distance from the place of rest in cells; without `dilation`
        that is the middle. Default: normal with standard deviation 0.5. Positions are clipped to
        the kernel.
      sigma_init: The same. Default: 0.23 for `"gauss"`, 0 for `"max"`.
      rngs: The random keys; the stream `params` is used.

    Raises:
      ValueError: Not exactly one of `kernel_count` and `dilation` is given; a size or count is
        below 1; groups do not divide the channels; `gain` is not positive; `version` is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from jaxbox.layers import DclsConv
      >>> layer = DclsConv(16, 32, (17, 17), kernel_count=34, rngs=nnx.Rngs(0))
      >>> layer.positions.shape, layer.kernel.shape
      ((2, 34, 16, 32), (17, 17, 16, 32))
      >>> layer(jnp.ones((20, 50, 100, 16))).shape
      (20, 50, 100, 32)
      >>> DclsConv(16, 32, (3, 5), dilation=(4, 2), strides=2, rngs=nnx.Rngs(0)).kernel.shape
      (12, 10, 16, 32)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | Sequence[int],
        kernel_count: int | None = None,
        strides: int | Sequence[int] = 1,
        *,
        dilation: int | Sequence[int] | None = None,
        padding: PaddingLike = "SAME",
        feature_group_count: int = 1,
        use_bias: bool = True,
        version: Version = "gauss",
        gain: float = 1.0,
        share_positions: bool = False,
        whole_positions: bool = False,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        precision: PrecisionLike = None,
        weight_init: Initializer | None = None,
        bias_init: Initializer | None = None,
        positions_init: Initializer = _POSITIONS_INIT,
        sigma_init: Initializer | None = None,
        rngs: nnx.Rngs,
    ):
        check_groups(in_features, out_features, feature_group_count)
        kernel_size = positive_sizes("kernel_size", kernel_size)
        if version not in get_args(Version):
            raise ValueError(
                f"version must be one of {', '.join(get_args(Version))}, got {version!r}."
            )
        if not (math.isfinite(gain) and gain > 0):
            raise ValueError(f"gain must be positive and finite, got {gain}.")
        inputs = in_features // feature_group_count
        if dilation is not None and kernel_count is None:
            dilation = positive_sizes("dilation", dilation, len(kernel_size))
            taps, kernel_size = kernel_size, tuple(map(operator.mul, kernel_size, dilation))
            rest = regular_positions(taps, dilation, kernel_size)
        elif kernel_count is not None and dilation is None:
            positive_sizes("kernel_count", kernel_count)
            rest = np.zeros((len(kernel_size), kernel_count))
        else:
            raise ValueError(
                "give either kernel_count, the number of taps, or dilation; got "
                f"{kernel_count} and {dilation}."
            )
        kernel_count = rest.shape[1]
        bound = 1 / math.sqrt(kernel_count * inputs)
        if weight_init is None:
            weight_init = _uniform(bound)
        if bias_init is None:
            bias_init = _uniform(bound)
        if sigma_init is None:
            sigma_init = nnx.initializers.constant(_SIGMA.get(version, 0.0))

        self.in_features = in_features
        self.out_features = out_features
        self.kernel_size = kernel_size
        self.kernel_count = kernel_count
        self.strides = strides
        self.padding = padding
        self.feature_group_count = feature_group_count
        self.version = version
        self.gain = gain
        self.whole_positions = whole_positions
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.precision = precision

        weight_shape = (kernel_count, inputs, out_features)
        self.weight = nnx.Param(weight_init(rngs.params(), weight_shape, param_dtype))
        limits = position_limits(kernel_size)
        shape = (len(kernel_size), kernel_count, inputs, 1 if share_positions else out_features)
        places = positions_init(rngs.params(), shape, param_dtype)
        places += jnp.asarray(rest, param_dtype)[..., None, None]
        low, high = jnp.array(limits, param_dtype).T.reshape(2, -1, 1, 1, 1)
        self.positions = nnx.Param(
            jnp.clip(places, low, high) / gain,
            tag=POSITIONS_TAG,
            limits=tuple((low / gain, high / gain) for low, high in limits),
        )
        spreads = version in _SIGMA
        self.sigma = (
            nnx.Param(sigma_init(rngs.params(), shape, param_dtype)) if spreads else nnx.data(None)
        )
        self.bias = (
            nnx.Param(bias_init(rngs.params(), (out_features,), param_dtype))
            if use_bias
            else nnx.data(None)
        )

    @property
    def places(self) -> jax.Array:
        """Where the taps lie, in cells from the middle: `(d, kernel_count, I / groups, O or 1)`."""
        places = self.positions[...] * self.gain
        return jax.lax.stop_gradient(jnp.round(places)) if self.whole_positions else places

    @property
    def kernel(self) -> jax.Array:
        """The kernel built from the taps: `(*kernel_size, I / groups, O)`."""
        sigma = None if self.sigma is None else self.sigma[...]
        return dcls_kernel(self.weight[...], self.places, sigma, self.kernel_size, self.version)

    def fold(self) -> nnx.Conv:
        """Builds the kernel for good.

        Returns:
          An ordinary convolution with the same output, for inference.

        Example:
          >>> from flax import nnx
          >>> from jaxbox.layers import DclsConv
          >>> DclsConv(4, 4, (7, 7), 5, rngs=nnx.Rngs(0)).fold().kernel.shape
          (7, 7, 4, 4)
        """
        return conv_with(
            self.kernel,
            None if self.bias is None else self.bias[...],
            strides=self.strides,
            padding=self.padding,
            feature_group_count=self.feature_group_count,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            precision=self.precision,
            conv_general_dilated=conv_general_dilated,
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves.

        Args:
          x: `(..., *spatial, in_features)`, of a floating dtype.

        Returns:
          The features that a `flax.nnx.Conv` with the kernel gives.
        """
        return self.fold()(x)


def position_limits(kernel_size: Sequence[int]) -> Limits:
    """Returns how far from the middle taps may lie without leaving the kernel.

    Args:
      kernel_size: Cells along each axis.

    Returns:
      The least and the greatest position along each axis, in cells. For even sizes they differ in
      magnitude: the middle has a cell less after it.

    Example:
      >>> from jaxbox.layers.dcls import position_limits
      >>> position_limits((17, 8))
      ((-8, 8), (-4, 3))
    """
    return tuple((-(size // 2), (size - 1) // 2) for size in kernel_size)


def repulsive_loss(model: nnx.Module) -> jax.Array:
    """Averages over a model's DCLS layers how much their taps lie on top of each other.

    The authors add its square to the loss after the first epochs.

    Source: the training code of Khalfaoui-Hassani et al. 2023 for ConvNeXt.

    Args:
      model: An NNX model.

    Returns:
      The mean of :func:`jaxbox.ops.dcls.repulsion`, a scalar; 0 for a model without such layers.

    Example:
      >>> from flax import nnx
      >>> from jaxbox.layers import DclsConv
      >>> from jaxbox.layers.dcls import repulsive_loss
      >>> zeros = nnx.initializers.zeros
      >>> repulsive_loss(DclsConv(1, 1, 7, 3, positions_init=zeros, rngs=nnx.Rngs(0))).item()
      1.0
    """
    layers = [layer for _, layer in nnx.iter_modules(model) if isinstance(layer, DclsConv)]
    if not layers:
        return jnp.zeros(())
    return jnp.stack([repulsion(layer.places) for layer in layers]).mean()


def regular_positions(
    taps: Sequence[int], dilation: Sequence[int], kernel_size: Sequence[int]
) -> np.ndarray:
    """Returns where the taps of a dilated convolution with padding `"SAME"` lie.

    Args:
      taps: Along each axis.
      dilation: Along each axis.
      kernel_size: Cells along each axis, at least `(taps - 1) * dilation + 1`.

    Returns:
      Positions `(d, K)` in cells from the middle, the last axis' taps next to each other, as in the
      kernel of a `flax.nnx.Conv`.

    Example:
      >>> from jaxbox.layers.dcls import regular_positions
      >>> regular_positions((3,), (4,), (9,)).tolist()
      [[-4, 0, 4]]
    """
    axes = [
        (size - 1) // 2 - size // 2 + d * np.arange(n) - (n - 1) * d // 2
        for n, d, size in zip(taps, dilation, kernel_size, strict=True)
    ]
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")])


def _uniform(bound: float) -> Initializer:
    def init(key: jax.Array, shape: Sequence[int], dtype: Dtype) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
