"""The layers for Flax Linen.

Each class has the options, numbers and parameters of the NNX layer of its name, except for the
channels of the input and the window of boxes, which it takes from the input that it is initialized
with. Linen parameters carry no metadata but the names of their axes, which `nn.with_partitioning`
and the metadata `out_sharding` give them: mark boxes and positions for
:mod:`jaxbox.optim` by :func:`jaxbox.optim.find_boxes_by_name` and
:func:`jaxbox.optim.find_positions_by_name`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from flax.typing import Dtype, Initializer, PaddingLike, PrecisionLike
from jax import lax

from jaxbox import boxes, layers
from jaxbox.arguments import check_callable, to_array
from jaxbox.layers.box import choose_num_dims, choose_theta_init
from jaxbox.layers.initializers import KERNEL_INIT, OFFSETS_INIT
from jaxbox.layers.octave import Alpha
from jaxbox.layers.parameters import NO_METADATA
from jaxbox.ops.box_conv import Implementation, Padding
from jaxbox.ops.dcls import Version
from jaxbox.ops.octave_features import Features, Octaves, Pooling, from_pair, to_pair
from jaxbox_kernels.common import layout
from jaxbox_kernels.common.conv import ConvGeneralDilated

__all__ = [
    "BoxConv",
    "DOConv",
    "DclsConv",
    "OctConv",
    "OctConvTranspose",
    "PerOctave",
    "WeightedBoxConv",
]


class _LinenLayer(nn.Module):
    """Builds the NNX layer of its name for the input that it gets, and applies it."""

    nnx_layer: ClassVar[type[nnx.Module]]

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Applies the layer; see the NNX layer of this name."""
        module = nnx.bridge.ToLinen(
            self.nnx_layer,
            kwargs=self._options() | self._from_input(x),
            metadata_fn=_to_linen_variable,
        )
        # The parameters get their names from the NNX layer alone, without that of `module`.
        nn.share_scope(self, module)
        return module(x)

    def _options(self) -> dict[str, Any]:
        """Returns the attributes that are arguments of the NNX layer."""
        names = {field.name for field in dataclasses.fields(self)} - {"parent", "name"}
        options = {name: getattr(self, name) for name in names}
        for name in filter(lambda name: name.endswith("_init"), names):
            if callable(options[name]):
                options[name] = _to_nnx_initializer(options[name])
        return options

    def _from_input(self, x: Any) -> dict[str, Any]:
        """Returns the arguments of the NNX layer that follow from the input."""
        x = to_array("x", x)
        if x.ndim < 2 or not x.shape[-1]:
            raise ValueError(f"x must be (..., *spatial, channels), got shape {x.shape}.")
        return {"in_features": x.shape[-1]}


def _to_nnx_initializer(initializer: Initializer) -> Initializer:
    """Makes what `nn.with_partitioning` returns an initializer for NNX's parameters."""

    def init(*arguments: Any) -> Any:
        drawn = initializer(*arguments)
        if not isinstance(drawn, nn.Partitioned):
            return drawn
        metadata = drawn.to_nnx_metadata()
        value = metadata.pop("value")
        # Linen's names of axes need not be those of a mesh.
        metadata |= {"linen_meta_type": type(drawn), "eager_sharding": False}
        return nnx.VariableMetadata(value, metadata=metadata)

    return init


def _to_linen_variable(variable: nnx.Variable[jax.Array]) -> Any:
    """Returns an array, or as `nn.with_partitioning` does a box if its axes have names."""
    metadata = variable.get_metadata()
    if not metadata.get("out_sharding"):
        return variable.get_value()
    box = metadata.get("linen_meta_type", nn.Partitioned)
    defaults = {"mesh": None, "sharding_rules": None}
    return box.from_nnx_metadata({**defaults, **metadata, "value": variable.get_value()})


class BoxConv(_LinenLayer):
    """The Linen form of :class:`jaxbox.layers.BoxConv`, with the same options.

    Without `window`, boxes start inside the feature map that the layer is initialized with, and
    only their minimum size is enforced.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxbox.linen import BoxConv
      >>> layer = BoxConv(num_boxes=4)
      >>> x = jnp.ones((2, 64, 128, 16))
      >>> params = layer.init(jax.random.key(0), x)
      >>> params["params"]["theta"].shape
      (16, 4, 4)
      >>> layer.apply(params, x).shape
      (2, 64, 128, 64)
    """

    nnx_layer: ClassVar[type[nnx.Module]] = layers.BoxConv

    num_boxes: int
    _: dataclasses.KW_ONLY
    window: Sequence[float] | None = None
    num_dims: int | None = None
    min_size: float = 1.0
    normalize: bool = True
    strides: int | Sequence[int] = 1
    padding: Padding = "zeros"
    whole_pixels: bool = False
    channel_axis: int = -1
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    symmetric: bool = False
    causal: bool = False
    trainable: bool = True
    theta_init: Initializer | None = None
    theta_metadata: Mapping[str, Any] = NO_METADATA
    implementation: Implementation | None = None

    @property
    def spatial_axes(self) -> int:
        """The number of spatial axes: `num_dims`, or the length of `window`, or 2."""
        return choose_num_dims(self.num_dims, self.window)

    def _from_input(self, x: jax.Array) -> dict[str, Any]:
        return _box_options(self, x)


