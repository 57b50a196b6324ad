"""Arguments of the wrong kind or out of range: constructors name the argument and the value."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxbox import layers, models, surgery
from jaxbox.models.blocks import (
    Bottleneck,
    BoxBlock,
    Downsampling,
    InitialBlock,
    NonBottleneck1D,
    TransposedUpsampling,
    Upsampling,
)
from jaxbox.models.features import FeatureMap

RNGS = nnx.Rngs(0)
FEATURES = FeatureMap(8, 8, 16)

# What is no positive integer, no flag and no dtype; each raises a TypeError or a ValueError.
COUNTS = (0, -1, 2.0, True, "3", None, (1, 2), 1j, np.nan, np.ones(2), jnp.float32(3))
FLAGS = ("no", 1, None, 0.0, np.ones(2))
DTYPES = ("floats", int, jnp.int8, jnp.complex64, object(), "abc", 3)
FRACTIONS = (-0.1, 1.5, np.nan, "half", None, True, 1j, np.ones(2))
POSITIVE = (0, -1.0, np.nan, np.inf, "1", None, True, 1j, np.ones(2))
FUNCTIONS = (5, "zeros", np.ones(2))
KEYS = (None, 0, jax.random.key(0), nnx.Rngs(noise=0))
PADDINGS = ("FULL", "circular", 1.5, (1,), (1, 2, 3), [(1, 2, 3), 1], [(1.0, 2), 1], None, {1, 2})
SIZES = (0, (), (3, 0), (3, -1), 2.0, "33", None, (3, 3, 3, 3), (2.0, 3), ("a", 3), True)
CHOICES = ("other", 1, None, ["gauss"], np.ones(2))

BOX = (
    lambda **options: layers.BoxConv(**{"in_features": 3, "num_boxes": 2, "rngs": RNGS, **options}),
    {
        "in_features": COUNTS,
        "num_boxes": COUNTS,
        "window": (
            5,
            "ab",
            (1, 2, 3, 4),
            (0, 4),
            (np.nan, 2),
            ("a", 1),
            True,
            (None, 1),
            (1j, 1),
        ),
        "example": (5, "ab", (6, 8, 3), jnp.ones((8, 3)), jnp.ones((6, 8, 2))),
        "min_size": POSITIVE,
        "normalize": FLAGS,
        "whole_pixels": FLAGS,
        "channel_axis": (-3.0, 1, -2, "last", None, True, np.ones(2)),
        "dtype": DTYPES,
        "param_dtype": (*DTYPES, None),
        "trainable": FLAGS,
        "theta_init": FUNCTIONS,
        "implementation": ("abacus", 1, ["xla"], True),
        "rngs": KEYS,
    },
)

CONV = {
    "in_features": COUNTS,
    "out_features": COUNTS,
    "kernel_size": SIZES,
    "padding": PADDINGS,
    "use_bias": FLAGS,
    "dtype": DTYPES,
    "param_dtype": (*DTYPES, None),
    "precision": ("exact", 1, ("high",) * 3, (1, 2)),
    "bias_init": FUNCTIONS,
    "rngs": KEYS,
}
PER_AXIS = (*SIZES, (2, 2, 2))
GROUPS = (*COUNTS, 3)


def _conv(kind):
    common = {"in_features": 4, "out_features": 6, "kernel_size": (3, 3), "rngs": RNGS}
    if kind is layers.DclsConv:
        common["kernel_count"] = 3
    return lambda **options: kind(**{**common, **options})


OCTAVE = CONV | {
    "kernel_init": FUNCTIONS,
    "kernel_dilation": PER_AXIS,
    "alpha": ("half", 1.5, np.nan, (0.5,), (0.5, "a"), (0.5,) * 3, None, True, -0.1, [1.5, 0]),
    "pooling": CHOICES,
}

BLOCK = {
    "features": (None, (8, 8, 16, -1), FEATURES._replace(height=0), FEATURES._replace(channels=1.5),
                 FEATURES._replace(channel_axis=-2)),
    "dtype": (*DTYPES, None),
    "rngs": KEYS,
}  # fmt: skip
BRANCH = BLOCK | {"dropout": FRACTIONS}
ENET = BRANCH | {"epsilon": POSITIVE, "use_bias": FLAGS}


def _block(kind, **given):
    common = {"features": FEATURES, "dtype": jnp.float32, "rngs": RNGS, **given}
    return lambda **options: kind(**{**common, **options})


CASES = {
    "BoxConv": BOX,
    "DclsConv": (
        _conv(layers.DclsConv),
        CONV | {
            "kernel_count": [count for count in COUNTS if count is not None],
            "dilation": (3,),
            "strides": PER_AXIS,
            "feature_group_count": GROUPS,
            "version": CHOICES,
            "gain": POSITIVE,
            "share_positions": FLAGS,
            "whole_positions": FLAGS,
            "weight_init": FUNCTIONS,
            "positions_init": FUNCTIONS,
            "sigma_init": FUNCTIONS,
        },
    ),
    "DOConv": (
        _conv(layers.DOConv),
        CONV | {
            "strides": PER_AXIS,
            "kernel_dilation": PER_AXIS,
            "depth_multiplier": (*(count for count in COUNTS if count is not None), 8),
            "feature_group_count": GROUPS,
            "legacy_torch_grouping": FLAGS,
            "weight_init": FUNCTIONS,
            "conv_general_dilated": FUNCTIONS,
        },
    ),
    "OctConv": (
        _conv(layers.OctConv),
        OCTAVE | {
            "strides": (*COUNTS, 3),
            "feature_group_count": GROUPS,
            "conv_general_dilated": FUNCTIONS,
        },
    ),
    "OctConvTranspose": (
        _conv(layers.OctConvTranspose),
        OCTAVE | {"strides": COUNTS, "padding": (*PADDINGS, "REFLECT")},
    ),
    "PerOctave": (
        lambda **options: layers.PerOctave(
            **{"layer": nnx.BatchNorm, "features": 4, "alpha": 0.5, "rngs": RNGS, **options}
        ),
        {"layer": FUNCTIONS, "features": COUNTS, "alpha": FRACTIONS},
    ),
    "InitialBlock": (
        _block(InitialBlock, channels=20), ENET | {"prelu": FLAGS, "channels": (*COUNTS, 16)},
    ),
    "Bottleneck": (
        _block(Bottleneck),
        ENET | {"prelu": FLAGS, "dilation": COUNTS,
                "asymmetric": [count for count in COUNTS if count is not None]},
    ),
    "Downsampling": (
        _block(Downsampling, channels=16),
        ENET | {"prelu": FLAGS, "channels": (*COUNTS, 8), "output_axis": (-2, -3.0, None)},
    ),
    "Upsampling": (_block(Upsampling, channels=8), ENET | {"channels": (*COUNTS, 3)}),
    "NonBottleneck1D": (
        _block(NonBottleneck1D), BRANCH | {"use_bias": FLAGS, "dilation": COUNTS},
    ),
    "TransposedUpsampling": (
        _block(TransposedUpsampling, channels=8), BLOCK | {"use_bias": FLAGS, "channels": COUNTS},
    ),
    "BoxBlock": (
        _block(BoxBlock),
        BRANCH | {"num_boxes": (*COUNTS, 3), "use_bias": FLAGS, "relu": FLAGS, "trainable": FLAGS},
    ),
    "models.create": (
        lambda **options: models.create(
            **{"name": "enet", "num_classes": 3, "image_size": (8, 8), "rngs": RNGS, **options}
        ),
        {
            "name": CHOICES,
            "num_classes": COUNTS,
            "image_size": (8, "88", (8,), (8, 8, 8), (8, 8.0), (0, 8), (8, 12), (None, 8), None),
            "variant": CHOICES,
            "dtype": (*DTYPES, None),
            "rngs": KEYS,
        },
    ),
    "SegmentationNetwork": (
        lambda architecture: models.SegmentationNetwork(architecture, 3, (8, 8), rngs=RNGS),
        {"architecture": (None, "enet", BoxBlock)},
    ),
    "replace_convs": (
        lambda **options: surgery.replace_convs(
            **{"model": nnx.Conv(4, 8, (3, 3), kernel_dilation=2, rngs=RNGS), "variant": "box",
               "rngs": RNGS, **options}
        ),
        {"variant": CHOICES, "where": FUNCTIONS, "rngs": KEYS, "num_boxes": (*COUNTS, 3)},
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "argument"),
    [(name, argument) for name, (_, table) in CASES.items() for argument in table],
)
def test_each_bad_argument_is_named_with_its_value(name, argument):
    build, table = CASES[name]
    for value in table[argument]:
        try:
            with pytest.raises((TypeError, ValueError)) as caught:
                build(**{argument: value})
        except pytest.fail.Exception:
            pytest.fail(f"{argument}={value!r} is accepted")
        message = str(caught.value)
        assert re.match(
            rf"(the \w+ of |each side of .* as |[HW] of |[Gg]ive .*or )?{argument}\b", message
        ), f"{argument}={value!r}: {message}"
        assert "got" in message or "is" in message
        # An error of ours, raised on purpose, and none of Python's or JAX's.
        assert "jaxbox" in str(caught.traceback[-1].path), message


@pytest.mark.parametrize(
    "kind", [layers.DclsConv, layers.DOConv, layers.OctConv, layers.OctConvTranspose]
)
def test_paddings_that_are_accepted_work_in_the_call(kind):
    build = _conv(kind)
    alpha = {"alpha": 0} if "Oct" in kind.__name__ else {}
    paddings = ["same", [1, (np.int64(0), 2)], np.int64(1), "CIRCULAR", ((1, 2), [0, 1])]
    for padding in paddings:
        layer = build(padding=padding, strides=np.int64(1), **alpha)
        assert layer(jnp.ones((8, 8, 4))).shape[-1] == 6
    if kind is layers.OctConvTranspose:
        paddings = ["CAUSAL", "REFLECT"]
    else:
        layer = build(kernel_size=(3,), padding="CAUSAL", **alpha)
        assert layer(jnp.ones((8, 4))).shape == (8, 6)
        paddings = ["CAUSAL"]
    for padding in paddings:
        with pytest.raises(ValueError, match="padding must be one of"):
            build(padding=padding, **alpha)


def test_what_is_allowed_is_not_refused():
    for options in (
        {"in_features": np.int64(3), "window": np.array([6, 8]), "min_size": np.float32(0.5)},
        {"normalize": np.bool_(False), "window": [6.5, 8], "dtype": "bfloat16"},
        {"example": np.zeros((6, 8, 3)), "param_dtype": np.float16},
        {"example": jax.ShapeDtypeStruct((3, 6, 8), int), "channel_axis": -3},
    ):
        layer = BOX[0](**options)
        size = (3, 6, 8) if layer.channel_axis == -3 else (6, 8, 3)
        assert layer(jnp.ones(size)).size == 6 * 6 * 8


def test_a_layer_that_is_built_like_a_convolution_is_refused():
    """`flax.nnx.Conv(3, 12, (3, 3))` has outputs and the size of a kernel in these places."""
    with pytest.raises(TypeError, match=r"window must be given by name.*got 3, 12, \(3, 3\)"):
        layers.BoxConv(3, 12, (3, 3), rngs=RNGS)
    with pytest.raises(TypeError, match="window must be given by name"):
        layers.BoxConv(3, 12, 3, 1, rngs=RNGS)
