"""Replaces layers of a model by other layers."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from flax.typing import Dtype, Initializer

from jaxbox import boxes, symmetric_boxes
from jaxbox.arguments import check_callable, check_choice, check_count, check_rngs, sizes_per_axis
from jaxbox.layers import (
    ArrayOctConv,
    BoxConv,
    BoxMatrices,
    DclsConv,
    DOConv,
    WeightedBoxConv,
)
from jaxbox.layers.checks import check_model
from jaxbox.layers.dcls import dilated_positions
from jaxbox.models.blocks import Bottleneck, BoxBlock
from jaxbox.ops.box_conv import box_conv
from jaxbox_kernels.common.conv_large_dilation import conv_large_dilation
from jaxbox_kernels.common.conv_large_kernel import conv_large_kernel

__all__ = ["Variant", "boxes_to_matrices", "is_dilated", "replace_convs"]

# JAX's convolution, and what computes the same faster.
_USUAL_CONVS = (jax.lax.conv_general_dilated, conv_large_dilation, conv_large_kernel)

Variant = Literal["box", "boxes", "dcls", "octave", "doconv"]


def is_dilated(conv: nnx.Conv) -> bool:
    """Tells whether a convolution is dilated, as those of ENet's context blocks are.

    Raises:
      TypeError: `conv` is no `flax.nnx.Conv`.

    Example:
      >>> from flax import nnx
      >>> from jaxbox.surgery import is_dilated
      >>> is_dilated(nnx.Conv(2, 2, (3, 3), kernel_dilation=4, rngs=nnx.Rngs(0)))
      True
    """
    if not isinstance(conv, nnx.Conv):
        raise TypeError(f"conv must be a flax.nnx.Conv, got a {type(conv).__name__}.")
    return max(_per_axis(conv, conv.kernel_dilation)) > 1


def replace_convs[Model: nnx.Module](
    model: Model,
    variant: Variant,
    where: Callable[[nnx.Conv], bool] = is_dilated,
    *,
    rngs: nnx.Rngs,
    **options: Any,
) -> Model:
    """Copies a model with other layers in place of some of its convolutions.

    - `"doconv"`: a `DOConv`, which starts as the same function. Options: those of `DOConv`.
    - `"dcls"`: a `DclsConv` whose taps start at those of the convolution, in a kernel just large
      enough. With the versions `"v0"`, the default, and `"max"` it starts as the same function,
      with `"gauss"` close to it. With `"v1"` positions would never leave whole cells, because their
      derivative is 0 there. Options: those of `DclsConv`; a larger `kernel_size` gives the taps
      room to move.
    - `"octave"`: an `ArrayOctConv` whose paths start with their parts of the convolution's kernel;
      with an `alpha` of 0 it is the same function. Options: those of `OctConv`, `alpha` above all.
    - `"box"`: a `Bottleneck` of ENet becomes as a whole the paper's `BoxBlock` with the same
      dropout; any other convolution becomes a 1x1 convolution and a `BoxConv` of its outputs. Both
      start as another function. Options: `num_boxes` (default 4), and for the latter `window` and
      others of `BoxConv`.
    - `"boxes"`: a `WeightedBoxConv`, for convolutions with large kernels. Its boxes are drawn
      inside the kernel, and its weights are those with which sums of these boxes come nearest to
      the convolution's kernels (least squares). Options: `num_boxes` (default 4), `window` and
      others of `WeightedBoxConv`.

    Source: Burkov & Lempitsky 2018, section 4, for the box blocks; Zhang et al. 2019, arXiv
    1906.11367, for convolutions by boxes.

    A convolution that the model refers to in several places becomes one layer in all of them.

    Args:
      model: An NNX model; a single `nnx.Conv` too, or modules in a tuple or another container.
      variant: The kind of layer that takes the place of the convolutions.
      where: A function that selects the convolutions to replace, by default the dilated ones.
      rngs: The random keys for the new parameters that are drawn and for dropout; the streams
        `params` and `dropout` are used.
      **options: Options for the new layers; see above.

    Returns:
      A copy of the model. Other layers keep their parameters.

    Raises:
      TypeError: `model` is no NNX model, `where` is no function, or an option is of the wrong type.
      ValueError: `variant` is unknown, no convolution is selected, or one has what the variant
        does not support: a mask or input dilation, a `promote_dtype` or `preferred_element_type`
        of its own; a parameter that another layer has too; an axis of stacked layers; for
        `"dcls"`, `"box"` and `"boxes"` a `conv_general_dilated` of its own; for `"dcls"` an extent
        larger than `kernel_size`; for `"octave"` groups or different strides along the axes; for
        `"box"` strides, groups, another number of spatial axes than two, or a number of outputs
        that `num_boxes` does not divide; for `"boxes"` strides, groups, or a padding that does not
        give the output the size of the input as `"SAME"` does.

    Example:
      >>> from flax import nnx
      >>> from jaxbox import models
      >>> from jaxbox.surgery import replace_convs
      >>> def enet_with_boxes():
      ...     model = models.create("enet", 3, (16, 24), rngs=nnx.Rngs(0))
      ...     return replace_convs(model, "box", rngs=nnx.Rngs(1))
      >>> model = nnx.eval_shape(enet_with_boxes)  # Computes only shapes.
      >>> [type(block).__name__ for block in model.blocks[7:11]]
      ['Bottleneck', 'BoxBlock', 'Bottleneck', 'BoxBlock']
    """
    check_choice("variant", variant, tuple(_REPLACEMENTS))
    check_callable("where", where)
    check_rngs(rngs)
    check_model(model)
    copy = nnx.clone(model)
    modules = [module for _, module in nnx.iter_modules(copy)]
    selected = [conv for conv in modules if isinstance(conv, nnx.Conv) and where(conv)]
    if not selected:
        raise ValueError("where must select a convolution of the model; it selects none.")
    _check_replaceable(selected, modules)
    ids = set(map(id, selected))

    def replacement(module: nnx.Module) -> nnx.Module | None:
        if variant == "box" and isinstance(module, Bottleneck):
            if any(id(part) in ids for _, part in nnx.iter_modules(module)):
                return _box_block(module, rngs=rngs, **options)
        elif id(module) in ids:
            return _REPLACEMENTS[variant](module, rngs=rngs, **options)
        return None

    replaced: Model = _Replacer(replacement).visit(copy)
    return replaced


def boxes_to_matrices[Model: nnx.Module](model: Model) -> Model:
    """Copies a model with a `BoxMatrices` in place of every `BoxConv`, such as for ONNX.

    A `WeightedBoxConv` becomes a `BoxMatrices` and an `nnx.Linear` of its outputs. A model without
    boxes is copied as it is.

    Args:
      model: An NNX model; a single `BoxConv` too, or modules in a tuple or another container. Its
        boxes are no parameters of the copy.

    Returns:
      A copy of the model that is the same function up to rounding.

    Raises:
      TypeError: `model` is no NNX model.
      ValueError: A layer is none for images with zeros outside and strides of 1, or a
        `WeightedBoxConv` has its channels first.

    Example:
      >>> from flax import nnx
      >>> from jaxbox.layers import BoxConv
      >>> from jaxbox.surgery import boxes_to_matrices
      >>> type(boxes_to_matrices(BoxConv(3, 2, rngs=nnx.Rngs(0)))).__name__
      'BoxMatrices'
    """
    check_model(model)

    def replacement(module: nnx.Module) -> nnx.Module | None:
        if isinstance(module, WeightedBoxConv):
            return _weighted_matrices(module)
        return BoxMatrices(module) if isinstance(module, BoxConv) else None

    replaced: Model = _Replacer(replacement).visit(nnx.clone(model))
    return replaced


def _weighted_matrices(layer: WeightedBoxConv) -> nnx.Sequential:
    """Makes the matrices and the linear layer that are the same function as weighted boxes."""
    if layer.boxes.channel_axis != -1:
        raise ValueError("a WeightedBoxConv with its channels first has no counterpart.")
    linear = nnx.Linear(
        layer.boxes.in_features * layer.boxes.num_boxes,
        layer.out_features,
        use_bias=layer.bias is not None,
        dtype=layer.boxes.dtype,
        precision=layer.precision,
        rngs=nnx.Rngs(0),
    )
    linear.kernel[...] = layer.weight[...].reshape(linear.kernel.shape)
    if layer.bias is not None and linear.bias is not None:
        linear.bias[...] = layer.bias[...]
    return nnx.Sequential(BoxMatrices(layer.boxes), linear)


def _check_replaceable(selected: Sequence[nnx.Conv], modules: Sequence[nnx.Module]) -> None:
    """Checks that convolutions have nothing that no variant supports."""
    for conv in selected:
        if conv.mask is not None or max(_per_axis(conv, conv.input_dilation)) > 1:
            raise ValueError("a convolution with a mask or input dilation has no counterpart.")
        if conv.promote_dtype is not promote_dtype or conv.preferred_element_type is not None:
            raise ValueError(
                "a convolution with a promote_dtype or preferred_element_type of its own has no "
                "counterpart."
            )
        if conv.kernel.ndim != len(conv.kernel_size) + 2:
            raise ValueError(
                "a stack of convolutions, as nnx.vmap makes it, cannot be replaced; its kernel has "
                f"the shape {conv.kernel.shape}. Replace the convolution before stacking it."
            )
    owners: dict[int, nnx.Module] = {}
    for module in modules:
        for value in vars(module).values():
            if isinstance(value, nnx.Variable):
                owner = owners.setdefault(id(value), module)
                if owner is not module and (owner in selected or module in selected):
                    raise ValueError(
                        "a convolution that shares a parameter with another layer cannot be "
                        "replaced without untying them; share the convolution itself instead."
                    )


class _Replacer:
    """Replaces modules of a model in place, wherever it refers to them.

    A module that is referred to twice is replaced once, so that what was shared stays shared.

    Attributes:
      replacement: Returns what takes the place of a module, or `None` to leave it.
      done: What became of each node that has been visited, by the node's identity. It holds the
        nodes too, which keeps their identities from being used again.
    """

    def __init__(self, replacement: Callable[[nnx.Module], nnx.Module | None]) -> None:
        self.replacement = replacement
        self.done: dict[int, tuple[Any, Any]] = {}

    def visit(self, node: Any) -> Any:
        """Returns a module, a container or any other value with replaced modules inside."""
        if isinstance(node, nnx.Variable):
            return node
        if id(node) in self.done:
            return self.done[id(node)][1]
        if isinstance(node, nnx.Pytree):
            return self._visit_module(node)
        return self._visit_container(node)

    def _visit_module(self, node: Any) -> Any:
        new = self.replacement(node) if isinstance(node, nnx.Module) else None
        # Noted first, because modules may refer to each other in a cycle.
        self.done[id(node)] = (node, node if new is None else new)
        if new is not None:
            return new
        for name, value in list(vars(node).items()):
            # Names of this form are NNX's own.
            if name.startswith("_pytree__"):
                continue
            changed = self.visit(value)
            if changed is not value:
                # NNX takes a plain container for static unless it is told that it holds data.
                setattr(node, name, nnx.data(changed))
        return node

    def _visit_container(self, node: Any) -> Any:
        children, structure = jax.tree.flatten(node, is_leaf=lambda child: child is not node)
        if len(children) == 1 and children[0] is node:  # No container.
            return node
        changed = [self.visit(child) for child in children]
        same = all(new is old for new, old in zip(changed, children, strict=True))
        new = node if same else jax.tree.unflatten(structure, changed)
        self.done[id(node)] = (node, new)
        return new


def _per_axis(conv: nnx.Conv, sizes: Any) -> tuple[int, ...]:
    """Returns strides or dilations, which may be `None` in Flax, as one for each spatial axis."""
    return sizes_per_axis("sizes", 1 if sizes is None else sizes, len(conv.kernel_size))


def _options_of(conv: nnx.Conv, *names: str) -> dict[str, Any]:
    """Returns the convolution's options that every variant has, and those of the given names."""
    names = ("padding", "use_bias", "dtype", "param_dtype", "precision", *names)
    return {name: getattr(conv, name) for name in names}


