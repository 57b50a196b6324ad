"""The boxes of a run: recorded step by step, read back, dropped where steps are run again."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common.program import UserError
from experiments.segmentation.training.box_history import BoxHistory, read_box_history
from experiments.segmentation.training.box_statistics import box_sizes
from experiments.segmentation.training.records import RecentLoss
from jaxbox.analysis import BoxLayer


@pytest.fixture
def layers(rng):
    return [
        BoxLayer(
            f"box layer {number}",
            jnp.asarray(rng.normal(size=(3, 2, 4)), jnp.float32),
            (8, 16),
            jnp.asarray(rng.random((3, 2)), jnp.float32),
        )
        for number in (1, 2)
    ]


def test_boxes_are_read_back_and_later_ones_dropped(tmp_path, layers):
    history = BoxHistory(tmp_path, 0)
    for step in (0, 2, 10):
        history.add(step, [layer._replace(theta=layer.theta + step) for layer in layers])
    BoxHistory(tmp_path, 2)
    read = read_box_history(tmp_path)
    assert list(read) == [0, 2]
    for layer, moment in zip(layers, read[2], strict=True):
        np.testing.assert_array_equal(moment.theta, np.asarray(layer.theta + 2))
        np.testing.assert_array_equal(moment.importance, np.asarray(layer.importance))


def test_a_network_without_boxes_has_no_history(tmp_path):
    BoxHistory(tmp_path, 0).add(0, [])
    assert list(tmp_path.iterdir()) == []
    assert read_box_history(tmp_path) == {}


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", b"x" * 100, b"\x93NUMPY"])
def test_a_damaged_file_is_named(tmp_path, layers, damage):
    BoxHistory(tmp_path, 0).add(5, layers)
    (tmp_path / "boxes/5.npz").write_bytes(damage)
    with pytest.raises(UserError, match=r"5\.npz is damaged"):
        read_box_history(tmp_path)


def test_sizes_of_boxes_are_means_of_their_layer(layers):
    theta = jnp.array([[[0.0, 2.0, 0.0, 1.0]], [[-1.0, 3.0, 0.0, 5.0]]])
    layer = BoxLayer("box layer 1", theta, (8, 16), jnp.array([[1.0], [3.0]]))
    assert box_sizes([layer]) == {
        "box_width/box layer 1": 3.0,
        "box_height/box layer 1": 3.0,
        "box_at_minimum/box layer 1": 0.0,
        "box_importance/box layer 1": 2.0,
    }
    assert len(box_sizes(layers)) == 8


def test_recent_loss_is_of_the_steps_since_it_was_read():
    recent = RecentLoss(100, 50.0)
    assert recent.read(110, 60.0) == 1.0
    assert recent.read(112, 66.0) == 3.0
