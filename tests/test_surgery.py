"""Other layers in place of convolutions: the same function where there is one, the same shapes."""

import dataclasses
import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxbox import layers, models, optim, surgery
from jaxbox.layers import ArrayOctConv
from jaxbox.models.blocks import Bottleneck, BoxBlock, FeatureMap
from jaxbox.models.layer_costs import layer_cost
from jaxbox.models.normalization import BatchNorm

SIZE = (16, 24)


def _conv(**options):
    options = {"kernel_dilation": (2, 1), **options}
    conv = nnx.Conv(4, 6, (3, 2), rngs=nnx.Rngs(0), **options)
    if conv.bias is not None:
        conv.bias[...] = jnp.arange(6.0)
    return conv


@pytest.mark.parametrize(
    ("variant", "more"),
    [
        ("doconv", {}),
        ("doconv", {"depth_multiplier": 8}),
        ("dcls", {}),
        ("dcls", {"kernel_size": (7, 4), "version": "max"}),
        ("octave", {"alpha": 0.0}),
    ],
)
def test_the_same_function(variant, more):
    conv = _conv()
    layer = surgery.replace_convs(conv, variant, rngs=nnx.Rngs(1), **more)
    assert isinstance(layer, (layers.DOConv, layers.DclsConv, ArrayOctConv))
    x = jax.random.normal(jax.random.key(0), (2, 8, 9, 4))
    np.testing.assert_allclose(layer(x), conv(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", ["doconv", "dcls"])
def test_groups_strides_and_no_bias(variant):
    conv = _conv(feature_group_count=2, use_bias=False, strides=(2, 1), padding="VALID")
    layer = surgery.replace_convs(conv, variant, rngs=nnx.Rngs(1))
    x = jax.random.normal(jax.random.key(0), (2, 8, 9, 4))
    np.testing.assert_allclose(layer(x), conv(x), rtol=1e-4, atol=1e-4)
    assert layer.bias is None


def test_octaves_start_with_parts_of_the_kernel():
    """On images that pooling does not change and away from borders, the same function still."""
    conv = _conv(kernel_dilation=2, strides=1)
    layer = surgery.replace_convs(conv, "octave", alpha=0.5, rngs=nnx.Rngs(1))
    x = jnp.broadcast_to(jax.random.normal(jax.random.key(0), (4,)), (24, 24, 4))
    np.testing.assert_allclose(layer(x)[12, 12], conv(x)[12, 12], rtol=1e-4, atol=1e-4)
    assert layer(x[:, :23]).shape == (24, 23, 6)


@pytest.mark.parametrize(
    ("kernel_size", "options"),
    [
        ((7,), {}),
        ((5, 5), {}),
        ((4, 3), {"kernel_dilation": (2, 1), "use_bias": False}),
        ((5, 4), {"padding": [2, (1, 2)]}),
    ],
)
def test_enough_boxes_make_the_same_function(kernel_size, options):
    """As many boxes as pixels can make any kernel; fewer come as near as they can."""
    conv = nnx.Conv(2, 3, kernel_size, rngs=nnx.Rngs(0), **options)
    x = jax.random.normal(jax.random.key(0), (2, *[12] * len(kernel_size), 2))

    def error(num_boxes):
        layer = surgery.replace_convs(
            conv, "boxes", lambda _: True, num_boxes=num_boxes, rngs=nnx.Rngs(1)
        )
        return jnp.abs(layer(x) - conv(x)).mean() / jnp.abs(conv(x)).mean()

    assert error(150) < 1e-3
    assert error(6) < 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strides": 2}, "with stride 1 and one group; got strides 2 and 1 groups"),
        ({"feature_group_count": 2}, "with stride 1 and one group; got strides 1 and 2 groups"),
        ({"padding": "VALID"}, r"padding 'SAME' or \[\(2, 2\), \(0, 1\)\]; got 'VALID'"),
        ({"padding": 1}, "got 1"),
        ({"padding": "CIRCULAR"}, "got 'CIRCULAR'"),
    ],
)
def test_convolutions_that_weighted_boxes_cannot_replace_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        surgery.replace_convs(_conv(**options), "boxes", rngs=nnx.Rngs(1))