def _copy_bias(conv: nnx.Conv, bias: nnx.Variable[jax.Array] | None) -> None:
    if conv.bias is not None and bias is not None:
        bias[...] = conv.bias[...]


def _check_usual_conv(conv: nnx.Conv) -> None:
    """Checks that a convolution computes what JAX's does, for variants that know no other."""
    if conv.conv_general_dilated not in _USUAL_CONVS:
        raise ValueError(
            "a convolution with a conv_general_dilated of its own can be replaced by 'octave' and "
            "'doconv' alone."
        )


def _doconv(conv: nnx.Conv, **options: Any) -> DOConv:
    """Makes the DO-Conv that starts as a convolution."""
    names = ("kernel_dilation", "feature_group_count", "conv_general_dilated")
    shape = (conv.in_features, conv.out_features, conv.kernel_size, _per_axis(conv, conv.strides))
    layer = DOConv(*shape, **{**_options_of(conv, *names), **options})
    kernel = conv.kernel[...]
    taps = kernel.reshape(-1, *kernel.shape[-2:])
    # With a larger depth multiplier the rest of the weights, and so their share, starts at 0.
    layer.weight[...] = jnp.pad(taps, [(0, layer.depth_multiplier - len(taps)), (0, 0), (0, 0)])
    _copy_bias(conv, layer.bias)
    return layer