class WeightedBoxConv(_LinenLayer):
    """The Linen form of :class:`jaxbox.layers.WeightedBoxConv`, with the same options.

    Without `window`, boxes start inside the feature map that the layer is initialized with, and
    only their minimum size is enforced.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxbox.linen import WeightedBoxConv
      >>> layer = WeightedBoxConv(32, num_boxes=4)
      >>> params = layer.init(jax.random.key(0), jnp.ones((2, 64, 128, 16)))
      >>> jax.tree.map(jnp.shape, params["params"])
      {'bias': (32,), 'boxes': {'theta': (16, 4, 4)}, 'weight': (16, 4, 32)}
    """

    nnx_layer: ClassVar[type[nnx.Module]] = layers.WeightedBoxConv

    out_features: int
    num_boxes: int
    _: dataclasses.KW_ONLY
    window: Sequence[float] | None = None
    num_dims: int | None = None
    min_size: float = 1.0
    normalize: bool = True
    strides: int | Sequence[int] = 1
    padding: Padding = "zeros"
    whole_pixels: bool = False
    channel_axis: int = -1
    use_bias: bool = True
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    precision: PrecisionLike = None
    symmetric: bool = False
    causal: bool = False
    trainable: bool = True
    theta_init: Initializer | None = None
    weight_init: Initializer = KERNEL_INIT
    bias_init: Initializer = nnx.initializers.zeros
    theta_metadata: Mapping[str, Any] = NO_METADATA
    weight_metadata: Mapping[str, Any] = NO_METADATA
    bias_metadata: Mapping[str, Any] = NO_METADATA
    implementation: Implementation | None = None

    @property
    def spatial_axes(self) -> int:
        """The number of spatial axes: `num_dims`, or the length of `window`, or 2."""
        return choose_num_dims(self.num_dims, self.window)

    def _from_input(self, x: jax.Array) -> dict[str, Any]:
        return _box_options(self, x)


def _box_options(layer: BoxConv | WeightedBoxConv, x: jax.Array) -> dict[str, Any]:
    """Returns the arguments of an NNX layer of boxes that follow from the input."""
    rank = layer.spatial_axes
    axes = layout.describe(layer.channel_axis, rank)
    x = to_array("x", x)
    if x.ndim < rank + 1 or 0 in x.shape[-rank - 1 :]:
        raise ValueError(f"x must be {axes}, got shape {x.shape}.")
    size, channels = layout.spatial_size(x.shape, layer.channel_axis, rank)
    options: dict[str, Any] = {"in_features": channels}
    # Only where boxes start depends on the input: maps of other sizes may follow, and symbolic
    # sizes, which say nothing of where to start.
    if layer.is_initializing() and layer.window is None and layer.theta_init is None:
        options["theta_init"] = choose_theta_init(
            boxes.check_window(size), symmetric=layer.symmetric, causal=layer.causal
        )
    return options


class DclsConv(_LinenLayer):
    """The Linen form of :class:`jaxbox.layers.DclsConv`, with the same options.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxbox.linen import DclsConv
      >>> params = DclsConv(8, (17, 17), 34).init(jax.random.key(0), jnp.ones((32, 32, 4)))
      >>> params["params"]["positions"].shape
      (2, 34, 4, 8)
    """

    nnx_layer: ClassVar[type[nnx.Module]] = layers.DclsConv

    out_features: int
    kernel_size: int | Sequence[int]
    kernel_count: int | None = None
    strides: int | Sequence[int] = 1
    dilation: int | Sequence[int] | None = None
    padding: PaddingLike = "SAME"
    feature_group_count: int = 1
    use_bias: bool = True
    version: Version = "gauss"
    gain: float = 1.0
    share_positions: bool = False
    whole_positions: bool = False
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    precision: PrecisionLike = None
    weight_init: Initializer | None = None
    bias_init: Initializer | None = None
    positions_init: Initializer = OFFSETS_INIT
    sigma_init: Initializer | None = None
    weight_metadata: Mapping[str, Any] = NO_METADATA
    bias_metadata: Mapping[str, Any] = NO_METADATA
    positions_metadata: Mapping[str, Any] = NO_METADATA
    sigma_metadata: Mapping[str, Any] = NO_METADATA


