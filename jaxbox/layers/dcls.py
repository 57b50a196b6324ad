"""The dilated convolution with learnable spacings (DCLS) as a Flax NNX layer."""

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.typing import Dtype, Initializer, PaddingLike, PrecisionLike

from jaxbox.arguments import (
    check_choice,
    check_count,
    check_feature_group_count,
    check_number,
    sizes_per_axis,
)
from jaxbox.layers.checks import check_model
from jaxbox.layers.conv_options import check_conv_options, per_axis_if_needed
from jaxbox.layers.fold import FoldableConv
from jaxbox.layers.initializers import OFFSETS_INIT, uniform
from jaxbox.layers.parameters import NO_METADATA, check_metadata, map_drawn
from jaxbox.layers.stacking import added_axes
from jaxbox.ops.dcls import Version, dcls_kernel, repulsion
from jaxbox_kernels.common.conv_large_kernel import conv_large_kernel

__all__ = [
    "POSITIONS_TAG",
    "DclsConv",
    "Limits",
    "dilated_positions",
    "position_limits",
    "repulsive_loss",
]

# The `tag` in the metadata of a Param that holds positions. Beside it stand `limits`, and
# `layer_shape`, the shape in a single layer.
POSITIONS_TAG: Final = "positions"

# What the layer itself says about positions.
_OWN_METADATA: Final = frozenset({"tag", "limits", "layer_shape"})

type Limits = tuple[tuple[float, float], ...]

# The default widths of taps, in cells.
_INITIAL_SIGMA: Final[dict[Version, float]] = {"gauss": 0.23, "max": 0.0}