def _dcls(
    conv: nnx.Conv, *, kernel_size: tuple[int, ...] | None = None, **options: Any
) -> DclsConv:
    """Makes the DCLS layer whose taps start at those of a convolution."""
    _check_usual_conv(conv)
    dilation = _per_axis(conv, conv.kernel_dilation)
    extent = _extent(conv)
    size = extent if kernel_size is None else sizes_per_axis("kernel_size", kernel_size)
    if len(size) != len(extent) or any(n < m for n, m in zip(size, extent, strict=True)):
        raise ValueError(f"kernel_size must be at least the extent {extent}, got {size}.")
    positions = dilated_positions(conv.kernel_size, dilation, size)
    layer = DclsConv(
        conv.in_features,
        conv.out_features,
        size,
        math.prod(conv.kernel_size),
        _per_axis(conv, conv.strides),
        positions_init=lambda _, shape, dtype: jnp.broadcast_to(
            jnp.asarray(positions[..., np.newaxis, np.newaxis], dtype), shape
        ),
        **{"version": "v0", **_options_of(conv, "feature_group_count"), **options},
    )
    layer.weight[...] = conv.kernel[...].reshape(layer.weight.shape)
    _copy_bias(conv, layer.bias)
    return layer


def _octave(conv: nnx.Conv, **options: Any) -> ArrayOctConv:
    """Makes the octave convolution that starts with the parts of a convolution's kernel."""
    strides = set(_per_axis(conv, conv.strides))
    if conv.feature_group_count > 1 or len(strides) > 1:
        raise ValueError(
            "an octave convolution needs one group and the same stride along each axis, got "
            f"{conv.feature_group_count} and {conv.strides}."
        )
    layer = ArrayOctConv(
        conv.in_features,
        conv.out_features,
        conv.kernel_size,
        strides.pop(),
        **{**_options_of(conv, "kernel_dilation", "conv_general_dilated"), **options},
    )
    octaves = layer.conv
    high_inputs, high_outputs = octaves.in_features[0], octaves.out_features[0]
    high, low = jnp.split(conv.kernel[...], [high_inputs], axis=-2)
    _assign_parts((octaves.high_to_high, octaves.high_to_low), high, high_outputs)
    _assign_parts((octaves.low_to_high, octaves.low_to_low), low, high_outputs)
    if conv.bias is not None:
        _assign_parts((octaves.high_bias, octaves.low_bias), conv.bias[...], high_outputs)
    return layer


