"""Valid calls of everything public, with the kind of each argument, for `tests.cases.hostile`."""

import functools
import io
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure

import jaxbox
from jaxbox import (
    analysis,
    boxes,
    interop,
    layers,
    linen,
    models,
    optim,
    plots,
    surgery,
    symmetric_boxes,
)
from jaxbox.models import blocks, cost, inference, pruning
from jaxbox.ops import octave_features
from jaxbox.ops.dcls import repulsion
from tests.cases import hostile
from tests.cases.hostile import (
    Kind,
    Made,
    array,
    choice,
    count,
    dtype,
    flag,
    fraction,
    function,
    instance,
    number,
    padding,
    rngs,
    sizes,
)

# What a message names if the number of axes of another argument does not fit.
_AXES = {"kernel_size": "strides|kernel_dilation|dilation|padding"}


class Call(NamedTuple):
    """A valid call.

    Attributes:
      name: A name for messages.
      function: What is called with the arguments.
      kinds: The kind of each argument, by its name.
      use: Uses the result, which must succeed, and returns what is compared: a tree of arrays.
      names: What stands for an argument in messages, besides its own name.
    """

    name: str
    function: Callable[..., Any]
    kinds: Mapping[str, Kind]
    use: Callable[[Any, Mapping[str, Any]], Any] = lambda result, arguments: result  # noqa: ARG005
    names: Mapping[str, str] = _AXES


def _image(*shape):
    return np.linspace(0.1, 1, int(np.prod(shape))).reshape(shape).astype(np.float32)


def _theta(*shape):
    return np.tile(np.array([-1.25, 2.5, -2.0, 1.25], np.float32), (*shape, 1))


def _shape_of(function, *arguments, **options):
    """Calls an operation without computing anything."""
    return jax.eval_shape(lambda: function(*arguments, **options))


def _abstract(function):
    return functools.partial(_shape_of, function)


# Operations.

_BOX = {
    "x": array(_image(2, 6, 8, 3), axes=(-1,), rank=False),
    "theta": array(_theta(3, 2), axes=(0, 2)),
}
_BOX_OPTIONS = {
    "normalize": flag(True),
    "strides": sizes((2, 1)),
    "padding": choice("zeros", "edge", "partial"),
    "whole_pixels": flag(False),
    "channel_axis": choice(-1),
    "implementation": choice("xla").or_none(),
}