class DclsConv(FoldableConv):
    """A convolution with a large kernel of a few taps that learn their positions in it.

    It maps `(..., *spatial, in_features)` to `(..., *spatial, out_features)` as `flax.nnx.Conv`
    does, with the kernel that :func:`jaxbox.dcls_kernel` builds from the parameters

    - `weight`: `(kernel_count, in_features / groups, out_features)`,
    - `positions`: `(d, kernel_count, in_features / groups, out_features)`, or 1 in place of
      `out_features` if output channels share them; times `gain` they are in cells of the kernel,
      which are pixels, from its middle,
    - `sigma`: in cells, of the shape of `positions`; `None` for the versions `"v0"` and `"v1"`,
    - `bias`: `(out_features,)`.

    `positions` has the metadata `tag="positions"`, `limits` and `layer_shape` (its shape in a
    single layer, not in layers that `nnx.vmap` stacks), by which :mod:`jaxbox.optim` finds it. The
    layer itself does not keep positions inside the kernel: use :func:`jaxbox.optim.constrain`,
    which makes any optimizer do so. The authors exclude positions from weight decay
    (:func:`jaxbox.optim.decay_mask`).

    Source: Khalfaoui-Hassani et al. 2023.

    Args:
      in_features: The number of channels of the input.
      out_features: The number of channels of the output.
      kernel_size: The number of cells along each of one to three spatial axes; with `dilation`, the
        number of taps. A single number is one axis.
      kernel_count: The number of taps for each pair of channels. Not with `dilation`.
      strides: The distance in pixels between neighbouring outputs.
      dilation: The dilation of the dilated convolution that the layer stands for, in place of
        `kernel_count`: `kernel_size` taps along each axis, in a kernel of `dilation * kernel_size`
        cells. Positions start around those of the taps of that convolution with padding `"SAME"`.
      padding: The padding as in `flax.nnx.Conv`: `"SAME"`, `"VALID"`, `"CIRCULAR"`, `"REFLECT"`,
        `"CAUSAL"`, or numbers of pixels.
      feature_group_count: The number of groups that the channels are divided into.
      use_bias: Whether to add a bias.
      version: How a tap between cells is spread over them, as in :func:`jaxbox.dcls_kernel`.
      gain: The factor that turns the parameter `positions` into cells. The larger it is, the faster
        an optimizer moves the taps.
      share_positions: Whether all output channels have the same positions and sigmas, as in the
        original's im2col method.
      whole_positions: Whether to round positions to whole cells, for inference. They do not train
        then.
      dtype: The dtype of the computation. By default it is inferred from input and parameters.
      param_dtype: The dtype of the parameters. Keep float32 in bfloat16 models.
      precision: The precision of the convolution, as in `flax.nnx.Conv`.
      weight_init: The initializer of the weights. By default they are uniform within
        `+-1 / sqrt(fan_in)` with `fan_in = kernel_count * in_features / groups`, as in the
        original.
      bias_init: The initializer of the bias, by default the same.
      positions_init: The initializer of the offsets of the positions, in cells, from the middle of
        the kernel or, with `dilation`, from the taps of the dilated convolution. By default they
        are normal with standard deviation 0.5. The positions are clipped to the kernel.
      sigma_init: The initializer of sigma. By default it is 0.23 for `"gauss"` and 0 for `"max"`.
      weight_metadata: Further metadata of the weights, as `flax.nnx.Conv` takes for its kernel.
      bias_metadata: The same for the bias.
      positions_metadata: The same for the positions.
      sigma_metadata: The same for sigma.
      rngs: The random keys; the stream `params` is used.

    Raises:
      TypeError: An argument is of the wrong type.
      ValueError: Not exactly one of `kernel_count` and `dilation` is given; a size or count is
        below 1; the groups do not divide the channels; `gain` is not positive; `version`,
        `padding` or `precision` is unknown.

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
        positions_init: Initializer = OFFSETS_INIT,
        sigma_init: Initializer | None = None,
        weight_metadata: Mapping[str, Any] = NO_METADATA,
        bias_metadata: Mapping[str, Any] = NO_METADATA,
        positions_metadata: Mapping[str, Any] = NO_METADATA,
        sigma_metadata: Mapping[str, Any] = NO_METADATA,
        rngs: nnx.Rngs,
    ) -> None:
        in_features, out_features, feature_group_count = check_feature_group_count(
            in_features, out_features, feature_group_count
        )
        check_choice("version", version, get_args(Version))
        gain = float(check_number("gain", gain))
        self.kernel_size, grid = _initial_grid(kernel_size, kernel_count, dilation)
        self.in_features = in_features
        self.out_features = out_features
        self.kernel_count = grid.shape[1]
        rank = len(self.kernel_size)
        optional = {"weight_init": weight_init, "bias_init": bias_init, "sigma_init": sigma_init}
        self.strides = per_axis_if_needed("strides", strides, rank)
        self.padding = check_conv_options(
            rank,
            padding=padding,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            flags={
                "use_bias": use_bias,
                "share_positions": share_positions,
                "whole_positions": whole_positions,
            },
            functions={
                "positions_init": positions_init,
                **{name: init for name, init in optional.items() if init is not None},
            },
            rngs=rngs,
        )
        of_weight = check_metadata("weight_metadata", weight_metadata)
        of_bias = check_metadata("bias_metadata", bias_metadata)
        of_positions = check_metadata("positions_metadata", positions_metadata, _OWN_METADATA)
        of_sigma = check_metadata("sigma_metadata", sigma_metadata)
        self.kernel_dilation = 1
        self.feature_group_count = feature_group_count
        self.version = version
        self.gain = gain
        self.whole_positions = whole_positions
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.precision = precision
        self.conv_general_dilated = conv_large_kernel

        inputs = in_features // feature_group_count
        default_init = uniform(1 / math.sqrt(self.kernel_count * inputs))

        def param(
            initializer: Initializer, metadata: Mapping[str, Any], *shape: int
        ) -> nnx.Param[jax.Array]:
            return nnx.Param(initializer(rngs.params(), shape, param_dtype), **metadata)

        taps = self.kernel_count
        self.weight = param(weight_init or default_init, of_weight, taps, inputs, out_features)
        shape = (*grid.shape, inputs, 1 if share_positions else out_features)
        limits = position_limits(self.kernel_size)
        low, high = jnp.array(limits, param_dtype).T.reshape(2, -1, 1, 1, 1)
        start = jnp.asarray(grid, param_dtype)[..., None, None]
        self.positions = nnx.Param(
            map_drawn(
                lambda offsets: jnp.clip(start + offsets, low, high) / gain,
                positions_init(rngs.params(), shape, param_dtype),
            ),
            tag=POSITIONS_TAG,
            limits=tuple((low / gain, high / gain) for low, high in limits),
            layer_shape=shape,
            **of_positions,
        )
        sigma_init = sigma_init or nnx.initializers.constant(_INITIAL_SIGMA.get(version, 0.0))
        has_sigma = version in _INITIAL_SIGMA
        self.sigma = param(sigma_init, of_sigma, *shape) if has_sigma else nnx.data(None)
        bias_init = bias_init or default_init
        self.bias = param(bias_init, of_bias, out_features) if use_bias else nnx.data(None)

    @property
    def positions_in_cells(self) -> jax.Array:
        """The positions of the taps, in cells from the middle: `(d, K, I / groups, O or 1)`."""
        positions = self.positions[...] * self.gain
        return jax.lax.stop_gradient(jnp.round(positions)) if self.whole_positions else positions

    @property
    def kernel(self) -> jax.Array:
        """The kernel built from the taps, `(*kernel_size, in_features / groups, out_features)`."""
        sigma = None if self.sigma is None else self.sigma[...]
        return dcls_kernel(
            self.weight[...], self.positions_in_cells, sigma, self.kernel_size, self.version
        )


def position_limits(kernel_size: Sequence[int]) -> Limits:
    """Returns the range of the positions that lie inside a kernel.

    Args:
      kernel_size: The number of cells along each axis.

    Returns:
      The least and the greatest position along each axis, in cells. For an even size they differ in
      magnitude, because the middle has one cell less after it than before it.

    Example:
      >>> from jaxbox.layers.dcls import position_limits
      >>> position_limits((17, 8))
      ((-8, 8), (-4, 3))
    """
    return tuple((-(size // 2), (size - 1) // 2) for size in kernel_size)


def repulsive_loss(model: nnx.Module) -> jax.Array:
    """Averages over a model's DCLS layers how much their taps lie on top of each other.

    The authors add its square to the loss after the first epochs. Layers that `nnx.vmap` or
    `nnx.scan` has stacked count as several.

    Source: the training code of Khalfaoui-Hassani et al. 2023 for ConvNeXt.

    Args:
      model: An NNX model.

    Returns:
      The mean of `jaxbox.ops.dcls.repulsion`, a scalar; 0 for a model without such layers.

    Raises:
      TypeError: `model` is no NNX model.

    Example:
      >>> from flax import nnx
      >>> from jaxbox.layers import DclsConv, repulsive_loss
      >>> zeros = nnx.initializers.zeros
      >>> repulsive_loss(DclsConv(1, 1, 7, 3, positions_init=zeros, rngs=nnx.Rngs(0))).item()
      1.0
    """
    check_model(model)
    layers = [layer for _, layer in nnx.iter_modules(model) if isinstance(layer, DclsConv)]
    if not layers:
        return jnp.zeros(())
    losses, numbers = zip(*map(_repulsion_of_stack, layers), strict=True)
    return jnp.average(jnp.stack(losses), weights=jnp.array(numbers, losses[0].dtype))


def axes_of_stack(positions: nnx.Variable[jax.Array]) -> tuple[int, ...]:
    """Returns the axes of a parameter `positions` along which layers are stacked.

    Example:
      >>> import jax
      >>> from flax import nnx
      >>> from jaxbox.layers import DclsConv
      >>> from jaxbox.layers.dcls import axes_of_stack
      >>> @nnx.vmap(out_axes=nnx.StateAxes({nnx.Param: 1}))
      ... def make(key):
      ...     return DclsConv(2, 3, (7, 5), 4, rngs=nnx.Rngs(key))
      >>> positions = make(jax.random.split(jax.random.key(0), 6)).positions
      >>> positions.shape, axes_of_stack(positions)
      ((2, 6, 4, 2, 3), (1,))
    """
    shape = positions.shape
    return added_axes(shape, positions.get_metadata().get("layer_shape", shape[-4:]))


def dilated_positions(
    taps: Sequence[int], dilation: Sequence[int], kernel_size: Sequence[int]
) -> np.ndarray:
    """Returns the positions of the taps of a dilated convolution with padding `"SAME"`.

    Args:
      taps: The number of taps along each axis.
      dilation: The dilation along each axis.
      kernel_size: The number of cells along each axis, at least `(taps - 1) * dilation + 1`.

    Returns:
      The positions `(d, K)` in cells from the middle. The taps are in the order of a
      `flax.nnx.Conv`'s kernel: those along the last axis are next to each other.

    Example:
      >>> from jaxbox.layers.dcls import dilated_positions
      >>> dilated_positions((3,), (4,), (9,)).tolist()
      [[-4, 0, 4]]
    """
    axes = [
        (size - 1) // 2 - size // 2 + d * np.arange(n) - (n - 1) * d // 2
        for n, d, size in zip(taps, dilation, kernel_size, strict=True)
    ]
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")])


def _repulsion_of_stack(layer: DclsConv) -> tuple[jax.Array, int]:
    """Returns the mean repulsion of stacked layers and their number; 1 for a single layer."""
    positions = layer.positions_in_cells
    axes = axes_of_stack(layer.positions)
    number = math.prod(positions.shape[axis] for axis in axes)
    return repulsion(jnp.moveaxis(positions, axes, range(len(axes)))), number


def _initial_grid(
    kernel_size: int | Sequence[int],
    kernel_count: int | None,
    dilation: int | Sequence[int] | None,
) -> tuple[tuple[int, ...], np.ndarray]:
    """Returns the kernel's size in cells, and around which positions `(d, K)` taps start."""
    kernel_size = sizes_per_axis("kernel_size", kernel_size)
    if dilation is not None and kernel_count is None:
        dilation = sizes_per_axis("dilation", dilation, len(kernel_size))
        cells = tuple(map(operator.mul, kernel_size, dilation))
        return cells, dilated_positions(kernel_size, dilation, cells)
    if kernel_count is not None and dilation is None:
        taps = check_count("kernel_count", kernel_count)
        return kernel_size, np.zeros((len(kernel_size), taps))
    raise ValueError(
        "give either kernel_count, the number of taps, or dilation; got "
        f"{kernel_count!r} and {dilation!r}."
    )
