"""Weights from and for the authors' PyTorch code."""

import sys

import numpy as np
import pytest
from flax import nnx

from jaxbox import boxes, interop, models
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
        if key.endswith("running_var"):
            state[key] = np.abs(state[key])
        if key.endswith("_max"):  # No bound is below the other one.
            low = key.replace("_max", "_min")
            state[low], state[key] = (
                np.minimum(state[low], state[key]),
                np.maximum(state[low], state[key]),
            )
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


def _without(state, key):
    return {name: value for name, value in state.items() if name != key}


class Tensor:
    """What PyTorch's tensors have of NumPy's interface: less if they are parameters."""

    def __init__(self, array):
        self._array = array
        self.dtype = "torch.float32"

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        return self._array

    def __array__(self, *args, **kwargs):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")


WRAPPERS = {
    "checkpoint": lambda state: {"epoch": 3, "arch": "BoxOnlyENet", "state_dict": state},
    "DataParallel": lambda state: {f"module.{key}": value for key, value in state.items()},
    "both": lambda state: {"state_dict": WRAPPERS["DataParallel"](state)},
    "both, in another": lambda state: {"epoch": 3, "model": WRAPPERS["both"](state)},
    "compiled": lambda state: {f"_orig_mod.model.{key}": v for key, v in state.items()},
    "parameters": lambda state: {key: Tensor(value) for key, value in state.items()},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_is_wrapped_around_a_state_dict(wrapper, state):
    wrapped = WRAPPERS[wrapper](state)
    back = interop.to_pytorch("boxonlyenet", load(wrapped), like=wrapped)
    inner = wrapped.get("model", wrapped)
    inner = inner.get("state_dict", inner)
    assert back.keys() == inner.keys()
    for key, value in zip(back, state.values(), strict=True):
        np.testing.assert_array_equal(back[key], value)


def test_a_network_is_not_written_as_another_one():
    for name in ("enet", "boxenet", "boxerfnet"):
        model = draw(name, np.random.default_rng(0), num_classes=3, variant="pytorch")
        interop.to_pytorch(name, model)
        with pytest.raises(ValueError, match=r"model, as the network 'boxonlyenet' .* missing"):
            interop.to_pytorch("boxonlyenet", model)
        with pytest.raises(ValueError, match=r"name must be one of .*, got 'BoxENet'"):
            interop.to_pytorch("BoxENet", model)
    with pytest.raises(ValueError, match=r"'boxenet' of variant 'pytorch', does not fit"):
        interop.to_pytorch("boxenet", draw("boxenet", np.random.default_rng(0), num_classes=3))
    with pytest.raises(TypeError, match="model must be a SegmentationNetwork, got dict"):
        interop.to_pytorch("boxenet", {})
    with pytest.raises(ValueError, match="not pruned or prepared for inference"):
        interop.to_pytorch("boxenet", models.inference.for_inference(model))


CONV, BOX = "0.conv.weight", "2.main_branch.3"
BAD = [
    (lambda _: {}, ValueError, "state has no classifier"),
    (lambda _: None, TypeError, "state must be a state dict"),
    (lambda _: {1: np.zeros(3)}, TypeError, "names in a state dict must be strings"),
    (lambda state: {f"net.{k}": v for k, v in state.items()}, ValueError, "the first are: net."),
    (lambda state: state | {"99.bias": np.float32(0)}, ValueError, "99.bias must have the shape"),
    (lambda state: state | {CONV: state[CONV] * np.nan}, ValueError, f"{CONV} must be finite"),
    (lambda state: state | {CONV: state[CONV] + 1j}, TypeError, f"{CONV}' is of dtype complex"),
    (lambda state: state | {CONV: state[CONV].astype(str)}, TypeError, f"{CONV}' is of dtype <U"),
    (lambda state: state | {CONV: np.ma.masked_array(state[CONV])}, TypeError, "masked arrays"),
    (lambda state: {"net": state}, TypeError, r"'net' is \{.{,300}$"),
    (lambda state: state | {CONV: "weights.npy"}, TypeError, f"{CONV}' is 'weights.npy'"),
    (lambda state: state | {CONV: [[1], [2, 3]]}, TypeError, f"{CONV}'"),
    (
        lambda state: state | {CONV: state[CONV] + np.float64(1e300)},
        ValueError,
        f"{CONV} has numbers that are too large for float32",
    ),
    (
        lambda state: state | {"0.bn.running_var": -state["0.bn.running_var"]},
        ValueError,
        "0.bn.running_var must not be negative",
    ),
    (
        lambda state: (
            state
            | {f"{BOX}.x_min": state[f"{BOX}.x_max"] + 5, f"{BOX}.x_max": state[f"{BOX}.x_min"]}
        ),
        ValueError,
        r"must have bounds in ascending order; \d+ have not",
    ),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_what_is_no_state_dict_of_the_network(change, error, message, state):
    with pytest.raises(error, match=message):
        load(change(state))


def test_boxes_in_the_wrong_order_can_be_projected(state):
    bad = state | {f"{BOX}.x_min": state[f"{BOX}.x_max"] + 5}
    model = interop.from_pytorch(
        "boxonlyenet", bad, IMAGE_SIZE, invalid_boxes="project", rngs=nnx.Rngs(1)
    )
    theta = model.blocks[2].boxes.theta[...]
    np.testing.assert_array_equal(theta, boxes.project(theta, model.blocks[2].boxes.window))
    back = interop.to_pytorch("boxonlyenet", model, like=bad)
    np.testing.assert_array_equal(back[f"{BOX}.x_min"], bad[f"{BOX}.x_min"])
    with pytest.raises(ValueError, match="invalid_boxes must be one of error, project"):
        interop.from_pytorch("enet", {}, IMAGE_SIZE, invalid_boxes="clip", rngs=nnx.Rngs(1))


def test_the_authors_rounding_is_inward(state):
    """The ceiling of lower bounds and the floor of upper ones, in their coordinates."""
    model = models.inference.round_boxes(load(state), rounding="inward")
    layer = model.blocks[2].boxes
    size = np.array(layer.window) * 0.51
    theirs = {k: state[f"{BOX}.{k}"] for k in ("x_min", "x_max", "y_min", "y_max")}
    limits = {"x": layer.window[0], "y": layer.window[1]}
    checked = 0
    for axis, unit, index in (("x", size[0], 2), ("y", size[1], 0)):
        low, high = theirs[f"{axis}_min"] * unit, theirs[f"{axis}_max"] * unit
        # Boxes that the authors' code would not clip, nor ours.
        fits = (high - low > 1.01) & (low > 0.5 - limits[axis]) & (high < limits[axis] - 0.5)
        found = np.asarray(layer.theta[...])[..., [index, index + 1]]
        np.testing.assert_array_equal(found[..., 0][fits], np.ceil(low)[fits] - 0.5)
        np.testing.assert_array_equal(found[..., 1][fits], np.floor(high)[fits] + 0.5)
        checked += fits.sum()
    assert checked > 10


def test_a_file_needs_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="needs torch"):
        load(tmp_path / "weights.pth")