def _check_box_output(result, arguments):
    x, theta = np.shape(arguments["x"]), np.shape(arguments["theta"])
    channels = arguments["weight"].shape[-1] if "weight" in arguments else x[-1] * theta[1]
    strides = np.broadcast_to(arguments["strides"], 2)
    size = (-(-length // int(stride)) for length, stride in zip(x[-3:-1], strides, strict=True))
    assert result.shape == (*x[:-3], *size, channels), result.shape
    assert result.dtype == jnp.asarray(arguments["x"]).dtype
    return result


def _finite_where(result, *inputs):
    """Checks that a result is finite if all inputs are, and small enough for a result to be."""
    flat = [np.abs(np.asarray(x, np.float64)).ravel() for x in inputs]
    if all(np.isfinite(x).all() and (x < 1e30).all() for x in flat):
        for leaf in jax.tree.leaves(result):
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                continue
            assert np.isfinite(np.asarray(leaf, np.float64)).all(), "the result is not finite"
    return result


_KERNELS = jaxbox.OctaveKernels(*[jnp.ones((3, 3, 2, 2))] * 4)
_OCTAVES = (jnp.asarray(_image(8, 8, 2)), jnp.asarray(_image(4, 4, 2)))


def _octave_kind(valid, *wrong):
    return Kind(valid, wrong=(*hostile.JUNK, 3, 1.0, True, len, *wrong))


_X_OCTAVES = _octave_kind(
    _OCTAVES,
    *(_OCTAVES[:1], (*_OCTAVES, None), _OCTAVES[::-1], (_OCTAVES[0], None), (None, _OCTAVES[1])),
    *(
        (_OCTAVES[0], 3),
        ("x", _OCTAVES[1]),
        (_OCTAVES[0], _OCTAVES[1][:3]),
        (None, None),
        _OCTAVES[0],
    ),
    *(
        (_OCTAVES[0][..., :1], _OCTAVES[1]),
        (_OCTAVES[0], _OCTAVES[1].astype(int)),
        {"a": 1, "b": 2},
    ),
    jaxbox.Octaves(*_OCTAVES[::-1]),
    jaxbox.Octaves(_OCTAVES[0], None),
    tuple(branch.astype(jnp.int32) for branch in _OCTAVES),
    tuple(branch[0] for branch in _OCTAVES),
    tuple(branch[0, 0] for branch in _OCTAVES),
)._replace(same=(list(_OCTAVES), jaxbox.Octaves(*_OCTAVES)))
_X_OCTAVES = _X_OCTAVES._replace(unclear=(tuple(map(np.asarray, _OCTAVES)),))
# Features of any channels and sizes.
_ANY_OCTAVES = _octave_kind(_OCTAVES)._replace(same=_X_OCTAVES.same)
_ANY_OCTAVES = _ANY_OCTAVES.without(np.array([], np.float32))
_OCTAVE_OPTIONS = {
    "strides": Kind(1, wrong=(*count(1).wrong, 0), unclear=(np.int64(1), 2)),
    "pooling": choice("floor", "ceil"),
    "padding": padding("SAME", [(1, 1), (1, 1)]),
    "kernel_dilation": sizes((1, 1), 1),
    "dtype": dtype().or_none(),
    "precision": choice("highest", jax.lax.Precision.HIGH, ("high", "default"))
    ._replace(unclear=("HIGHEST", "BF16_BF16_F32", ("high", "default"), None, "fastest"))
    .or_none()
    .without("HIGHEST"),
}
_K3 = _KERNELS.high_to_high
_OCTAVE_KERNELS = _octave_kind(
    _KERNELS,
    *(jaxbox.OctaveKernels(), _KERNELS[:3], (*_KERNELS, None), dict(_KERNELS._asdict()), _K3),
    *(_KERNELS._replace(high_to_high="x"), _KERNELS._replace(low_to_low=_K3[0])),
    _KERNELS._replace(low_to_high=_K3[..., :1]),
    *(_KERNELS._replace(low_to_high=_K3.astype(int)), _KERNELS._replace(low_to_high=3)),
    *(
        _KERNELS._replace(low_to_high=None, low_to_low=None),
        _KERNELS._replace(high_to_low=_K3[..., :0]),
    ),
    jaxbox.OctaveKernels(*[_K3.astype(int)] * 4),
    jaxbox.OctaveKernels(*[_K3[..., None]] * 4),
    jaxbox.OctaveKernels(*[_K3[0, 0]] * 4),
)._replace(unclear=(_KERNELS._replace(high_to_low=_K3[..., :1, :]),))
_OCTAVE_BIAS = _octave_kind(
    jaxbox.OctaveBias(jnp.ones(2), jnp.ones(2)),
    *(jaxbox.OctaveBias(jnp.ones(3), jnp.ones(2)), jaxbox.OctaveBias(jnp.ones((1, 2)), None)),
    *(jaxbox.OctaveBias(jnp.ones(1), None), jaxbox.OctaveBias("x", None), (jnp.ones(2),)),
    *(jaxbox.OctaveBias(1.0, None), jaxbox.OctaveBias(None, jnp.ones(())), jnp.ones((2, 2))),
    *(jaxbox.OctaveBias(jnp.ones(2, int), None), jaxbox.OctaveBias(jnp.ones(2, complex), None)),
)._replace(unclear=(jaxbox.OctaveBias(), (jnp.ones(2), None)))

_OPERATIONS = [
    Call("box_conv", _abstract(jaxbox.box_conv), {**_BOX, **_BOX_OPTIONS}, _check_box_output),
    Call(
        "weighted_box_conv",
        _abstract(jaxbox.weighted_box_conv),
        {
            **_BOX,
            "weight": array(_image(3, 2, 5), axes=(0, 1), listed=False),
            "bias": array(_image(5), axes=(0,), listed=False).or_none(),
            **_BOX_OPTIONS,
            "precision": _OCTAVE_OPTIONS["precision"],
        },
        _check_box_output,
    ),
    Call(
        "default_implementation",
        jaxbox.default_implementation,
        {"name": choice("xla").or_none()},
        lambda *_: None,
        names={"name": "implementation"},
    ),
    Call(
        "dcls_kernel",
        _abstract(jaxbox.dcls_kernel),
        {
            "weight": array(_image(5, 2, 3), axes=(0, 1, 2)),
            "positions": array(_image(2, 5, 2, 3), axes=(0, 1, 2, 3)),
            "sigma": array(_image(2, 5, 2, 3), axes=(0, 1, 2, 3)),
            "kernel_size": sizes((7, 5)),
            "version": choice("gauss", "v0", "v1", "max"),
        },
    ),
    Call(
        "repulsion",
        repulsion,
        {"positions": array(_image(2, 5, 2, 3), rank=False)},
    ),
    Call(
        "doconv_kernel",
        _abstract(jaxbox.doconv_kernel),
        {
            "weight": array(_image(9, 2, 4), axes=(0, 1)),
            "deviation": array(_image(3, 3, 9, 4), axes=(2, 3), rank=False),
            "feature_group_count": count(2),
            "legacy_torch_grouping": flag(False),
        },
    ),
    Call(
        "octave_conv",
        _abstract(jaxbox.octave_conv),
        {
            "x": _X_OCTAVES,
            "kernels": _OCTAVE_KERNELS,
            "bias": _OCTAVE_BIAS,
            **_OCTAVE_OPTIONS,
            "conv_general_dilated": function(jax.lax.conv_general_dilated),
        },
    ),
    Call(
        "octave_conv_transpose",
        _abstract(jaxbox.octave_conv_transpose),
        {"x": _X_OCTAVES, "kernels": _OCTAVE_KERNELS, "bias": _OCTAVE_BIAS, **_OCTAVE_OPTIONS},
    ),
    Call(
        "split_channels",
        octave_features.split_channels,
        {"channels": count(8), "alpha": fraction(0.25)},
        lambda result, _: (sum(result), result),
    ),
    Call(
        "to_octaves",
        octave_features.to_octaves,
        {
            "x": array(_image(6, 6, 4), listed=False, rank=False),
            "alpha": fraction(0.25),
            "rank": count(2),
            "pooling": choice("floor", "ceil"),
        },
    ),
    Call(
        "from_octaves",
        octave_features.from_octaves,
        {
            "x": _ANY_OCTAVES,
            "rank": count(2),
            "size": sizes((8, 8)).or_none(),
        },
        names={"rank": "size"},
    ),
    Call(
        "map_octaves",
        octave_features.map_octaves,
        {
            "function": function(jnp.tanh),
            "x": _ANY_OCTAVES,
        },
    ),
]

# Boxes.

_WINDOW = sizes((8, 16), (8.5, 16.25), (np.float32(8), 16), (0.5, 100))
_WINDOW = _WINDOW._replace(
    # Those of signals and volumes, where nothing else says that boxes are those of images.
    unclear=(*_WINDOW.unclear, (8,), (8, 16, 3)),
    wrong=(
        *hostile.JUNK,
        *((0, 16), (-8, 16), ("8", "16"), "88", b"88", bytearray(b"88"), 8, 8.0),
        *((8, np.nan), (8, np.inf), (True, 8), (8, None), (8, 1j), np.ones((2, 2)), [[8, 16]]),
        *({8: 1, 16: 2}, {8, 16}, np.array([8.0, np.nan]), (8, 10**400), (np.True_, 8)),
        *((np.ones(2), 8), np.array(["8", "9"]), (8, -np.inf), True),
    ),
)
_SMALL_WINDOW = _WINDOW._replace(
    unclear=tuple(value for value in _WINDOW.unclear if not isinstance(value, int))
)
_KEY = Kind(
    Made(lambda: jax.random.key(0)),
    wrong=(*[value for value in hostile.JUNK if not isinstance(value, Made)], 0, 1.0, len),
)
# A shape may have any number of axes, and empty ones.
_SHAPE = sizes((3, 2)).without((), [], {}, (0, 2), (3, 3, 3, 3), np.array([], np.float32))
_BOXES = array(_theta(3, 2), axes=(-1,), rank=False)
_SYMMETRIC = array(_theta(3, 2)[..., 1:], axes=(-1,), rank=False)


def _check_valid_boxes(result, arguments):
    _finite_where(result, arguments.get("theta", 0))
    window = arguments.get("window")
    # A window for `sample` says which boxes; others are given.
    rank = 2 if "theta" in arguments or window is None else len(window)
    assert result.shape[-1] == 2 * rank
    return result


def _check_rounded(result, arguments):
    theta = np.asarray(result, np.float64)
    finite = np.isfinite(theta) & (np.abs(theta) < 100)
    assert ((theta[finite] + 0.5) % 1 == 0).all()
    return _check_valid_boxes(result, arguments)


_BOXES_CALLS = [
    Call(
        "boxes.sample",
        boxes.sample,
        {
            "key": _KEY,
            "shape": _SHAPE,
            "window": _SMALL_WINDOW,
            "dtype": dtype(),
            "causal": flag(False),
        },
        _check_valid_boxes,
    ),
    Call(
        "boxes.initializer",
        boxes.initializer,
        {"window": _SMALL_WINDOW},
        lambda *_: None,
    ),
    Call(
        "boxes.initializer()",
        boxes.initializer((8, 16)),
        {
            "key": _KEY,
            "shape": sizes((3, 2, 4)).without((0, 2, 4)),
            "dtype": dtype(),
        },
        _check_valid_boxes,
    ),
    Call(
        "boxes.project",
        boxes.project,
        {
            "theta": _BOXES,
            "window": _WINDOW.or_none(),
            "min_size": number(2.5),
            "causal": flag(False),
        },
        _check_valid_boxes,
    ),
    Call(
        "boxes.round_to_pixels",
        boxes.round_to_pixels,
        {"theta": _BOXES, "rounding": choice("nearest", "inward")},
        _check_rounded,
    ),
    Call("boxes.area", boxes.area, {"theta": _BOXES}),
    Call("symmetric_boxes.to_boxes", symmetric_boxes.to_boxes, {"symmetric": _SYMMETRIC}),
    Call(
        "symmetric_boxes.project",
        symmetric_boxes.project,
        {"symmetric": _SYMMETRIC, "window": _WINDOW.or_none(), "min_size": number(2.5)},
    ),
    Call(
        "symmetric_boxes.round_to_pixels",
        symmetric_boxes.round_to_pixels,
        {"symmetric": _SYMMETRIC, "rounding": choice("nearest", "inward")},
    ),
    Call(
        "symmetric_boxes.initializer",
        symmetric_boxes.initializer,
        {"window": _SMALL_WINDOW},
        lambda *_: None,
    ),
    Call(
        "symmetric_boxes.initializer()",
        symmetric_boxes.initializer((8, 16)),
        {"key": _KEY, "shape": sizes((3, 2, 3)).without((0, 2, 3), (3, 3, 3, 3)), "dtype": dtype()},
    ),
    Call("boxes.check_window", boxes.check_window, {"window": _WINDOW}),
    Call(
        "boxes.check_min_size",
        boxes.check_min_size,
        {"min_size": number(2.5), "window": _WINDOW.or_none()},
    ),
]

# Layers.


def _leaves(node):
    """Returns the arrays of a module."""
    state = jax.tree.leaves(nnx.state(node))
    return [
        jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        for leaf in state
        if not isinstance(leaf, jax.ShapeDtypeStruct)
    ]


def _use_layer(layer, arguments):
    """Applies a layer to an input that fits the arguments it was made with."""
    of_boxes = getattr(layer, "boxes", layer)
    kernel = getattr(layer, "kernel_size", (1,) * getattr(of_boxes, "num_dims", 2))
    inputs = int(np.sum(layer.in_features))
    shape = (2, *(12 for _ in kernel), inputs)
    if arguments.get("channel_axis", -1) != -1:
        shape = (2, inputs, *shape[1:-1])
    x: Any = jnp.ones(shape, jnp.float32)
    if isinstance(layer, layers.OctConv):
        high, low = layer.in_features
        x = octave_features.Octaves(
            jnp.ones((2, *(12 for _ in kernel), high)) if high else None,
            jnp.ones((2, *(6 for _ in kernel), low)) if low else None,
        )
    output = jax.eval_shape(lambda: layer(x))
    axis = arguments.get("channel_axis", -1)
    channels = sum(branch.shape[axis] for branch in jax.tree.leaves(output))
    expected = int(np.sum(getattr(layer, "out_features", channels)))
    assert channels == expected, f"{channels} outputs in place of {expected}"
    leaves = _leaves(layer)
    assert not leaves or all(np.isfinite(np.asarray(leaf, np.float64)).all() for leaf in leaves)
    return leaves, output


def _use_box_layer(layer, arguments):
    own = layer.boxes if isinstance(layer, layers.WeightedBoxConv) else layer
    counts = (arguments["in_features"], arguments["num_boxes"])
    numbers = 3 if own.symmetric else 2 * own.num_dims
    assert own.theta.shape == (*map(int, counts), numbers)
    leaves, output = _use_layer(layer, arguments)
    theta = own.valid_theta
    projected = boxes.project(theta, own.window, min_size=own.min_size, causal=own.causal)
    assert bool((projected == theta).all())
    return leaves, output


_CONV_OPTIONS = {
    "use_bias": flag(True),
    "dtype": dtype().or_none(),
    "param_dtype": dtype(),
    "precision": _OCTAVE_OPTIONS["precision"],
    "rngs": rngs(),
}
_INITS = {
    "weight_init": function(nnx.initializers.ones),
    "bias_init": function(nnx.initializers.ones),
}
_METADATA = Kind({}, wrong=(*hostile.JUNK, 3, True, len, {"tag": 3}, {3: 3})).without(
    {}, {"a": None}
)
_BOX_CONV = {
    "num_boxes": count(2),
    "num_dims": choice(2, 1, 3).or_none(),
    "strides": sizes((2, 1)),
    "padding": choice("zeros", "edge", "partial"),
    "symmetric": flag(False),
    "causal": flag(False),
    "window": _SMALL_WINDOW.or_none(),
    "min_size": number(1.5),
    "normalize": flag(True),
    "whole_pixels": flag(False),
    "channel_axis": choice(-1, -3),
    "dtype": dtype().or_none(),
    "param_dtype": dtype(),
    "trainable": flag(True),
    "theta_metadata": _METADATA,
    "implementation": choice("xla").or_none(),
}
_DCLS = {
    "out_features": count(4),
    "kernel_size": sizes((5, 3), 5),
    "kernel_count": count(3).or_none(),
    "strides": sizes((2, 1)),
    "padding": padding("SAME"),
    "feature_group_count": count(2),
    "version": choice("gauss", "v0", "v1", "max"),
    "gain": number(2.0),
    "share_positions": flag(False),
    "whole_positions": flag(False),
    **_CONV_OPTIONS,
    **{name: kind._replace(unclear=(None,)) for name, kind in _INITS.items()},
    "positions_init": function(nnx.initializers.ones),
    "sigma_init": function(nnx.initializers.ones, optional=True),
}
for _name in ("weight_init", "bias_init"):
    _DCLS[_name] = function(nnx.initializers.ones, optional=True)
_DILATED = {
    "in_features": count(4),
    "out_features": count(4),
    "kernel_size": sizes((2, 3)),
    "dilation": sizes((2, 2), 3).or_none(),
    "rngs": rngs(),
}
_DOCONV = {
    "out_features": count(4),
    "kernel_size": sizes((3, 1)),
    "strides": sizes((2, 1)),
    "depth_multiplier": count(3).or_none(),
    "padding": padding("SAME"),
    "kernel_dilation": sizes((1, 2)),
    "feature_group_count": count(2),
    "legacy_torch_grouping": flag(False),
    **_CONV_OPTIONS,
    **_INITS,
    "conv_general_dilated": function(jax.lax.conv_general_dilated),
}
_ALPHA = fraction(0.5)
_ALPHA = _ALPHA._replace(
    same=(*_ALPHA.same, (0.5, 0.5), [0.5, 0.5], Fraction(1, 2)),
    wrong=(
        *_ALPHA.wrong,
        *((0.5,), (0.5, 0.5, 0.5), (0.5, 2), ("0.5", 0.5), (None, 0.5), (0.5, np.nan), (True, 0.5)),
        *([[0.5, 0.5]], (0.5, 1j), {0.5, 0.25}, {0.5: 1, 0.25: 2}),
    ),
    unclear=(*_ALPHA.unclear, (0, 0.5), (1, 0), (0.25, 0.75), np.array([0.5, 0.5])),
)
_OCTCONV = {
    "out_features": count(4),
    "kernel_size": sizes((3, 1), 3),
    "strides": count(1),
    "alpha": _ALPHA,
    "padding": padding("SAME"),
    "kernel_dilation": sizes((1, 2)),
    "pooling": choice("floor", "ceil"),
    **_CONV_OPTIONS,
    "kernel_init": function(nnx.initializers.ones),
    "bias_init": function(nnx.initializers.ones),
}
_OCTCONV_ONLY = {
    "feature_group_count": count(1),
    "conv_general_dilated": function(jax.lax.conv_general_dilated),
}
_IN = {"in_features": count(4)}
_IN_ALPHA = {"in_features": count(4), "alpha": fraction(0.5)}


def _use_array_octave(layer, arguments):
    rank = len(layer.conv.kernel_size)
    shape = (2, *[12] * rank, int(arguments["in_features"]))
    output = jax.eval_shape(lambda: layer(jnp.ones(shape)))
    assert output.shape[-1] == int(arguments["out_features"])
    return _leaves(layer), output


def _use_per_octave(layer, arguments):
    high, low = octave_features.split_channels(int(arguments["features"]), arguments["alpha"])
    x = (jnp.ones((4, 4, high)) if high else None, jnp.ones((2, 2, low)) if low else None)
    with jax.numpy_rank_promotion("allow"):
        return _leaves(layer), jax.eval_shape(lambda: nnx.clone(layer)(x))


def _linear(features, *, rngs):
    return nnx.Linear(features, features, rngs=rngs)


_LAYERS = [
    Call(
        "BoxConv",
        layers.BoxConv,
        {
            **_IN,
            **_BOX_CONV,
            "theta_init": function(
                lambda _, shape, dtype: jnp.asarray(_theta(*shape[:-1])[..., : shape[-1]], dtype),
                optional=True,
            ),
            "rngs": rngs(),
        },
        _use_box_layer,
    ),
    Call(
        "WeightedBoxConv",
        layers.WeightedBoxConv,
        {
            **_IN,
            "out_features": count(4),
            **_BOX_CONV,
            "use_bias": flag(True),
            "precision": _OCTAVE_OPTIONS["precision"],
            **_INITS,
            "rngs": rngs(),
        },
        _use_box_layer,
    ),
    Call(
        "BoxConv by example",
        layers.BoxConv,
        {
            **_IN,
            "num_boxes": count(2),
            "example": Kind(
                jax.ShapeDtypeStruct((2, 8, 16, 4), "float32"),
                same=(jnp.ones((8, 16, 4)), np.ones((8, 16, 4))),
                wrong=(
                    *(value for value in hostile.JUNK if value is not None),
                    *(
                        (8, 16, 4),
                        jnp.ones((8, 16, 5)),
                        jnp.ones((16, 4)),
                        jnp.ones(()),
                        jnp.ones((0, 8, 4)),
                    ),
                ),
            ),
            "rngs": rngs(),
        },
        _use_layer,
    ),
    Call("DclsConv", layers.DclsConv, {**_IN, **_DCLS}, _use_layer),
    Call("DclsConv by dilation", layers.DclsConv, _DILATED, _use_layer),
    Call("DOConv", layers.DOConv, {**_IN, **_DOCONV}, _use_layer),
    Call("OctConv", layers.OctConv, {**_IN, **_OCTCONV, **_OCTCONV_ONLY}, _use_layer),
    Call("OctConvTranspose", layers.OctConvTranspose, {**_IN, **_OCTCONV}, _use_layer),
    Call(
        "ArrayOctConv", layers.ArrayOctConv, {**_IN, **_OCTCONV, **_OCTCONV_ONLY}, _use_array_octave
    ),
    Call(
        "PerOctave",
        layers.PerOctave,
        {
            "layer": function(_linear),
            "features": count(4),
            "alpha": fraction(0.25),
            # Which streams it needs is the layer's business.
            "rngs": rngs()._replace(wrong=(*hostile.JUNK, 0, True, nnx.Rngs)),
        },
        _use_per_octave,
    ),
    Call(
        "repulsive_loss",
        layers.repulsive_loss,
        {
            "model": instance(
                lambda: layers.DclsConv(2, 2, (5,), 3, rngs=nnx.Rngs(0)),
                *(layers.DclsConv, optax.adam(1e-3)),
            )
        },
    ),
]


def _applied(make):
    """Returns a function that applies a layer to `x` without computing anything."""

    @functools.cache
    def layer():
        return make()

    return lambda x: _shape_of(layer(), x)


_X = array(_image(2, 8, 8, 4), axes=(-1,), rank=False)
_ANY_X = array(_image(2, 8, 8, 4), rank=False)
_APPLIED = [
    Call(f"{name}()", _applied(make), {"x": kind})
    for name, make, kind in (
        ("BoxConv", lambda: layers.BoxConv(4, 2, rngs=nnx.Rngs(0)), _X),
        ("WeightedBoxConv", lambda: layers.WeightedBoxConv(4, 2, 2, rngs=nnx.Rngs(0)), _X),
        ("DclsConv", lambda: layers.DclsConv(4, 4, (3, 3), 2, rngs=nnx.Rngs(0)), _X),
        ("DOConv", lambda: layers.DOConv(4, 4, (3, 3), rngs=nnx.Rngs(0)), _X),
        ("OctConv", lambda: layers.OctConv(4, 4, (3, 3), rngs=nnx.Rngs(0)), _X_OCTAVES),
        (
            "OctConvTranspose",
            lambda: layers.OctConvTranspose(4, 4, (3, 3), rngs=nnx.Rngs(0)),
            _X_OCTAVES,
        ),
        ("ArrayOctConv", lambda: layers.ArrayOctConv(4, 4, (3, 3), rngs=nnx.Rngs(0)), _X),
    )
]


def _initialized(cls):
    def init(x, **arguments):
        layer = cls(**arguments)
        return jax.eval_shape(lambda: layer.init_with_output(jax.random.key(0), x))

    return init


def _linen(kinds):
    return {name: kind for name, kind in kinds.items() if name != "rngs"}


# The channels are those of `x`.
_LINEN_NAMES = {**_AXES, "x": "in_features|channels", "alpha": "channels of high"}
# Three channels too are divided as an `alpha` of 0.5 says.
_LINEN_OCTAVES = _X_OCTAVES.without((_OCTAVES[0][..., :1], _OCTAVES[1]))
_LINEN = [
    Call(
        "linen.WeightedBoxConv",
        _initialized(linen.WeightedBoxConv),
        {
            "out_features": count(4),
            **_BOX_CONV,
            "use_bias": flag(True),
            "precision": _OCTAVE_OPTIONS["precision"],
            **_INITS,
            "x": _ANY_X,
        },
        names=_LINEN_NAMES,
    ),
    Call(
        "linen.BoxConv", _initialized(linen.BoxConv), {**_BOX_CONV, "x": _ANY_X}, names=_LINEN_NAMES
    ),
    Call(
        "linen.DclsConv",
        _initialized(linen.DclsConv),
        {**_linen(_DCLS), "x": _X},
        names=_LINEN_NAMES,
    ),
    Call(
        "linen.DOConv", _initialized(linen.DOConv), {**_linen(_DOCONV), "x": _X}, names=_LINEN_NAMES
    ),
    Call(
        "linen.OctConv",
        _initialized(linen.OctConv),
        {
            **_linen({**_OCTCONV, **_OCTCONV_ONLY, "kernel_size": sizes((3, 1))}),
            "x": _LINEN_OCTAVES,
        },
        names=_LINEN_NAMES,
    ),
    Call(
        "linen.OctConvTranspose",
        _initialized(linen.OctConvTranspose),
        {**_linen({**_OCTCONV, "kernel_size": sizes((3, 1))}), "x": _LINEN_OCTAVES},
        names=_LINEN_NAMES,
    ),
    Call(
        "linen.PerOctave",
        _initialized(linen.PerOctave),
        {
            "layer": function(lambda *, name: jnp.tanh if name else None),
            "x": _ANY_OCTAVES,
        },
    ),
]


# Networks.

_FEATURES = Kind(
    models.blocks.FeatureMap(8, 16, 16),
    same=(models.blocks.FeatureMap(8, 16, 16, -1),),
    wrong=(
        *hostile.JUNK,
        *((8, 16, 16, -1), [8, 16, 16, -1], 16, blocks.FeatureMap, jnp.ones((8, 16, 16))),
        *(
            blocks.FeatureMap(0, 16, 16),
            blocks.FeatureMap(8.0, 16, 16),
            blocks.FeatureMap(8, 16, True),
        ),
        *(blocks.FeatureMap(8, 16, 16, -2), blocks.FeatureMap(8, 16, 16, -1.0)),
        *(
            blocks.FeatureMap("8", 16, 16),
            blocks.FeatureMap(8, None, 16),
            blocks.FeatureMap(8, 16, -16),
        ),
    ),
    unclear=(blocks.FeatureMap(8, 16, 16, -3), blocks.FeatureMap(9, 15, 16)),
)
_BLOCK = {"features": _FEATURES, "dtype": dtype(), "rngs": rngs()}
_DROPOUT = {**_BLOCK, "dropout": fraction(0.25)}
_NORM = {**_DROPOUT, "epsilon": number(0.5)}
_BLOCKS = {
    blocks.InitialBlock: {
        **_NORM,
        "channels": count(20, 17),
        "use_bias": flag(True),
        "prelu": flag(True),
    },
    blocks.Bottleneck: {
        **_NORM,
        "dilation": count(2),
        "asymmetric": count(5).or_none(),
        "use_bias": flag(True),
        "prelu": flag(False),
    },
    blocks.BoxBlock: {
        **_DROPOUT,
        "num_boxes": count(4),
        "use_bias": flag(True),
        "relu": flag(True),
        "trainable": flag(False),
    },
    blocks.Downsampling: {
        **_NORM,
        "channels": count(20, 16),
        "use_bias": flag(True),
        "prelu": flag(True),
        "output_axis": choice(-1, -3),
    },
    blocks.Upsampling: {**_NORM, "channels": count(16, 4), "use_bias": flag(True)},
    blocks.TransposedUpsampling: {**_BLOCK, "channels": count(8), "use_bias": flag(True)},
    blocks.NonBottleneck1D: {**_DROPOUT, "dilation": count(2), "use_bias": flag(True)},
}


def _use_block(block, arguments):
    """Applies a block, training and folded, and counts its cost."""
    features = arguments["features"]
    height, width, channels, axis = features
    shape = (2, height, width, channels) if axis == -1 else (2, channels, height, width)
    if (
        not isinstance(block, blocks.Bottleneck | blocks.BoxBlock | blocks.Upsampling)
        and axis == -3
    ):
        shape = (2, height, width, channels)
    if isinstance(block, blocks.Downsampling | blocks.InitialBlock) and (height % 2 or width % 2):
        return block.output
    further = ()
    if isinstance(block, blocks.Upsampling):
        further = (jnp.zeros((2, height, width, block.output.channels), jnp.int8),)
    x = jnp.ones(shape, arguments["dtype"])
    output = jax.eval_shape(lambda: nnx.clone(block)(x, *further))
    return output, block.cost(features)


def _abstractly(function):
    """Builds a module of shapes in place of arrays."""

    def build(rngs, **arguments):
        if not isinstance(rngs, nnx.Rngs):
            return function(rngs=rngs, **arguments)
        return nnx.eval_shape(lambda rngs: function(rngs=rngs, **arguments), rngs)

    return build


_NAMES = tuple(models.NETWORKS)
_IMAGE_SIZE = Kind(
    (8, 16),
    same=([8, 16], (np.int64(8), np.int16(16))),
    wrong=(
        *hostile.JUNK,
        *(
            (8,),
            (8, 16, 3),
            (0, 16),
            (-8, 16),
            (8, 17),
            (8.0, 16),
            ("8", 16),
            (True, 16),
            (8, None),
            8,
        ),
        *(
            (4, 16),
            (8, 10**30),
            {8: 1, 16: 2},
            {8, 16},
            b"\x08\x10",
            bytearray(b"\x08\x10"),
            [[8, 16]],
        ),
        *((8, np.nan), "88", np.array([8.0, 16.0]), np.ones((2, 2), int), (8, 2**63)),
    ),
    unclear=((16, 8), np.array([8, 16]), range(8, 24, 8), jnp.array([8, 16])),
)


@functools.cache
def _network(name="boxerfnet", variant="paper", abstract=False):
    def make():
        return models.create(name, 3, (8, 16), variant=variant, rngs=nnx.Rngs(0))

    return nnx.eval_shape(make) if abstract else make()


def _features_of(network, *arguments):
    # A clone, because statistics change.
    if len(arguments) == 1:
        return jax.eval_shape(lambda: nnx.clone(network)(*arguments))
    return jax.eval_shape(lambda: nnx.clone(network).features(*arguments))


def _near_models(model_class):
    return (
        model_class,
        Made(lambda: nnx.state(_network(abstract=True))),
        Made(lambda: nnx.Linear(2, 2, rngs=nnx.Rngs(0))),
        Made(lambda: linen.BoxConv(4)),
        {"params": {"theta": jnp.ones((2, 2, 4))}},
        optax.adam(1e-3),
    )


_MODEL = instance(_network, *_near_models(models.SegmentationNetwork))
_ABSTRACT = instance(lambda: _network(abstract=True), *_near_models(models.SegmentationNetwork))


def _use_network(model, _):
    return jax.tree.map(lambda leaf: leaf.shape, jax.tree.leaves(nnx.state(model)))


def _masks():
    return [np.ones(layer.theta.shape[:2], bool) for _, layer in _box_layers()]


def _box_layers():
    return [(index, block.boxes) for index, block in _network(abstract=True).box_blocks()]


_MASKS = tuple(_masks())
_NETWORKS = [
    *(Call(cls.__name__, cls, kinds, _use_block) for cls, kinds in _BLOCKS.items()),
    Call(
        "models.create",
        _abstractly(models.create),
        {
            "name": choice("enet-minus"),
            "num_classes": count(3),
            "image_size": _IMAGE_SIZE,
            "variant": choice("pytorch", "paper"),
            "dtype": dtype(),
            "rngs": rngs(),
        },
        _use_network,
    ),
    Call(
        "SegmentationNetwork",
        _abstractly(models.SegmentationNetwork),
        {
            "architecture": Kind(
                models.NETWORKS["enet-minus"],
                wrong=(
                    *(*hostile.JUNK, "enet", models.Architecture, (1, 2), 3, 1.0),
                    *(models.Architecture((), None), models.Architecture((3,), len)),
                    models.Architecture(None, models.NETWORKS["enet-minus"].classifier),
                ),
            ),
            "num_classes": count(3),
            "image_size": _IMAGE_SIZE,
            "dtype": dtype(),
            "rngs": rngs(),
        },
        _use_network,
    ),
    Call(
        "SegmentationNetwork()",
        lambda images: _features_of(_network(), images),
        {"images": array(_image(2, 8, 16, 3), axes=(1, 2, 3), rank=False)},
    ),
    Call(
        "SegmentationNetwork.features",
        lambda images, depth: _features_of(_network(), images, depth),
        {
            "images": array(_image(2, 8, 16, 3), axes=(1, 2, 3), rank=False),
            "depth": count(2, minimum=0).or_none(),
        },
    ),
    Call("cost", cost.cost, {"model": _ABSTRACT, "image_size": _IMAGE_SIZE}),
    Call(
        "round_boxes",
        inference.round_boxes,
        {"model": _MODEL, "rounding": choice("nearest", "inward")},
        _use_network,
    ),
    Call("for_inference", inference.for_inference, {"model": _MODEL}, _use_network),
    Call("contributions", pruning.contributions, {"model": _MODEL}),
    Call(
        "prune",
        pruning.prune,
        {
            "model": _MODEL,
            "keep": Kind(
                _MASKS,
                same=(
                    list(_MASKS),
                    [mask.tolist() for mask in _MASKS],
                    list(map(jnp.asarray, _MASKS)),
                ),
                wrong=(
                    *hostile.JUNK,
                    *(
                        _MASKS[:-1],
                        (*_MASKS, _MASKS[0]),
                        [mask.astype(int) for mask in _MASKS],
                        True,
                        len,
                    ),
                    *([mask.astype(float) for mask in _MASKS], [mask[:-1] for mask in _MASKS]),
                    *([mask.T for mask in _MASKS], ["x"] * len(_MASKS), [None] * len(_MASKS)),
                    *(
                        dict(enumerate(_MASKS)),
                        [True] * len(_MASKS),
                        [[True, [False]]] * len(_MASKS),
                    ),
                    *(_MASKS[0], set(range(len(_MASKS))), Made(lambda: iter(_MASKS))),
                ),
                unclear=([~mask for mask in _MASKS],),
            ),
        },
        _use_network,
    ),
]

# Optimizers.

_PARAMS = {"theta": jnp.asarray(_theta(4, 2)), "kernel": jnp.ones((3, 3))}
_POSITIONS = {"positions": jnp.zeros((2, 3, 4, 5)), "kernel": jnp.ones((3, 3))}
_BOX_MARKS = {"theta": optim.BoxSpec((8, 16)), "kernel": False}
_POSITION_MARKS = {"positions": optim.PositionSpec(((-2, 2), (-3, 3))), "kernel": False}


def _use_optimizer(params):
    """Returns a function that makes two steps with an optimizer."""

    def use(optimizer, _):
        values, state = params, optimizer.init(params)
        for scale in (1.0, -100.0):
            gradients = jax.tree.map(lambda value: jnp.full_like(value, scale), values)  # noqa: B023
            updates, state = optimizer.update(gradients, state, values)
            values = jax.tree.map(jnp.add, values, updates)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(values))
        return values

    return use


_OPTIMIZER = Kind(
    Made(lambda: optax.sgd(0.5)),
    wrong=(
        *hostile.JUNK,
        *(0.1, 1, True, optax.sgd, "adam", (len,), nnx.Param, _PARAMS, lambda updates: updates),
        Made(lambda: optax.constant_schedule(0.1)),
    ),
)


def _marks(marks, *near):
    # A tree without leaves marks nothing, as one of `False` does.
    empty = (value for value in hostile.JUNK if not isinstance(value, Made))
    wrong = tuple(value for value in empty if jax.tree.leaves(value))
    return Kind(
        marks,
        wrong=(
            *wrong,
            True,
            1,
            len,
            *near,
            _PARAMS,
            {**marks, "kernel": True},
            {**marks, "kernel": 0},
        ),
    )


_BOXES_KIND = _marks(
    _BOX_MARKS, _POSITION_MARKS, optim.BoxSpec, {"theta": (8, 16), "kernel": False}
)
_POSITIONS_KIND = _marks(_POSITION_MARKS, _BOX_MARKS, optim.PositionSpec)
_BOX_NUMBERS = {
    "box_l2": number(0.5, zero=True),
    "step_scale": number(2.0),
    "min_size": number(1.5),
}
_SPEC_AXIS = Kind(
    -1,
    same=(np.int64(-1), np.int8(-1)),
    wrong=(*hostile.JUNK, True, -1.0, "-1", [-1], (-1,), np.float32(-1), -1 + 0j, 2**63),
)


def _box_model():
    return nnx.Dict(
        box=layers.BoxConv(2, 2, window=(8, 16), rngs=nnx.Rngs(0)),
        dcls=layers.DclsConv(2, 2, (5, 3), 3, rngs=nnx.Rngs(1)),
    )


def _use_model_optimizer(optimizer, arguments):
    return _use_optimizer(nnx.state(_box_model(), nnx.Param))(optimizer, arguments)


_NNX_MODEL = Kind(
    Made(_box_model),
    wrong=(
        *(value for value in hostile.JUNK),
        *(0, 1.0, True, len, layers.BoxConv, _PARAMS, jnp.ones((2, 4)), linen.BoxConv(2)),
    ),
)
_WRT = Kind(
    nnx.Param,
    wrong=tuple(
        value
        for value in hostile.JUNK
        if not isinstance(value, str | bool | list | tuple | type(None) | type(Ellipsis))
    ),
)
_NAME = Kind("theta", wrong=(*hostile.JUNK, 0, True, b"theta", "Theta", "theta ", ["theta"], len))
_LIMITS = Kind(
    ((-2, 2), (-3, 3)),
    same=(
        [[-2, 2], [-3, 3]],
        ((-2.0, np.float32(2)), (np.int64(-3), 3)),
        np.array([[-2, 2], [-3, 3]]),
    ),
    wrong=(
        *hostile.JUNK,
        *(
            (-2, 2),
            ((2, -2), (-3, 3)),
            ((-2, 2, 3),),
            ((-2,), (-3,)),
            ((-2, "2"),),
            ("22", "33"),
            2,
        ),
        *(((np.nan, 2),), ((-np.inf, np.inf),), ((True, 2),), ((-2, 1j),), {(-2, 2)}, {(1, 2): 3}),
        *(((None, 2),), ((-2, [2]),), b"12", (b"12", b"12"), ((-2, 10**400),), (("-2", "2"),)),
    ),
)
_OPTIM = [
    Call(
        "optim.constrain",
        optim.constrain,
        {"optimizer": _OPTIMIZER, "model": _NNX_MODEL, **_BOX_NUMBERS, "wrt": _WRT},
        _use_model_optimizer,
    ),
    Call(
        "optim.constrain_boxes",
        optim.constrain_boxes,
        {"optimizer": _OPTIMIZER, "boxes": _BOXES_KIND, **_BOX_NUMBERS},
        _use_optimizer(_PARAMS),
    ),
    Call(
        "optim.keep_boxes_valid",
        optim.keep_boxes_valid,
        {"boxes": _BOXES_KIND, "min_size": number(1.5)},
        _use_optimizer(_PARAMS),
    ),
    Call(
        "optim.steps_in_pixels",
        optim.steps_in_pixels,
        {"scale": number(2.0), "boxes": _BOXES_KIND},
        _use_optimizer(_PARAMS),
    ),
    Call(
        "optim.keep_positions_inside",
        optim.keep_positions_inside,
        {"positions": _POSITIONS_KIND},
        _use_optimizer(_POSITIONS),
    ),
    Call(
        "optim.BoxSpec",
        optim.BoxSpec,
        {"window": _WINDOW.or_none(), "axis": _SPEC_AXIS},
        lambda spec, _: (spec.window, spec.axis),
    ),
    Call(
        "optim.PositionSpec",
        optim.PositionSpec,
        {"limits": _LIMITS, "axis": _SPEC_AXIS._replace(valid=-4, same=(np.int64(-4),))},
        lambda spec, _: (spec.limits, spec.axis),
    ),
    Call("optim.find_boxes", optim.find_boxes, {"model": _NNX_MODEL, "wrt": _WRT}, lambda *_: 0),
    Call(
        "optim.find_positions",
        optim.find_positions,
        {"model": _NNX_MODEL, "wrt": _WRT},
        lambda *_: 0,
    ),
    Call(
        "optim.find_boxes_by_name",
        optim.find_boxes_by_name,
        {
            "params": Kind(
                _PARAMS, wrong=(*hostile.JUNK, 0, True, len, {"theta": 3}, {"theta": "x"})
            ),
            "window": _WINDOW.or_none(),
            "name": _NAME,
            "axis": _SPEC_AXIS.or_none(),
        },
        lambda *_: 0,
        names={"params": "name must be that of a leaf"},
    ),
    Call(
        "optim.find_positions_by_name",
        optim.find_positions_by_name,
        {
            "params": Kind(_POSITIONS, wrong=(*hostile.JUNK, 0, True, len, {"positions": 3})),
            "kernel_size": sizes((5, 3), 5),
            "gain": number(2.0),
            "name": _NAME._replace(valid="positions"),
            "axis": _SPEC_AXIS._replace(valid=-4, same=(np.int64(-4),)).or_none(),
        },
        lambda *_: 0,
        names={"params": "name must be that of a leaf"},
    ),
    Call(
        "optim.decay_mask",
        lambda marks: optim.decay_mask(marks),
        {"marks": _marks(_BOX_MARKS)._replace(same=())},
    ),
    Call(
        "optim.track_boxes",
        lambda boxes: optim.track_boxes(boxes),
        {"boxes": _BOXES_KIND._replace(same=())},
        lambda *_: None,
    ),
    Call(
        "optim.labels",
        lambda marks: optim.labels(marks),
        {"marks": _marks(_BOX_MARKS)._replace(same=())},
    ),
    Call(
        "optim.non_finite_steps",
        optim.non_finite_steps,
        {
            "opt_state": Kind(
                optim.constrain_boxes(optax.adam(1e-3), _BOX_MARKS).init(_PARAMS),
                wrong=(
                    *hostile.JUNK,
                    0,
                    True,
                    len,
                    optax.adam(1e-3),
                    optax.adam(1e-3).init(_PARAMS),
                ),
            )
        },
    ),
]

# Surgery.


def _convs():
    return nnx.Sequential(
        nnx.Conv(4, 8, (3, 3), kernel_dilation=2, rngs=nnx.Rngs(0)),
        nnx.Conv(8, 4, (3, 3), rngs=nnx.Rngs(1)),
    )


_CONVS = Kind(
    Made(_convs),
    wrong=(
        *(
            *hostile.JUNK,
            0,
            True,
            len,
            nnx.Conv,
            _PARAMS,
            Made(lambda: nnx.Linear(2, 2, rngs=nnx.Rngs(0))),
        ),
        Made(lambda: nnx.Conv(2, 2, (3, 3), rngs=nnx.Rngs(0))),
    ),
)
_VARIANTS = ("box", "dcls", "octave", "doconv")
_SURGERY_OPTIONS = {
    "box": {"num_boxes": count(4), "window": _SMALL_WINDOW.or_none(), "normalize": flag(True)},
    "dcls": {
        "kernel_size": sizes((7, 6)).or_none(),
        "version": choice("v0", "gauss"),
        "gain": number(2.0),
    },
    "octave": {"alpha": _ALPHA, "pooling": choice("floor", "ceil"), "use_bias": flag(True)},
    "doconv": {"depth_multiplier": count(9, 9).or_none(), "legacy_torch_grouping": flag(False)},
}


def _use_convs(model, _):
    assert not any(
        surgery.is_dilated(conv)
        for _, conv in nnx.iter_modules(model)
        if isinstance(conv, nnx.Conv)
    )
    return _leaves(model), jax.eval_shape(lambda: model(jnp.ones((2, 12, 12, 4))))


_SURGERY = [
    *(
        Call(
            f"replace_convs {variant}",
            functools.partial(surgery.replace_convs, variant=variant),
            {
                "model": _CONVS,
                "where": function(surgery.is_dilated),
                "rngs": rngs(),
                **_SURGERY_OPTIONS[variant],
            },
            _use_convs,
            names={"model": "where must select"},
        )
        for variant in _VARIANTS
    ),
    Call(
        "replace_convs",
        surgery.replace_convs,
        {"model": _CONVS, "variant": choice("octave"), "rngs": rngs()},
        _use_convs,
        names={"model": "where must select"},
    ),
    Call(
        "boxes_to_matrices",
        surgery.boxes_to_matrices,
        {
            "model": instance(
                lambda: nnx.Sequential(layers.BoxConv(2, 2, window=(8, 8), rngs=nnx.Rngs(0))),
                nnx.Conv,
                layers.BoxConv,
            )
        },
        lambda *_: None,
    ),
    Call(
        "is_dilated",
        surgery.is_dilated,
        {"conv": instance(lambda: nnx.Conv(2, 2, (3,), rngs=nnx.Rngs(0)), nnx.Conv, _convs)},
    ),
]

# Analysis.


def _shrink(images):
    return images[:, ::2, ::2] * jnp.asarray([[[[2.0, -3.0]]]], images.dtype)


_CURVE = array([0.1, 0.6, 0.97, 1.0], rank=False)
_RESPONSE = {
    "layer": Kind(
        _shrink,
        wrong=(
            *(*hostile.JUNK, 0, True, "layer"),
            *(lambda images: images[0], lambda _: 3, lambda images: (images, images)),
            *(lambda images: images.sum(), lambda _: None, lambda images: images.astype(int)),
        ),
    ),
    "images": array(_image(1, 4, 4, 1)),
    "positions": array([[[0, 1], [1, 1]]], axes=(0, 2), integer=True),
    "units_at_once": count(1),
}
_RESPONSE["images"] = _RESPONSE["images"]._replace(
    unclear=tuple(v for v in _RESPONSE["images"].unclear if v.dtype != np.float64)
)
_WRONG_POSITIONS = (np.full((1, 2, 2), 2), np.full((1, 2, 2), -1), np.full((1, 2, 2), 2**40))
_RESPONSE["positions"] = _RESPONSE["positions"]._replace(
    wrong=(*_RESPONSE["positions"].wrong, *_WRONG_POSITIONS)
)
_ANALYSIS = [
    Call(
        "importance",
        analysis.importance,
        {
            "incoming": array(_image(1, 1, 3, 2), rank=False),
            "outgoing": array(_image(3, 3, 4, 5), axes=(2,), rank=False),
        },
    ),
    Call("box_layers", analysis.box_layers, {"model": _MODEL}),
    Call(
        "at_minimum",
        analysis.at_minimum,
        {"theta": _BOXES, "min_size": number(1.5), "tolerance": number(0.25, zero=True)},
    ),
    Call(
        "share_at_minimum",
        analysis.share_at_minimum,
        {"theta": _BOXES, "min_size": number(1.5), "tolerance": number(0.25, zero=True)},
    ),
    Call("symmetry", analysis.symmetry, {"theta": _BOXES}),
    Call("gradient_response", analysis.gradient_response, _RESPONSE),
    Call("energy_curves", analysis.energy_curves, _RESPONSE),
    Call(
        "cumulative_energy",
        analysis.cumulative_energy,
        {
            "response": array(_image(2, 3, 4), rank=False),
            "centre": array(np.ones((2, 2)), axes=(0, 1), rank=False)._replace(unclear=()),
        },
        names={"response": "centre"},
    ),
    Call(
        "saturation_radius",
        analysis.saturation_radius,
        {
            "curve": _CURVE,
            "share": fraction(0.5)._replace(unclear=(1, 0.95), wrong=(*fraction(0.5).wrong, 0)),
        },
    ),
]

# Plots.


def _layer(seed=0, shape=(3, 2)):
    theta = boxes.sample(jax.random.key(seed), shape, (8, 16))
    return analysis.BoxLayer("box layer", theta, (8, 16), jnp.asarray(_image(*shape)))


_LAYER = _layer()
_BAD_LAYERS = (
    *(len, 0, True, analysis.BoxLayer, tuple(_LAYER[:2])),
    *(
        _LAYER._replace(theta=None),
        _LAYER._replace(theta="x"),
        _LAYER._replace(theta=_LAYER.theta[0]),
    ),
    *(_LAYER._replace(importance=None), _LAYER._replace(importance=_LAYER.importance[0])),
    *(_LAYER._replace(theta=_LAYER.theta[..., :3]), _LAYER._replace(importance=jnp.ones((0, 2)))),
    *(_LAYER._replace(window=(8,)), _LAYER._replace(window="ab"), _LAYER._replace(window=(0, 8))),
    *(_LAYER._replace(theta=jnp.ones((3, 2, 4), int)), _LAYER._replace(name=3)),
    *(
        _LAYER._replace(theta=jnp.full((3, 2, 4), np.nan)),
        _LAYER._replace(theta=jnp.full((3, 2, 4), np.inf)),
    ),
    _LAYER._replace(importance=jnp.full((3, 2), np.nan)),
)
_LAYERS_KIND = Kind(
    (_LAYER, _layer(1)),
    same=([_LAYER, _layer(1)],),
    wrong=(
        *hostile.JUNK,
        *([layer, _LAYER] for layer in _BAD_LAYERS),
        *({0: _LAYER}, _LAYER, Made(lambda: iter([_LAYER])), {"a": _LAYER, "b": _LAYER}),
    ),
)
_PAIRED = _LAYERS_KIND._replace(wrong=(*_LAYERS_KIND.wrong, (_LAYER,), (_LAYER, _layer(0, (3, 1)))))
_HISTORY = Kind(
    {"start": _layer(1).theta, "end": _LAYER.theta},
    same=({"start": np.asarray(_layer(1).theta), "end": _LAYER.theta.tolist()},),
    wrong=(
        *hostile.JUNK,
        *(
            [_LAYER.theta],
            {"a": None},
            {"a": "x"},
            {"a": _LAYER.theta[0]},
            {"a": jnp.ones((3, 2, 5))},
        ),
        *({"a": np.ones((3, 2, 4), complex)}, {"a": np.full((3, 2, 4), np.nan)}, {3: _LAYER.theta}),
        *({"a": np.full((3, 2, 4), "1")}, len, 0, True, {"a": np.full((3, 2, 4), np.inf)}),
    ),
)
_MOST = count(3)
_ONE_LAYER = Kind(_LAYER, wrong=(*hostile.JUNK, *_BAD_LAYERS, [_LAYER]))


def _use_figure(figure, _):
    assert isinstance(figure, Figure)
    return sum(len(axes.patches) + len(axes.lines) for axes in figure.axes)


def _animate(**arguments):
    path = io.BytesIO()
    plots.animate_training(path=path, **arguments)
    return path


# Grey values may be integers too.
_GREY = array(_image(4, 6))._replace(unclear=(np.zeros((4, 6), np.uint8),)).or_none()
_GREY = _GREY.without(np.ones((4, 6), int), np.ones((4, 6), int).tolist())
_CURVES = Kind(
    {"a": [0.1, 0.6, 1.0], "b": jnp.array([0.2, 1.0])},
    same=({"a": np.array([0.1, 0.6, 1.0]), "b": (0.2, 1.0)},),
    wrong=(
        *hostile.JUNK,
        *(
            {"a": None},
            {"a": "x"},
            {"a": 0.5},
            {"a": np.ones((2, 2, 2))},
            {"a": [1j, 2]},
            {"a": []},
        ),
        *([[0.1, 1.0]], {"a": ["x", "y"]}, {"a": [[1], [1, 2]]}, {3: [0.1, 1.0]}, len, 0, True),
        *({"a": np.ones((3, 2))}, {"a": [True, False]}, {"a": [None, 1.0]}),
    ),
    unclear=({"a": [np.nan, np.nan]}, {"a": [0, 1]}, {"a": [1.0]}),
)
_PLOTS = [
    Call("draw_layers", plots.draw_layers, {"layers": _LAYERS_KIND, "most": _MOST}, _use_figure),
    Call("draw_areas", plots.draw_areas, {"layers": _LAYERS_KIND}, _use_figure),
    Call(
        "draw_histograms", plots.draw_histograms, {"before": _PAIRED, "after": _PAIRED}, _use_figure
    ),
    Call(
        "draw_before_and_after",
        plots.draw_before_and_after,
        {"before": _PAIRED, "after": _PAIRED, "most": _MOST},
        _use_figure,
    ),
    Call(
        "draw_training",
        plots.draw_training,
        {"layer": _ONE_LAYER, "history": _HISTORY, "most": _MOST},
        _use_figure,
        names={"history": "layer", "layer": "history"},
    ),
    Call(
        "draw_energy",
        plots.draw_energy,
        {"curves": _CURVES, "title": Kind("a", wrong=(1, None, ["a"], b"a"), unclear=("",))},
        _use_figure,
    ),
    Call(
        "animate_training",
        _animate,
        {
            "layer": _ONE_LAYER,
            "history": _HISTORY,
            "most": _MOST,
            "milliseconds": count(100),
            "image": _GREY,
        },
        lambda file, _: len(file.getvalue()),
        names={"history": "layer", "layer": "history"},
    ),
    Call(
        "animate_training to",
        functools.partial(plots.animate_training, _LAYER, {"a": _LAYER.theta}),
        {"path": Kind("/dev/null", wrong=(None, 3, 1.5, [], object(), True, len, {"a": 1}))},
    ),
]

# State dicts of PyTorch code.


def _damaged_states(state, *more):
    """Returns state dicts that do not fit, made from a good one."""
    names = list(state)
    array_ = np.asarray(state[names[0]])
    return (
        *hostile.JUNK,
        *(
            0,
            True,
            len,
            list(state),
            list(state.items()),
            list(state.values()),
            set(state),
            str(state),
        ),
        *(
            {},
            {"state_dict": {}},
            {"state_dict": None},
            {"model": 3},
            {"a": state},
            {**state, "extra": array_},
        ),
        *({**state, 3: array_}, {**state, None: array_}, {**state, b"W": array_}, {("a",): array_}),
        *(
            {key: value for key, value in state.items() if key != name}
            for name in names
            if "bias" not in name and name != "d_diag"  # Which may be missing.
        ),
        *(
            {**state, name: value}
            for name in names
            for value in _damaged_arrays(np.asarray(state[name]))
        ),
        *more,
    )


def _damaged_arrays(array_):
    damaged = [
        None,
        "x",
        object(),
        1j,
        {},
        array_.astype(complex),
        array_.astype(str),
        array_.astype(bool),
    ]
    damaged += [array_.astype(object), array_[None], array_[..., None], array_[:0], array_[:, None]]
    damaged += [np.full_like(array_, np.nan), np.full_like(array_, np.inf), [[1], [1, 2]]]
    damaged += [np.concatenate([array_, array_[:1]]), 1.0, np.float32(1)]
    if array_.ndim > 1:
        damaged += [array_[0], array_.ravel(), np.delete(array_, 0, -1)]
    return damaged


def _same_states(state):
    return (
        {f"module.{name}": value for name, value in state.items()},
        {"state_dict": state, "epoch": 3},
        {name: value.tolist() for name, value in state.items()},
        {name: np.asarray(value, np.float64) for name, value in state.items()},
    )


def _state(state, *more):
    return Kind(state, same=_same_states(state), wrong=_damaged_states(state, *more))


_DCLS_LAYER = layers.DclsConv(4, 4, (5, 3), 3, feature_group_count=2, rngs=nnx.Rngs(0))
_DOCONV_LAYER = layers.DOConv(4, 4, (3, 3), feature_group_count=2, rngs=nnx.Rngs(0))
_OCT_LAYER = layers.OctConv(4, 6, (3, 3), alpha=0.5, rngs=nnx.Rngs(0))


def _numpy(state):
    return {name: np.asarray(value, np.float32) for name, value in state.items()}


_BOX_LAYER = layers.BoxConv(3, 2, window=(6, 8), rngs=nnx.Rngs(0))
_BOX_STATE = _numpy(interop.box_to_pytorch(_BOX_LAYER))
_DCLS_STATE = _numpy(interop.dcls_to_pytorch(_DCLS_LAYER))
_DOCONV_STATE = _numpy(interop.doconv_to_pytorch(_DOCONV_LAYER))
_OCT_STATE = _numpy(interop.octave_to_pytorch(_OCT_LAYER))
_NETWORK_STATE = _numpy(interop.to_pytorch("boxerfnet", _network(variant="pytorch")))
_ORDER = choice("original", "array")


def _layer_kind(layer, *near):
    return Kind(layer, wrong=(*hostile.JUNK, 0, True, len, type(layer), _network, *near))


def _like(state):
    # What comes back has the names and dtypes of `like`.
    kind = _state(state)
    return kind._replace(same=kind.same[:2], unclear=kind.same[2:]).or_none()


_FEW = {k: v for i, (k, v) in enumerate(_NETWORK_STATE.items()) if i % 16 == 0 or "x_min" in k}


_VARIANCE = next(name for name in _NETWORK_STATE if name.endswith("running_var"))
_BOUND = next(name for name in _NETWORK_STATE if name.endswith("x_min"))


def _network_states():
    damaged = (
        {**_NETWORK_STATE, name: value}
        for name in _FEW
        for value in _damaged_arrays(_NETWORK_STATE[name])
    )
    return (
        *hostile.JUNK[:8],
        *(None, 0, True, {}, list(_NETWORK_STATE), {"state_dict": {}}, _DCLS_STATE),
        *damaged,
        *({k: v for k, v in _NETWORK_STATE.items() if k != name} for name in _FEW),
    )


_INTEROP = [
    Call(
        "box_from_pytorch",
        interop.box_from_pytorch,
        {
            "state": _state(_BOX_STATE, {**_BOX_STATE, "x_min": 1 + _BOX_STATE["x_max"]}),
            "window": _WINDOW,
            "reparametrization_factor": number(8.0),
            "invalid_boxes": choice("error"),
            "normalize": flag(True),
        },
        _use_layer,
        names={"state": "[xy]_(min|max)"},
    ),
    Call(
        "box_to_pytorch",
        interop.box_to_pytorch,
        {
            "layer": _layer_kind(_BOX_LAYER, _OCT_LAYER, _DCLS_LAYER, linen.BoxConv(3)),
            "reparametrization_factor": number(8.0),
            "like": _like(_BOX_STATE),
        },
        names={"like": r"state|[xy]_(min|max)"},
    ),
    Call(
        "dcls_from_pytorch",
        interop.dcls_from_pytorch,
        {
            "state": _state(_DCLS_STATE, {**_DCLS_STATE, "P": 100 + _DCLS_STATE["P"]}),
            "kernel_size": sizes((5, 3)),
            "version": choice("gauss", "max"),
            "feature_group_count": count(2),
            "axis_order": _ORDER,
            "padding": padding("SAME"),
            "gain": number(2.0),
        },
        _use_layer,
        names={"state": "weight|P|SIG|bias", "kernel_size": "P|SIG", "version": "SIG"},
    ),
    Call(
        "doconv_from_pytorch",
        interop.doconv_from_pytorch,
        {
            "state": _state(_DOCONV_STATE, {**_DOCONV_STATE, "D_diag": _DOCONV_STATE["d_diag"]}),
            "kernel_size": sizes((3, 3)),
            "feature_group_count": count(2),
            "legacy_torch_grouping": flag(False),
            "padding": padding("SAME"),
        },
        _use_layer,
        names={
            "state": r"\b(W|D|d_diag|bias)\b",
            "kernel_size": r"\b(W|D)\b",
            "feature_group_count": r"\b(W|D)\b",
        },
    ),
    Call(
        "octave_from_pytorch",
        interop.octave_from_pytorch,
        {
            "state": _state(_OCT_STATE),
            "feature_group_count": count(1),
            "padding": padding("SAME"),
            "strides": count(1),
        },
        _use_layer,
        names={"state": r"conv_[hl]2[hl]|biases"},
    ),
    Call(
        "dcls_to_pytorch",
        interop.dcls_to_pytorch,
        {
            "layer": _layer_kind(_DCLS_LAYER, _OCT_LAYER, _DOCONV_LAYER, linen.BoxConv(3)),
            "axis_order": _ORDER,
            "like": _like(_DCLS_STATE),
        },
        names={"like": r"\b(state|weight|P|SIG|bias)\b"},
    ),
    Call(
        "doconv_to_pytorch",
        interop.doconv_to_pytorch,
        {
            "layer": _layer_kind(_DOCONV_LAYER, _OCT_LAYER, _DCLS_LAYER),
            "like": _like(_DOCONV_STATE),
        },
        names={"like": r"\b(state|W|D|d_diag|bias)\b"},
    ),
    Call(
        "octave_to_pytorch",
        interop.octave_to_pytorch,
        {"layer": _layer_kind(_OCT_LAYER, _DCLS_LAYER, _DOCONV_LAYER), "like": _like(_OCT_STATE)},
        names={"like": r"state|conv_[hl]2[hl]|biases"},
    ),
    Call(
        "from_pytorch",
        interop.from_pytorch,
        {
            "name": choice("boxerfnet"),
            "state": Kind(
                _NETWORK_STATE,
                wrong=(
                    *_network_states(),
                    {**_NETWORK_STATE, _VARIANCE: -1 - _NETWORK_STATE[_VARIANCE]},
                    {**_NETWORK_STATE, _BOUND: 5 + _NETWORK_STATE[_BOUND]},
                ),
            ),
            "image_size": _IMAGE_SIZE._replace(same=(), unclear=()),
            "invalid_boxes": choice("error"),
            "rngs": rngs()._replace(unclear=()),
        },
        _use_network,
        names={"state": r"\d+\.|'module"},
    ),
    Call(
        "to_pytorch",
        interop.to_pytorch,
        {
            "name": choice("boxerfnet"),
            "model": instance(
                lambda: _network(variant="pytorch"),
                *_near_models(models.SegmentationNetwork),
                Made(lambda: _network()),
                Made(lambda: inference.for_inference(_network(variant="pytorch"))),
            ),
            "like": Kind(_NETWORK_STATE, wrong=_network_states()).or_none(),
        },
        names={"like": r"state|\d+\.", "name": "model"},
    ),
]

CALLS = [
    *(*_OPERATIONS, *_BOXES_CALLS, *_LAYERS, *_APPLIED, *_LINEN, *_NETWORKS),
    *(*_OPTIM, *_SURGERY, *_ANALYSIS, *_PLOTS, *_INTEROP),
]