def _assign_parts(
    variables: Sequence[nnx.Variable[jax.Array] | None], array: jax.Array, high_outputs: int
) -> None:
    """Sets the variables of the high and of the low output to their parts of an array."""
    for variable, part in zip(variables, jnp.split(array, [high_outputs], -1), strict=True):
        if variable is not None:
            variable[...] = part


def _box(
    conv: nnx.Conv,
    *,
    num_boxes: int = 4,
    window: tuple[int, int] | None = None,
    rngs: nnx.Rngs,
    **options: Any,
) -> nnx.Sequential:
    """Makes the 1x1 convolution and the boxes that take the place of a convolution."""
    num_boxes = check_count("num_boxes", num_boxes)
    _check_usual_conv(conv)
    if (
        max(_per_axis(conv, conv.strides)) > 1
        or conv.feature_group_count > 1
        or len(conv.kernel_size) != 2
    ):
        raise ValueError(
            "boxes can replace a convolution of two spatial axes with stride 1 and one group; got "
            f"a kernel of {conv.kernel_size}, strides {conv.strides} and "
            f"{conv.feature_group_count} groups."
        )
    if conv.out_features % num_boxes:
        raise ValueError(
            "num_boxes must divide the outputs: boxes can replace a convolution of a multiple of "
            f"num_boxes outputs, got {num_boxes} boxes and {conv.out_features} outputs."
        )
    inner = conv.out_features // num_boxes
    pointwise = nnx.Conv(
        conv.in_features,
        inner,
        (1, 1),
        use_bias=conv.use_bias,
        dtype=conv.dtype,
        param_dtype=conv.param_dtype,
        precision=conv.precision,
        rngs=rngs,
    )
    return nnx.Sequential(pointwise, BoxConv(inner, num_boxes, window=window, rngs=rngs, **options))


