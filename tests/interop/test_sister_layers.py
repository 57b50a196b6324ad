"""Weights of the sister layers' PyTorch code: each formula as in that code."""

import numpy as np
import pytest

from jaxbox import interop
from tests.cases.box_conv import relative_error
from tests.oracles import conv as conv_oracle
from tests.oracles import dcls as dcls_oracle
from tests.oracles import octave as octave_oracle

# The spatial axes along which `P[0]`, `P[1]`, ... move a tap.
AXES = {
    (1, "v0"): (0,), (1, "gauss"): (0,),
    (2, "v0"): (0, 1), (2, "v1"): (1, 0), (2, "max"): (1, 0), (2, "gauss"): (1, 0),
    (3, "v0"): (0, 2, 1), (3, "v1"): (2, 1, 0),
}  # fmt: skip


def _dcls_state(rng, size, version):
    shape = (len(size), 4, 2, 3)
    state = {
        "weight": rng.normal(size=shape[1:]),
        "P": rng.uniform(-1, 1, shape),
        "bias": rng.normal(size=4),
    }
    if version in ("max", "gauss"):
        state["SIG"] = rng.uniform(0.2, 0.8, shape)
    return state


@pytest.mark.parametrize(("rank", "version"), AXES)
def test_dcls_axes(rank, version, rng):
    size = (5, 5, 5)[:rank]
    state = _dcls_state(rng, size, version)
    layer = interop.dcls_from_pytorch(state, size, version, feature_group_count=2)
    kernel = np.zeros((*size, 2, 4))
    axes = AXES[rank, version]
    for index, axis in enumerate(axes):
        assert axes.index(axis) == index
    positions, widths = np.empty_like(state["P"]), np.empty_like(state["P"])
    for index, axis in enumerate(axes):
        positions[axis] = state["P"][index]
        widths[axis] = state["SIG"][index] if "SIG" in state else 0
    kernel = dcls_oracle.kernel(
        *(a.swapaxes(-1, -3) for a in (state["weight"], positions, widths)), size, version
    )
    assert relative_error(layer.kernel, kernel) <= 1e-5
    np.testing.assert_allclose(layer.bias[...], state["bias"], rtol=1e-6)
    plain = interop.dcls_from_pytorch(
        state, size, version, feature_group_count=2, axis_order="array"
    )
    np.testing.assert_allclose(plain.positions[...], state["P"].transpose(0, 3, 2, 1), rtol=1e-6)


def test_rectangular_dcls_kernels_are_as_wrong_as_there():
    """The original's kernel is empty, or off its middle, where position 0 should be the middle."""
    zero = np.zeros((2, 1, 1, 1))
    state = {"weight": np.ones((1, 1, 1)), "P": zero, "SIG": zero}
    kernel = interop.dcls_from_pytorch(state, (3, 9), "max").kernel
    assert (kernel == 0).all()
    kernel = interop.dcls_from_pytorch(state, (3, 9), "gauss").kernel[..., 0, 0]
    assert np.unravel_index(kernel.argmax(), (3, 9)) == (2, 1)
    right = interop.dcls_from_pytorch(state, (3, 9), "gauss", axis_order="array").kernel[..., 0, 0]
    assert np.unravel_index(right.argmax(), (3, 9)) == (1, 4)
    state["SIG"] = np.full_like(zero, 0.23)
    tall = interop.dcls_from_pytorch(state, (7, 1), "gauss").kernel
    np.testing.assert_allclose(tall.sum(), 0.147, atol=5e-4)


