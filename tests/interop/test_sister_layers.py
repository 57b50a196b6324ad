"""Weights of the sister layers' PyTorch code: each formula as in that code."""

import functools

import numpy as np
import pytest
from flax import nnx

from jaxbox import interop, layers
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
    (diagonal,) = (state[name] for name in ("d_diag", "D_diag") if name in state)
    kernel = np.einsum("ims,ois->oim", state["D"] + diagonal, factor)
    return kernel.reshape(outputs, own, *kernel_size)


def _doconv_state(rng, inputs, outputs, groups, multiplier, diagonal="d_diag"):
    """The arrays of a trained `DOConv2d` of 2x3 taps, as its constructor lays them out."""
    eye = np.pad(np.tile(np.eye(6), multiplier // 6), [(0, 0), (0, multiplier % 6)])
    state = {
        "W": rng.normal(size=(outputs, inputs // groups, multiplier)),
        "D": rng.normal(size=(inputs, 6, multiplier)),
        diagonal: np.tile(eye, (inputs, 1, 1)),
        "bias": rng.normal(size=outputs),
    }
    return {name: array.astype(np.float32) for name, array in state.items()}


# The name since the code for PyTorch 1.10, and that before.
@pytest.mark.parametrize("diagonal", ["d_diag", "D_diag"])
@pytest.mark.parametrize("multiplier", [6, 8, 12])
@pytest.mark.parametrize(("inputs", "outputs", "groups"), [(4, 6, 1), (4, 4, 4), (6, 12, 3)])
def test_doconv(inputs, outputs, groups, multiplier, diagonal, rng):
    state = _doconv_state(rng, inputs, outputs, groups, multiplier, diagonal)
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


def _octave_state(rng, inputs=(3, 5), outputs=(3, 17), bias=True):
    """The arrays of a trained `OctConv2d`; paths without channels have empty arrays, as there."""
    channels = {"h": 0, "l": 1}
    state = {}
    for path in ("h2h", "h2l", "l2h", "l2l"):
        ins, outs = inputs[channels[path[0]]], outputs[channels[path[-1]]]
        state[f"conv_{path}.weight"] = rng.normal(size=(outs, ins, 3, 3)).astype(np.float32)
        if bias:
            state[f"conv_{path}.bias"] = rng.normal(size=outs).astype(np.float32)
    return state


def test_octave_paths_without_channels(rng):
    """`alpha` near 1 leaves the high output no channel, and PyTorch keeps an empty path to it."""
    state = _octave_state(rng, inputs=(2, 1), outputs=(0, 3))
    assert state["conv_h2h.weight"].shape == (0, 2, 3, 3)
    layer = interop.octave_from_pytorch(state, padding=1)
    assert (layer.in_features, layer.out_features) == ((2, 1), (0, 3))
    back = interop.octave_to_pytorch(layer, like=state)
    _assert_same(back, state)


def _assert_same(back, state):
    assert list(back) == list(state)
    for name, array in state.items():
        assert back[name].dtype == array.dtype, name
        np.testing.assert_array_equal(back[name], array, err_msg=name)


def _dcls_cases(rng):
    for (rank, version), size in {
        (1, "v0"): (5,), (2, "v0"): (5, 8), (2, "max"): (9, 4), (2, "gauss"): (5, 5),
        (3, "v1"): (5, 3, 4),
    }.items():  # fmt: skip
        state = _dcls_state(rng, size, version)
        assert rank == len(size)
        for order in ("original", "array"):
            yield (
                state,
                functools.partial(
                    interop.dcls_from_pytorch,
                    kernel_size=size,
                    version=version,
                    feature_group_count=2,
                    axis_order=order,
                    gain=3.0,
                ),
                functools.partial(interop.dcls_to_pytorch, axis_order=order),
            )
    yield (
        _dcls_state(rng, (5, 5), "gauss"),
        functools.partial(interop.dcls_from_pytorch, kernel_size=(5, 5), version="v1"),
        interop.dcls_to_pytorch,
    )


def _doconv_cases(rng):
    for diagonal, multiplier in (("d_diag", 6), ("D_diag", 8)):
        yield (
            _doconv_state(rng, 6, 12, 3, multiplier, diagonal),
            functools.partial(
                interop.doconv_from_pytorch, kernel_size=(2, 3), feature_group_count=3
            ),
            interop.doconv_to_pytorch,
        )
    one_tap = functools.partial(interop.doconv_from_pytorch, kernel_size=1)
    yield {"W": rng.normal(size=(6, 2, 1))}, one_tap, interop.doconv_to_pytorch


def _octave_cases(rng):
    for bias in (True, False):
        state = _octave_state(rng, bias=bias)
        yield state, interop.octave_from_pytorch, interop.octave_to_pytorch


@pytest.mark.parametrize("cases", [_dcls_cases, _doconv_cases, _octave_cases])
def test_the_way_back_is_bit_exact(cases, rng):
    for state, read, write in cases(rng):
        for dtype in (np.float32, np.float16, np.float64):
            given = {f"module.{name}": array.astype(dtype) for name, array in state.items()}
            layer = read({"state_dict": given})
            _assert_same(write(layer, like=given), given)
        # Without it, a layer of the same kernel and biases, with zeros for unused arrays.
        layer = read(state)
        written = read(write(layer))
        for name, value in nnx.to_flat_state(nnx.state(layer)):
            other = written
            for key in name:
                other = getattr(other, key)
            assert relative_error(other[...], value[...]) <= 1e-6
        # What changes is written, and nothing else.
        changed = read(state)
        parameter = next(
            getattr(changed, name) for name in ("weight", "high_to_high") if hasattr(changed, name)
        )
        parameter[...] = parameter[...].at[0].add(1.0)
        back = write(changed, like=state)
        differing = {name for name in state if not np.array_equal(back[name], state[name])}
        assert differing <= {"weight", "W", "conv_h2h.weight"}
        assert len(differing) == 1


def test_changed_biases_of_octaves_and_deviations_are_written(rng):
    state = _octave_state(rng)
    layer = interop.octave_from_pytorch(state)
    layer.low_bias[...] = layer.low_bias[...].at[2].set(7.0)
    back = interop.octave_from_pytorch(interop.octave_to_pytorch(layer, like=state))
    np.testing.assert_array_equal(back.low_bias[...], layer.low_bias[...])
    np.testing.assert_array_equal(back.high_bias[...], layer.high_bias[...])
    state = _doconv_state(rng, 4, 6, 1, 8)
    state["d_diag"] = state["d_diag"] * 2
    layer = interop.doconv_from_pytorch(state, (2, 3))
    layer.deviation[...] = layer.deviation[...].at[0, 0, 0, 0].set(0.5)
    written = interop.doconv_to_pytorch(layer, like=state)
    assert (written["D"] != state["D"]).sum() == 1
    back = interop.doconv_from_pytorch(written, (2, 3))
    np.testing.assert_allclose(back.deviation[...], layer.deviation[...], rtol=1e-6)


def test_biases_whose_sum_exceeds_their_dtype(rng):
    state = {name: array.astype(np.float16) for name, array in _octave_state(rng).items()}
    for name in ("conv_h2h.bias", "conv_l2h.bias"):
        state[name] = np.full_like(state[name], 4e4)
    layer = interop.octave_from_pytorch(state)
    np.testing.assert_array_equal(layer.high_bias[...], 2 * state["conv_h2h.bias"].astype(float))
    _assert_same(interop.octave_to_pytorch(layer, like=state), state)


def _bad_octaves(rng):
    state = _octave_state(rng)
    short = state | {"conv_l2h.bias": np.ones(1, np.float32)}
    yield short, r"conv_l2h.bias must have the shape \(O,\) = \(3,\), got \(1,\)"
    yield state | {"conv_h2l.bias": np.float32(1)}, r"got \(\)"
    yield state | {"conv_h2l.weight": np.ones((17, 4, 3, 3))}, "the channels of the other paths"
    yield state | {"conv_h2l.weight": np.ones((17, 3, 5, 5))}, "the kernel size of the other paths"
    yield state | {"conv_h2l.weight": np.ones((17, 3, 3))}, r"\(O, I / groups, height, width\)"
    yield {k: v for k, v in state.items() if k != "conv_h2l.weight"}, "missing: conv_h2l.weight"
    yield {"conv_h2h.weight": np.ones((0, 0, 3, 3))}, "the weight of any path"
    yield {f"layer1.0.{k}": v for k, v in state.items()}, "unknown: layer1"


def _bad_dcls(rng):
    state = _dcls_state(rng, (3, 3), "gauss")
    far = state["P"].copy()
    far[1, 0, 0, 0] = 2.5
    yield state | {"P": far}, r"P\[1\] must be in \[-1, 1\].* the farthest is 2.5"
    yield state | {"P": np.ones((1, 4, 2, 3))}, r"P must have the shape .* = \(2, 4, 2, 3\)"
    yield state | {"P": np.ones((2, 4, 2))}, "P must have the shape"
    yield state | {"SIG": np.ones((2, 1, 2, 3))}, "SIG must have the shape"
    yield state | {"bias": np.float64(1)}, r"bias must have the shape \(O,\) = \(4,\), got \(\)"
    yield state | {"weight": np.ones((0, 2, 3))}, r"weight must have the shape .* \(0, 2, 3\)"
    yield state | {"P": state["P"] * np.nan}, "P must be finite; 48 of its 48"
    yield {f"stem.{k}": v for k, v in state.items()}, "names of one layer only"


def _bad_doconv(rng):
    state = _doconv_state(rng, 4, 6, 1, 6)
    yield state | {"D_diag": state["d_diag"]}, "both d_diag and D_diag"
    yield state | {"d_diag": state["d_diag"][0]}, "d_diag must have the shape"
    yield state | {"bias": np.ones(5)}, r"bias must have the shape \(O,\) = \(6,\), got \(5,\)"
    yield state | {"W": np.ones((6, 0, 6))}, r"W must have the shape .* got \(6, 0, 6\)"
    yield state | {"W": np.ones((6, 4, 5))}, "D_mul at least the 6 taps"
    yield state | {"D": state["D"] / 0}, "D must be finite"


BAD = {
    "octave": (_bad_octaves, interop.octave_from_pytorch),
    "dcls": (_bad_dcls, lambda state: interop.dcls_from_pytorch(state, (3, 3), "gauss")),
    "doconv": (_bad_doconv, lambda state: interop.doconv_from_pytorch(state, (2, 3))),
}


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize("layer", BAD)
def test_state_dicts_that_are_refused(layer, rng):
    states, read = BAD[layer]
    for state, message in states(rng):
        with pytest.raises(ValueError, match=message):
            read(state)
    for state in (None, [1], {"W": "a"}, {"W": 1j}, {1: 2}, {"W": [None]}):
        with pytest.raises(TypeError, match=r"state must be|names in a state dict"):
            read(state)


def test_other_arguments_that_are_refused(rng):
    state = _dcls_state(rng, (3, 3), "gauss")
    for size in ((3, 3, 3, 3), (3, 0), ()):
        with pytest.raises(ValueError, match="kernel_size must be 1 to 3 positive sizes"):
            interop.dcls_from_pytorch(state, size, "gauss")
        with pytest.raises(ValueError, match="kernel_size must be 1 to 3 positive sizes"):
            interop.doconv_from_pytorch(state, size)
    with pytest.raises(TypeError, match="kernel_size must be"):
        interop.dcls_from_pytorch(state, "33", "gauss")
    with pytest.raises(ValueError, match="version must be one of v0, v1, max, gauss"):
        interop.dcls_from_pytorch(state, (3, 3), ["gauss"])
    with pytest.raises(TypeError, match="feature_group_count must be an integer"):
        interop.octave_from_pytorch(state, feature_group_count=1.0)
    for write, name in (
        (interop.dcls_to_pytorch, "DclsConv"),
        (interop.doconv_to_pytorch, "DOConv"),
        (interop.octave_to_pytorch, "OctConv"),
    ):
        with pytest.raises(TypeError, match=f"layer must be an? {name}, got NoneType"):
            write(None)
    layer = interop.dcls_from_pytorch(state, (3, 3), "gauss")
    with pytest.raises(ValueError, match=r"like must be the state dict|bias must have"):
        interop.dcls_to_pytorch(
            layer, like=_dcls_state(rng, (3, 3), "gauss") | {"bias": np.ones(3)}
        )
    shared = layers.DclsConv(2, 3, 5, 2, share_positions=True, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="share_positions"):
        interop.dcls_to_pytorch(shared)


def test_arrays_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="missing: P, SIG; unknown: Q"):
        interop.dcls_from_pytorch({"weight": np.ones((1, 1, 1)), "Q": 0}, (3, 3), "gauss")
    with pytest.raises(ValueError, match="missing: D"):
        interop.doconv_from_pytorch({"W": np.ones((1, 1, 9))}, (3, 3))
    with pytest.raises(ValueError, match=r"D must have .* = \(2, 9, 9\), got \(1, 9, 9\)"):
        interop.doconv_from_pytorch({"W": np.ones((1, 2, 9)), "D": np.ones((1, 9, 9))}, (3, 3))
    names = ("conv_h2h.weight", "conv_h2l.weight", "conv_l2l.weight")
    state = dict.fromkeys(names, np.ones((2, 3, 1, 1)))
    with pytest.raises(ValueError, match="missing: conv_l2h"):
        interop.octave_from_pytorch(state)
    with pytest.raises(ValueError, match="the weight of any path"):
        interop.octave_from_pytorch({})