class DOConv(_LinenLayer):
    """The Linen form of :class:`jaxbox.layers.DOConv`, with the same options.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxbox.linen import DOConv
      >>> params = DOConv(8, (3, 3)).init(jax.random.key(0), jnp.ones((6, 6, 4)))
      >>> jax.tree.map(jnp.shape, params["params"])
      {'bias': (8,), 'deviation': (3, 3, 9, 4), 'weight': (9, 4, 8)}
    """

    nnx_layer: ClassVar[type[nnx.Module]] = layers.DOConv

    out_features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] = 1
    depth_multiplier: int | None = None
    padding: PaddingLike = "SAME"
    kernel_dilation: int | Sequence[int] = 1
    feature_group_count: int = 1
    use_bias: bool = True
    legacy_torch_grouping: bool = False
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    precision: PrecisionLike = None
    weight_init: Initializer = KERNEL_INIT
    bias_init: Initializer = nnx.initializers.zeros
    conv_general_dilated: ConvGeneralDilated = lax.conv_general_dilated
    weight_metadata: Mapping[str, Any] = NO_METADATA
    deviation_metadata: Mapping[str, Any] = NO_METADATA
    bias_metadata: Mapping[str, Any] = NO_METADATA


class _OctaveLayer(_LinenLayer):
    """A layer whose input are features of two octaves."""

    def _from_input(self, x: Features) -> dict[str, Any]:
        channels = sum(0 if branch is None else branch.shape[-1] for branch in to_pair(x))
        if not channels:
            raise ValueError("x must have channels, got none.")
        return {"in_features": channels}


class OctConv(_OctaveLayer):
    """The Linen form of :class:`jaxbox.layers.OctConv`, with the same options.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxbox.linen import OctConv
      >>> layer = OctConv(8, (3, 3), alpha=(0, 0.5))
      >>> x = jnp.ones((6, 6, 3))
      >>> high, low = layer.apply(layer.init(jax.random.key(0), x), x)
      >>> high.shape, low.shape
      ((6, 6, 4), (3, 3, 4))
    """

    nnx_layer: ClassVar[type[nnx.Module]] = layers.OctConv

    out_features: int
    kernel_size: int | Sequence[int]
    strides: int = 1
    alpha: Alpha = 0.5
    padding: PaddingLike = "SAME"
    kernel_dilation: int | Sequence[int] = 1
    feature_group_count: int = 1
    use_bias: bool = True
    pooling: Pooling = "floor"
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    precision: PrecisionLike = None
    kernel_init: Initializer = KERNEL_INIT
    bias_init: Initializer = nnx.initializers.zeros
    conv_general_dilated: ConvGeneralDilated = lax.conv_general_dilated
    kernel_metadata: Mapping[str, Any] = NO_METADATA
    bias_metadata: Mapping[str, Any] = NO_METADATA


class OctConvTranspose(_OctaveLayer):
    """The Linen form of :class:`jaxbox.layers.OctConvTranspose`, with the same options.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxbox.linen import OctConvTranspose
      >>> layer = OctConvTranspose(8, (3, 3), 2)
      >>> x = (jnp.ones((6, 6, 2)), jnp.ones((3, 3, 2)))
      >>> high, low = layer.apply(layer.init(jax.random.key(0), x), x)
      >>> high.shape, low.shape
      ((12, 12, 4), (6, 6, 4))
    """

    nnx_layer: ClassVar[type[nnx.Module]] = layers.OctConvTranspose

    out_features: int
    kernel_size: int | Sequence[int]
    strides: int = 1
    alpha: Alpha = 0.5
    padding: PaddingLike = "SAME"
    kernel_dilation: int | Sequence[int] = 1
    use_bias: bool = True
    pooling: Pooling = "floor"
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    precision: PrecisionLike = None
    kernel_init: Initializer = KERNEL_INIT
    bias_init: Initializer = nnx.initializers.zeros
    kernel_metadata: Mapping[str, Any] = NO_METADATA
    bias_metadata: Mapping[str, Any] = NO_METADATA


class PerOctave(nn.Module):
    """Applies a layer of its own to each octave, such as BatchNorm.

    Attributes:
      layer: The layer's class, or another function that builds it. It is called with the `name`
        `"high"` or `"low"`.

    Example:
      >>> import functools
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from flax import linen as nn
      >>> from jaxbox import linen, map_octaves
      >>> norm = functools.partial(nn.BatchNorm, use_running_average=False)
      >>> model = nn.Sequential([
      ...     linen.OctConv(8, (3, 3), alpha=(0, 0.25)),
      ...     linen.PerOctave(norm),
      ...     functools.partial(map_octaves, nn.relu),
      ...     linen.OctConv(8, (3, 3), alpha=0.25),
      ... ])
      >>> y, variables = model.init_with_output(jax.random.key(0), jnp.ones((2, 6, 6, 3)))
      >>> y.high.shape, y.low.shape
      ((2, 6, 6, 6), (2, 3, 3, 2))
    """

    layer: Callable[..., Callable[[jax.Array], jax.Array]]

    @nn.compact
    def __call__(self, x: Features) -> jax.Array | Octaves:
        """Maps each octave by its layer."""
        check_callable("layer", self.layer)
        high, low = (
            None if octave is None else self.layer(name=name)(octave)
            for name, octave in zip(("high", "low"), to_pair(x), strict=True)
        )
        return from_pair(high, low)
