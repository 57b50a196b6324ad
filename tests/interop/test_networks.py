"""Weights from and for the authors' PyTorch code."""

import sys

import numpy as np
import pytest
from flax import nnx

from jaxbox import interop
from jaxbox.layers import BoxConv
from tests.cases.networks import IMAGE_SIZE, draw


@pytest.fixture(scope="module")
def shapes():
    model = draw("boxonlyenet", np.random.default_rng(0), num_classes=3, variant="pytorch")
    return interop.to_pytorch("boxonlyenet", model)


@pytest.fixture
def state(shapes, rng):
    """A state dict as PyTorch writes it, without any initial values."""
    state = {key: rng.normal(size=v.shape).astype(np.float32) for key, v in shapes.items()}
    for key in shapes:
        if key.endswith("running_mean"):
            count = key.replace("running_mean", "num_batches_tracked")
            state[count] = np.array(rng.integers(1000), np.int64)
    return state


def load(state, name="boxonlyenet"):
    return interop.from_pytorch(name, state, IMAGE_SIZE, rngs=nnx.Rngs(1))


def test_round_trip_is_bit_exact(state):
    back = interop.to_pytorch("boxonlyenet", load(state), like=state)
    assert back.keys() == state.keys()
    for key, value in state.items():
        assert back[key].dtype == value.dtype, key
        np.testing.assert_array_equal(back[key], value, err_msg=key)


def test_boxes_that_changed_are_written_though_the_original_is_given(state):
    model = load(state)
    layer = next(m for _, m in nnx.iter_modules(model) if isinstance(m, BoxConv))
    layer.theta[...] += 0.25
    back = interop.to_pytorch("boxonlyenet", model, like=state)
    changed = {key for key in state if not np.array_equal(back[key], state[key])}
    assert {key.rsplit(".", 1)[1] for key in changed} == {"x_min", "x_max", "y_min", "y_max"}
    assert len(changed) == 4


def test_boxes_are_in_the_authors_units(state):
    """Their x runs along the height, and their box includes its first and last pixel."""
    model = load(state)
    layer = model.blocks[2].boxes
    height, width = layer.window
    x_min, x_max, y_min, y_max = np.moveaxis(np.asarray(layer.theta[...]), -1, 0)
    prefix = "2.main_branch.3"
    unit = 0.51
    np.testing.assert_allclose(y_min, state[f"{prefix}.x_min"] * height * unit - 0.5, atol=1e-5)
    np.testing.assert_allclose(y_max, state[f"{prefix}.x_max"] * height * unit + 0.5, atol=1e-5)
    np.testing.assert_allclose(x_min, state[f"{prefix}.y_min"] * width * unit - 0.5, atol=1e-5)
    np.testing.assert_allclose(x_max, state[f"{prefix}.y_max"] * width * unit + 0.5, atol=1e-5)


def test_kernels_keep_their_meaning(state):
    """A PyTorch convolution is (out, in, height, width), a transposed one (in, out, ...)."""
    model = load(state)
    kernel = np.asarray(model.blocks[0].conv.kernel[...])
    np.testing.assert_array_equal(kernel[0, 2, 1, 5], state["0.conv.weight"][5, 1, 0, 2])
    classifier = np.asarray(model.classifier.kernel[...])
    last = max(int(key.split(".")[0]) for key in state)
    np.testing.assert_array_equal(classifier[0, 1, 9, 2], state[f"{last}.weight"][9, 2, 0, 1])


def test_arrays_that_do_not_fit_are_named(state):
    wrong = {key: value for key, value in state.items() if key != "0.bn.weight"}
    wrong["extra.weight"] = np.zeros(3)
    wrong["0.conv.weight"] = np.zeros((13, 3, 5, 5))
    message = (
        r"missing: 0\.bn\.weight; unknown: extra\.weight; "
        r"of another shape: 0\.conv\.weight is \(13, 3, 5, 5\), must be \(13, 3, 3, 3\)"
    )
    with pytest.raises(ValueError, match=message):
        load(wrong)


def test_a_state_dict_without_a_classifier_is_refused():
    with pytest.raises(ValueError, match="state has no classifier"):
        load({})


def test_a_file_needs_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="needs torch"):
        load(tmp_path / "weights.pth")
