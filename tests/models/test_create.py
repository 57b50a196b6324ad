"""The networks of the paper by their names, and what they are made of."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jaxbox import models
from jaxbox.layers import BoxConv
from jaxbox.layers.box import FrozenBoxes
from jaxbox.models.blocks import Downsampling, InitialBlock
from jaxbox.models.cost import cost
from jaxbox.optim import BoxSpec, find_boxes
from tests.cases.networks import IMAGE_SIZE, abstract, create


def find_boxes_in(model):
    leaves = jax.tree.leaves(find_boxes(model), is_leaf=lambda leaf: isinstance(leaf, BoxSpec))
    return [leaf for leaf in leaves if isinstance(leaf, BoxSpec)]


def box_convs(model):
    return [m for _, m in nnx.iter_modules(model) if isinstance(m, BoxConv)]


def logits_of(model, shape):
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    return nnx.eval_shape(lambda model, x: model(x), nnx.clone(model), images)


@pytest.mark.parametrize("name", models.NETWORKS)
def test_logits_for_each_pixel(name):
    logits = logits_of(abstract(name), (2, 16, 40, 3))
    assert (logits.shape, logits.dtype) == ((2, 16, 40, 5), jnp.float32)


@pytest.mark.parametrize("name", models.NETWORKS)
def test_logits_of_one_class_in_bfloat16_for_images_of_another_size(name):
    logits = logits_of(abstract(name, 1, (24, 16), dtype=jnp.bfloat16), (2, 16, 40, 3))
    assert (logits.shape, logits.dtype) == ((2, 16, 40, 1), jnp.bfloat16)


def test_window_of_each_box_layer_is_its_feature_map():
    windows = [layer.window for layer in box_convs(abstract("boxenet", 5, (64, 96)))]
    assert sorted(windows) == sorted([(16, 24)] * 3 + [(8, 12)] * 8 + [(32, 48)])


@pytest.mark.parametrize("name", ["boxenet", "boxerfnet"])
def test_frozen_boxes_are_no_parameters_and_nothing_else_differs(name):
    plain, frozen = abstract(name), abstract(f"{name}-frozen")
    boxes = [layer.theta for layer in box_convs(frozen)]
    assert boxes
    assert all(isinstance(theta, FrozenBoxes) for theta in boxes)
    assert not find_boxes_in(frozen)
    assert len(find_boxes_in(plain)) == len(boxes)
    assert cost(plain, IMAGE_SIZE) == cost(frozen, IMAGE_SIZE)


@pytest.mark.parametrize(
    ("name", "paper", "pytorch"),
    [
        ("erfnet", [0.0, 0.0, 0.0], [0.0, 0.03, 0.3]),
        ("boxerfnet", [0.0, 0.0, 0.0], [0.0, 0.03, 0.3]),
        ("boxonlyenet", [0.0, 0.01, 0.1], [0.0, 0.01, 0.01]),
        ("enet", [0.0, 0.01, 0.1], [0.0, 0.01, 0.1]),
    ],
)
def test_dropout_of_the_three_downsamplings(name, paper, pytorch):
    def rates(variant):
        blocks = abstract(name, variant=variant).blocks
        return [b.dropout.rate for b in blocks if isinstance(b, InitialBlock | Downsampling)]

    assert (rates("paper"), rates("pytorch")) == (paper, pytorch)


def test_unknown_variant_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"one of paper, pytorch, got 'torch'"):
        create("enet", variant="torch")


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"one of .*boxenet.*, got 'unet'"):
        create("unet")


@pytest.mark.parametrize("size", [(0, 8), (20, 24), (24, 20), (-8, 8), (8,)])
def test_image_size_must_fit(size):
    with pytest.raises(ValueError, match=r"[HW] of image_size must|image_size must be"):
        create("boxenet", image_size=size)


def test_num_classes_must_be_positive():
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        create("boxenet", num_classes=0)


@pytest.mark.parametrize("name", models.NETWORKS)
@pytest.mark.parametrize("size", [(20, 24), (24, 20)])
def test_every_network_names_the_axis_that_does_not_fit(name, size):
    axis = "H" if size[0] == 20 else "W"
    with pytest.raises(ValueError, match=f"{axis} of image_size must be a multiple of 8"):
        create(name, image_size=size)
    with pytest.raises(ValueError, match=f"{axis} of images must be a multiple of 8, got 20"):
        logits_of(abstract(name), (2, *size, 3))