def _torch_doconv(state, kernel_size, groups):
    """The original's kernel, reshape by reshape."""
    outputs, own, multiplier = state["W"].shape
    inputs = own * groups
    factor = state["W"].reshape(outputs // groups, inputs, multiplier)
    kernel = np.einsum("ims,ois->oim", state["D"] + state["D_diag"], factor)
    return kernel.reshape(outputs, own, *kernel_size)


@pytest.mark.parametrize("multiplier", [6, 8, 12])
@pytest.mark.parametrize(("inputs", "outputs", "groups"), [(4, 6, 1), (4, 4, 4), (6, 12, 3)])
def test_doconv(inputs, outputs, groups, multiplier, rng):
    eye = np.pad(np.tile(np.eye(6), multiplier // 6), [(0, 0), (0, multiplier % 6)])
    state = {
        "W": rng.normal(size=(outputs, inputs // groups, multiplier)),
        "D": rng.normal(size=(inputs, 6, multiplier)),
        "D_diag": np.broadcast_to(eye, (inputs, 6, multiplier)),
        "bias": rng.normal(size=outputs),
    }
    layer = interop.doconv_from_pytorch(state, (2, 3), feature_group_count=groups, padding=1)
    expected = _torch_doconv(state, (2, 3), groups).transpose(2, 3, 1, 0)
    assert relative_error(layer.kernel, expected) <= 1e-5
    x = rng.normal(size=(5, 4, inputs)).astype(np.float32)
    y = conv_oracle.convolve(x, expected, padding=[(1, 1), (1, 1)], groups=groups) + state["bias"]
    assert relative_error(layer(x), y) <= 1e-5
    meant = interop.doconv_from_pytorch(
        state, (2, 3), feature_group_count=groups, legacy_torch_grouping=False
    )
    agrees = relative_error(meant.kernel, expected) <= 1e-5
    assert agrees == (groups in (1, inputs))


def test_doconv_of_one_tap(rng):
    state = {"W": rng.normal(size=(6, 2, 1))}
    layer = interop.doconv_from_pytorch(state, (1, 1), feature_group_count=2)
    np.testing.assert_allclose(layer.kernel[0, 0], state["W"][..., 0].T, rtol=1e-6)
    assert layer.bias is None


@pytest.mark.parametrize("strides", [1, 2])
def test_octave(strides, rng):
    """3 and 17 channels: the original's rounding of alpha 0.8 of 20."""
    channels, outputs = {"h": 3, "l": 5}, {"h": 3, "l": 17}
    state = {}
    for a in "hl":
        for b in "hl":
            state[f"conv_{a}2{b}.weight"] = rng.normal(size=(outputs[b], channels[a], 3, 3))
            state[f"conv_{a}2{b}.bias"] = rng.normal(size=outputs[b])
    layer = interop.octave_from_pytorch(state, strides=strides, padding=1)
    x = [rng.normal(size=s).astype(np.float32) for s in ((9, 8, 3), (4, 4, 5))]
    kernels = [
        state[f"conv_{path}.weight"].transpose(2, 3, 1, 0) for path in ("h2h", "h2l", "l2h", "l2l")
    ]
    y = octave_oracle.octave_conv(*x, kernels, strides=strides, padding=[(1, 1), (1, 1)])
    for actual, expected, name in zip(layer(tuple(x)), y, "hl", strict=True):
        biases = state[f"conv_h2{name}.bias"] + state[f"conv_l2{name}.bias"]
        assert relative_error(actual, expected + biases) <= 1e-5


def test_arrays_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="missing: P, SIG; unknown: Q"):
        interop.dcls_from_pytorch({"weight": np.ones((1, 1, 1)), "Q": 0}, (3, 3), "gauss")
    with pytest.raises(ValueError, match="missing: D"):
        interop.doconv_from_pytorch({"W": np.ones((1, 1, 9))}, (3, 3))
    with pytest.raises(ValueError, match=r"D must have the shape \(2, 9, 9\), got \(1, 9, 9\)"):
        interop.doconv_from_pytorch({"W": np.ones((1, 2, 9)), "D": np.ones((1, 9, 9))}, (3, 3))
    names = ("conv_h2h.weight", "conv_h2l.weight", "conv_l2l.weight")
    state = dict.fromkeys(names, np.ones((2, 3, 1, 1)))
    with pytest.raises(ValueError, match="missing: conv_l2h"):
        interop.octave_from_pytorch(state)
    with pytest.raises(ValueError, match="the weight of any path"):
        interop.octave_from_pytorch({})