def _enet():
    return models.create("enet", 3, SIZE, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("variant", ["box", "boxes", "dcls", "octave", "doconv"])
def test_enets_context_blocks(variant):
    other = nnx.eval_shape(lambda: surgery.replace_convs(_enet(), variant, rngs=nnx.Rngs(1)))
    kinds = {
        "box": BoxBlock,
        "boxes": layers.WeightedBoxConv,
        "dcls": layers.DclsConv,
        "octave": ArrayOctConv,
        "doconv": layers.DOConv,
    }
    found = [m for _, m in nnx.iter_modules(other) if isinstance(m, kinds[variant])]
    assert len(found) == 8  # Dilations 2, 4, 8, 16, twice.
    images = jax.ShapeDtypeStruct((2, *SIZE, 3), jnp.float32)
    assert nnx.eval_shape(lambda m, x: m(x), other, images).shape == (2, *SIZE, 3)
    if variant == "box":
        assert found[0].output[:3] == (2, 3, 128)
        assert found[0].dropout.rate == 0.1
    if variant == "dcls":
        marks = jax.tree.leaves(optim.find_positions(other))
        assert sum(not isinstance(mark, bool) for mark in marks) == 8


def test_the_original_stays_as_it_is():
    model = nnx.Sequential(_conv(), nnx.relu, nnx.Conv(6, 8, (3, 3), rngs=nnx.Rngs(0)))
    other = surgery.replace_convs(model, "doconv", rngs=nnx.Rngs(1))
    assert type(model.layers[0]) is nnx.Conv
    assert other.layers[2] is not model.layers[2]
    np.testing.assert_array_equal(other.layers[2].kernel[...], model.layers[2].kernel[...])


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["dcls", "doconv"])
def test_enet_computes_the_same(variant):
    model = _enet()
    model.eval()
    other = surgery.replace_convs(model, variant, rngs=nnx.Rngs(1))
    images = jax.random.normal(jax.random.key(0), (1, *SIZE, 3))
    call = nnx.jit(lambda m, x: m(x))
    np.testing.assert_allclose(call(other, images), call(model, images), rtol=1e-3, atol=1e-3)


class Pair(typing.NamedTuple):
    first: object
    second: object


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Record:
    conv: object


class Holder(nnx.Module):
    """Anything as an attribute, and a list of references to it."""

    def __init__(self, value):
        self.value = nnx.data(value)


CONTAINERS = {
    "tuple": lambda a, b: (a, b),
    "list": lambda a, b: [a, b],
    "dict": lambda a, b: {"a": a, "b": (b,)},
    "named tuple": Pair,
    "dataclass": lambda a, b: [Record(a), Record(b)],
    "nnx.List": lambda a, b: nnx.List([a, b]),
    "nnx.Dict": lambda a, b: nnx.Dict(a=a, b=b),
    "nnx.Sequential": nnx.Sequential,
    "nested": lambda a, b: [{"a": (a,)}, nnx.List([nnx.Dict(b=nnx.data((b, None)))])],
    "modules in modules": lambda a, b: Holder((Holder(a), Holder({"x": Holder(b)}))),
}