def _weighted_boxes(
    conv: nnx.Conv, *, num_boxes: int = 4, rngs: nnx.Rngs, **options: Any
) -> WeightedBoxConv:
    """Makes the weighted boxes whose kernels start near those of a convolution."""
    _check_usual_conv(conv)
    extent = _extent(conv)
    same = _same_pads(conv)
    if max(_per_axis(conv, conv.strides)) > 1 or conv.feature_group_count > 1:
        raise ValueError(
            "weighted boxes can replace a convolution with stride 1 and one group; got strides "
            f"{conv.strides} and {conv.feature_group_count} groups."
        )
    if _pads(conv) != same:
        raise ValueError(
            "weighted boxes can replace a convolution whose output is as large as its input, with "
            f"padding 'SAME' or {same}; got {conv.padding!r}."
        )
    symmetric = options.get("symmetric", False)
    theta_init = symmetric_boxes.initializer(extent) if symmetric else _inside_kernel(conv)
    layer = WeightedBoxConv(
        conv.in_features,
        conv.out_features,
        num_boxes,
        rngs=rngs,
        **{
            "num_dims": len(extent),
            "theta_init": theta_init,
            **{name: option for name, option in _options_of(conv).items() if name != "padding"},
            **options,
        },
    )
    _fit_weights(layer, conv)
    _copy_bias(conv, layer.bias)
    return layer


def _extent(conv: nnx.Conv) -> tuple[int, ...]:
    """The number of pixels from the first tap of a kernel to the last, along each axis."""
    dilation = _per_axis(conv, conv.kernel_dilation)
    return tuple((n - 1) * d + 1 for n, d in zip(conv.kernel_size, dilation, strict=True))


def _same_pads(conv: nnx.Conv) -> list[tuple[int, int]]:
    """The pixels that padding `"SAME"` adds before and after each axis, for a stride of 1."""
    return [((size - 1) // 2, size // 2) for size in _extent(conv)]


def _pads(conv: nnx.Conv) -> Any:
    """The pixels that are added before and after each axis, or the name of another padding."""
    padding = conv.padding
    if isinstance(padding, str):
        if padding.upper() != "SAME":
            return padding
        return _same_pads(conv)
    each = [padding] * len(conv.kernel_size) if isinstance(padding, int) else padding
    return [(pad, pad) if isinstance(pad, int) else tuple(pad) for pad in each]


def _inside_kernel(conv: nnx.Conv) -> Initializer:
    """Draws boxes inside a kernel, which lies half a pixel aside along axes of an even size."""
    extent = _extent(conv)
    middle = [(size - 1) / 2 - (size - 1) // 2 for size in reversed(extent)]
    draw = boxes.initializer(extent)

    def init(key: jax.Array, shape: Sequence[int], dtype: Dtype) -> jax.Array:
        return draw(key, shape, dtype) + jnp.repeat(jnp.array(middle, dtype), 2)[None, None]

    return init


def _fit_weights(layer: WeightedBoxConv, conv: nnx.Conv) -> None:
    """Sets the weights whose sums of boxes are nearest to a convolution's kernels."""
    extent, dilation = _extent(conv), _per_axis(conv, conv.kernel_dilation)
    inputs, outputs = conv.in_features, conv.out_features
    # What boxes make of one bright pixel is their kernel, mirrored.
    shape = tuple(2 * size - 1 for size in extent)
    impulse = jnp.zeros((*shape, inputs)).at[tuple(size - 1 for size in extent)].set(1)
    response = box_conv(impulse, layer.boxes.valid_theta, normalize=layer.boxes.normalize)
    kernels = jnp.flip(response, range(len(extent))).reshape(-1, inputs, layer.boxes.num_boxes)
    taps = tuple(
        slice(size // 2, size // 2 + size, step)
        for size, step in zip(extent, dilation, strict=True)
    )
    dense = jnp.zeros((*shape, inputs, outputs)).at[taps].set(conv.kernel[...])
    dense = dense.reshape(-1, inputs, outputs)
    inverse = jnp.linalg.pinv(jnp.moveaxis(kernels, 1, 0))
    weight = jnp.matmul(inverse, jnp.moveaxis(dense, 1, 0), precision="highest")
    layer.weight[...] = weight.astype(layer.weight.dtype)


def _box_block(block: Bottleneck, *, rngs: nnx.Rngs, **options: Any) -> BoxBlock:
    """Makes the box block that takes the place of a bottleneck, with the same dropout."""
    rates = [layer.rate for _, layer in nnx.iter_modules(block) if isinstance(layer, nnx.Dropout)]
    given = {"dropout": max(rates, default=0.0), **options}
    layers = (layer for _, layer in nnx.iter_modules(block) if isinstance(layer, nnx.Conv))
    return BoxBlock(block.output, dtype=next(layers).dtype or jnp.float32, rngs=rngs, **given)


_REPLACEMENTS: Final[Mapping[Variant, Callable[..., nnx.Module]]] = MappingProxyType(
    {"box": _box, "boxes": _weighted_boxes, "dcls": _dcls, "octave": _octave, "doconv": _doconv}
)