@pytest.mark.parametrize("top", [False, True], ids=["attribute", "top"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_that_nnx_allows(container, top):
    def model(make):
        convs = [make(nnx.Rngs(seed)) for seed in (0, 1)]
        value = CONTAINERS[container](*convs)
        return value if top else Holder(value)

    original = model(_dilated)
    before = nnx.graphdef(original)
    replaced = surgery.replace_convs(original, "doconv", rngs=nnx.Rngs(2))
    assert nnx.graphdef(original) == before
    expected = model(lambda rngs: surgery.replace_convs(_dilated(rngs), "doconv", rngs=rngs))
    assert nnx.graphdef(replaced) == nnx.graphdef(expected)


def _dilated(rngs):
    return nnx.Conv(2, 2, (3, 3), kernel_dilation=2, rngs=rngs)


class Tied(nnx.Module):
    """One convolution by two names, in a tuple and in another module, which refers back."""

    def __init__(self, rngs):
        self.a = self.b = _dilated(rngs)
        self.both = nnx.data((self.a, {"again": self.a}))
        self.block = Holder(self.a)
        self.block.model = self
        self.other = nnx.Conv(2, 2, (1, 1), rngs=rngs)

    def __call__(self, x):
        return self.other(self.b(self.a(x)) + self.both[1]["again"](self.block.value(x)))


@pytest.mark.parametrize("variant", ["box", "dcls", "octave", "doconv"])
def test_what_is_shared_stays_shared(variant):
    model = Tied(nnx.Rngs(0))
    options = {"num_boxes": 2} if variant == "box" else {}
    other = surgery.replace_convs(model, variant, rngs=nnx.Rngs(1), **options)
    layers_ = [other.a, other.b, other.both[0], other.both[1]["again"], other.block.value]
    assert all(layer is other.a for layer in layers_)
    assert not isinstance(other.a, nnx.Conv)
    assert other.block.model is other
    assert isinstance(model.a, nnx.Conv)
    x = jax.random.normal(jax.random.key(0), (8, 8, 2))
    if variant in ("dcls", "doconv"):
        np.testing.assert_allclose(other(x), model(x), rtol=1e-4, atol=1e-4)
    else:
        assert other(x).shape == (8, 8, 2)


def test_a_bottleneck_by_two_names_becomes_one_box_block():
    block = Bottleneck(FeatureMap(8, 12, 16), dilation=2, dtype=jnp.float32, rngs=nnx.Rngs(0))
    other = surgery.replace_convs(Holder((block, [block])), "box", rngs=nnx.Rngs(1))
    assert isinstance(other.value[0], BoxBlock)
    assert other.value[1][0] is other.value[0]


def test_parameters_that_would_be_untied_and_stacks_are_refused():
    rngs = nnx.Rngs(0)
    one, two = _dilated(rngs), nnx.Conv(2, 2, (3, 3), rngs=rngs)
    two.kernel = one.kernel
    with pytest.raises(ValueError, match="shares a parameter"):
        surgery.replace_convs(nnx.Sequential(two, one), "dcls", rngs=rngs)
    stack = nnx.vmap(_dilated)(nnx.Rngs(0).split(3))
    with pytest.raises(ValueError, match=r"a stack of convolutions.* \(3, 3, 3, 2, 2\)"):
        surgery.replace_convs(stack, "dcls", rngs=rngs)


def test_any_convolution_by_boxes():
    model = nnx.Sequential(_conv(), nnx.relu, nnx.Conv(6, 8, (3, 3), rngs=nnx.Rngs(0)))
    other = surgery.replace_convs(
        model, "box", lambda conv: conv.out_features == 8, window=(9, 9), rngs=nnx.Rngs(1)
    )
    assert type(other.layers[0]) is nnx.Conv
    assert other(jnp.ones((9, 9, 4))).shape == (9, 9, 8)


def test_bad_arguments():
    rngs = nnx.Rngs(0)
    with pytest.raises(ValueError, match="variant must be one of box, boxes, dcls, octave, doconv"):
        surgery.replace_convs(_conv(), "wavelet", rngs=rngs)
    with pytest.raises(TypeError, match="where must be a function, got 'all'"):
        surgery.replace_convs(_conv(), "dcls", "all", rngs=rngs)
    with pytest.raises(ValueError, match="it selects none"):
        surgery.replace_convs(nnx.Linear(2, 3, rngs=rngs), "dcls", rngs=rngs)
    with pytest.raises(ValueError, match=r"at least the extent \(5, 2\), got \(3, 3\)"):
        surgery.replace_convs(_conv(), "dcls", kernel_size=(3, 3), rngs=rngs)
    with pytest.raises(ValueError, match="needs one group"):
        surgery.replace_convs(_conv(feature_group_count=2), "octave", rngs=rngs)
    with pytest.raises(ValueError, match="boxes can replace"):
        surgery.replace_convs(_conv(), "box", rngs=rngs)
    with pytest.raises(ValueError, match="mask or input dilation"):
        surgery.replace_convs(_conv(input_dilation=2), "doconv", rngs=rngs)
    for own in ({"preferred_element_type": jnp.float32}, {"promote_dtype": lambda *a, **_: a}):
        with pytest.raises(ValueError, match="promote_dtype or preferred_element_type"):
            surgery.replace_convs(_conv(**own), "doconv", rngs=rngs)
    quantized = _conv(conv_general_dilated=lambda *a, **o: jax.lax.conv_general_dilated(*a, **o))
    folded = layers.DclsConv(4, 4, (5, 5), 3, rngs=rngs).fold()
    for variant in ("dcls", "box", "boxes"):
        with pytest.raises(ValueError, match="'octave' and 'doconv' alone"):
            surgery.replace_convs(quantized, variant, rngs=rngs)
        # What a DCLS layer becomes has a function of ours, which computes what JAX's does.
        surgery.replace_convs(folded, variant, lambda _: True, rngs=rngs)


@pytest.mark.parametrize("variant", ["dcls", "octave", "doconv"])
def test_costs(variant):
    """Of one convolution 4 -> 8, 3x3 with dilation 2, on 16x16 pixels, from its shapes alone."""

    def make():
        conv = nnx.Conv(4, 8, (3, 3), kernel_dilation=2, rngs=nnx.Rngs(0))
        return surgery.replace_convs(conv, variant, rngs=nnx.Rngs(1))

    output, counted = layer_cost(nnx.eval_shape(make), FeatureMap(16, 16, 4))
    assert output[:3] == (16, 16, 8)
    assert layer_cost(make(), FeatureMap(16, 16, 4)) == (output, counted)
    pixels = 16 * 16
    expected = {
        "doconv": (9 * 4 * 8 + 8, pixels * (9 * 4 * 8 + 8)),
        # Weights and two coordinates of each; a kernel of 5x5.
        "dcls": (3 * 9 * 4 * 8 + 8, pixels * (25 * 4 * 8 + 8)),
        # Four paths of 2 -> 4, three of them at a quarter of the pixels; biases; pooling; sums.
        "octave": (
            9 * 4 * 8 + 8,
            9 * 2 * 4 * (pixels + 3 * 64) + 4 * (pixels + 64) + 4 * pixels + 4 * (pixels + 64),
        ),
    }
    assert counted == (*expected[variant], expected[variant][1])


@pytest.mark.parametrize("variant", ["dcls", "octave", "doconv"])
def test_the_form_for_inference(variant):
    def block(seed):
        kind = functools.partial(Bottleneck, dilation=2, dtype=jnp.float32, rngs=nnx.Rngs(seed))
        return kind(FeatureMap(8, 12, 16))

    model = surgery.replace_convs(nnx.Sequential(block(0)), variant, rngs=nnx.Rngs(1))
    for _, norm in nnx.iter_modules(model):
        if isinstance(norm, BatchNorm):
            norm.mean[...] += 0.5
            norm.var[...] *= 2.0
    model.eval()
    x = jax.random.normal(jax.random.key(0), (8, 12, 16))
    expected = model(x)
    model.layers[0].fold()
    np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-4)
    left = [m for _, m in nnx.iter_modules(model) if isinstance(m, BatchNorm)]
    assert not left
