"""A single `BoxConv2d`: its state dict, and its formula as in the authors' code."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxbox import boxes, interop, symmetric_boxes
from jaxbox.layers import BoxConv, DOConv
from tests.cases.box_conv import relative_error

WINDOW = (7, 9)  # max_input_h, max_input_w
FACTOR = 1.5


def _state(rng, shape=(3, 2), factor=FACTOR):
    """Boxes of at least 2 pixels inside the window, in the unit of the authors' parameters."""
    state = {}
    for axis, size in zip("xy", WINDOW, strict=True):
        low = rng.uniform(-size + 1, size - 3, shape)
        high = low + rng.uniform(1, size - 2 - low)
        for name, value in (("min", low), ("max", high)):
            state[f"{axis}_{name}"] = (value / (size * factor)).astype(np.float32)
    return state


def _authors_box_conv(x, state, factor, *, normalize=True):
    """Their formula: rows and columns begin at their low edges, and the last pixel is included.

    `x` is `(N, C, H, W)` and the result `(N, C * F, H, W)`, as in PyTorch.
    """
    unit = dict(zip("xy", np.multiply(WINDOW, factor), strict=True))
    pixels = {name: value.astype(np.float64) * unit[name[0]] for name, value in state.items()}
    outputs = []
    for channel, box in np.ndindex(state["x_min"].shape):
        matrices, area = [], 1.0
        for axis, size in zip("xy", x.shape[2:], strict=True):
            low = pixels[f"{axis}_min"][channel, box]
            high = pixels[f"{axis}_max"][channel, box] + 1
            matrix = np.zeros((size, size))
            for i, k in np.ndindex(size, size):
                matrix[i, k] = max(0.0, min(i + high, k + 1.0) - max(i + low, float(k)))
            matrices.append(matrix)
            area *= high - low
        rows, columns = matrices
        outputs.append(rows @ x[:, channel] @ columns.T / (area if normalize else 1.0))
    return np.stack(outputs, 1)


def _images(rng):
    """A step, a ramp, an outlier and zeros, in one batch."""
    images = np.zeros((4, 3, 6, 8))
    images[0, :, 2:] = 1.0
    images[1] = np.arange(8) * rng.normal(size=(3, 1, 1))
    images[2] = rng.normal(size=(3, 6, 8))
    images[2, 1, 3, 4] = 1e3
    return images


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("factor", [8.0, FACTOR])
def test_it_computes_what_the_original_does(factor, normalize, rng):
    state, x = _state(rng, factor=factor), _images(rng)
    layer = interop.box_from_pytorch(
        state, WINDOW, reparametrization_factor=factor, normalize=normalize, channel_axis=-3
    )
    expected = _authors_box_conv(x, state, factor, normalize=normalize)
    assert relative_error(layer(jnp.asarray(x, jnp.float32)), expected) <= 5e-6


def test_x_runs_along_the_height():
    """A box of one column and three rows, in an image with one bright pixel."""
    pixels = {"x_min": 0, "x_max": 2, "y_min": 0, "y_max": 0}
    sizes = dict(zip("xy", WINDOW, strict=True))
    state = {name: np.full((1, 1), value / (8 * sizes[name[0]])) for name, value in pixels.items()}
    layer = interop.box_from_pytorch(state, WINDOW)
    assert layer.theta[0, 0].tolist() == pytest.approx([-0.5, 0.5, -0.5, 2.5], abs=1e-6)
    image = np.zeros((5, 4, 1), np.float32)
    image[3, 1] = 3.0
    expected = np.zeros((5, 4))
    expected[1:4, 1] = 1.0
    np.testing.assert_allclose(layer(jnp.asarray(image))[..., 0], expected, atol=1e-6)


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}]
)
def test_round_trip_is_bit_exact(wrap, rng):
    state = wrap(_state(rng))
    layer = interop.box_from_pytorch(state, WINDOW, reparametrization_factor=FACTOR)
    back = interop.box_to_pytorch(layer, reparametrization_factor=FACTOR, like=state)
    given = state.get("state_dict", state)
    assert back.keys() == given.keys()
    for name, value in given.items():
        np.testing.assert_array_equal(back[name], value, strict=True)
    written = interop.box_to_pytorch(layer, reparametrization_factor=FACTOR)
    for name, value in zip(written, given.values(), strict=True):
        np.testing.assert_allclose(written[name], value, atol=1e-6)


def test_only_what_changed_is_written_anew(rng):
    state = _state(rng)
    layer = interop.box_from_pytorch(state, WINDOW, reparametrization_factor=FACTOR)
    layer.theta[...] = layer.theta[...].at[1, 0, 3].add(0.25)
    back = interop.box_to_pytorch(layer, reparametrization_factor=FACTOR, like=state)
    changed = {(name, *np.argwhere(back[name] != state[name])[0]) for name in state
               if (back[name] != state[name]).any()}  # fmt: skip
    assert changed == {("x_max", 1, 0)}
    moved = (back["x_max"] - state["x_max"])[1, 0] * WINDOW[0] * FACTOR
    assert moved == pytest.approx(0.25, abs=1e-5)


def test_a_symmetric_layer_is_written_as_its_boxes():
    layer = BoxConv(2, 3, window=WINDOW, symmetric=True, rngs=nnx.Rngs(0))
    copy = interop.box_from_pytorch(interop.box_to_pytorch(layer), WINDOW)
    expected = symmetric_boxes.to_boxes(layer.theta[...])
    np.testing.assert_allclose(copy.theta[...], expected, atol=1e-5)


def test_boxes_in_the_wrong_order_are_refused_or_projected(rng):
    state = _state(rng)
    bad = state | {"y_min": state["y_max"] + 1}
    with pytest.raises(ValueError, match=r"must have bounds in ascending order; 6 have not"):
        interop.box_from_pytorch(bad, WINDOW)
    layer = interop.box_from_pytorch(bad, WINDOW, invalid_boxes="project")
    theta = layer.theta[...]
    np.testing.assert_array_equal(theta, boxes.project(theta, WINDOW))
    back = interop.box_to_pytorch(layer, like=bad)
    np.testing.assert_array_equal(back["y_min"], bad["y_min"])


def _changed(**changes):
    return lambda state: {k: v for k, v in (state | changes).items() if v is not None}


BAD = [
    (_changed(x_max=None), ValueError, "state does not fit the layer; missing: x_max"),
    (_changed(weight=np.ones(3)), ValueError, "unknown: weight"),
    (_changed(x_min=np.zeros(3)), ValueError, r"x_min must have the shape \(in_planes"),
    (_changed(y_min=np.zeros((2, 2))), ValueError, r"y_min must have the shape .* = \(3, 2\)"),
    (_changed(y_min=np.full((3, 2), np.nan)), ValueError, "y_min must be finite"),
    (lambda _: 3, TypeError, "state must be a state dict"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_what_is_no_state_dict(change, error, message, rng):
    with pytest.raises(error, match=message):
        interop.box_from_pytorch(change(_state(rng)), WINDOW)


OPTIONS = [
    ({"window": (7,)}, ValueError, r"window must be \(max_input_h, max_input_w\), got \(7,\)"),
    ({"window": 7}, TypeError, "window must be"),
    ({"reparametrization_factor": 0}, ValueError, "reparametrization_factor must be"),
    ({"reparametrization_factor": "8"}, TypeError, "reparametrization_factor must be"),
    ({"invalid_boxes": "clip"}, ValueError, "invalid_boxes must be one of error, project"),
    ({"symmetric": True}, ValueError, "symmetric must be False"),
]


@pytest.mark.parametrize(("options", "error", "message"), OPTIONS)
def test_options_that_it_cannot_have(options, error, message, rng):
    with pytest.raises(error, match=message):
        interop.box_from_pytorch(_state(rng), **({"window": WINDOW} | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strides": 2}, r"strides=\(2, 2\)"),
        ({"padding": "edge"}, "padding='edge'"),
        ({"window": (9,)}, "num_dims=1"),
        ({"window": None}, "layer must have a window"),
    ],
)
def test_layers_that_the_original_has_not(options, message):
    layer = BoxConv(3, 2, **({"window": WINDOW} | options), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=message):
        interop.box_to_pytorch(layer)


def test_other_layers_are_refused(rng):
    with pytest.raises(TypeError, match="layer must be a BoxConv, got DOConv"):
        interop.box_to_pytorch(DOConv(3, 2, (3, 3), rngs=nnx.Rngs(0)))
    layer = interop.box_from_pytorch(_state(rng), WINDOW)
    with pytest.raises(ValueError, match="like must be the state dict"):
        interop.box_to_pytorch(layer, like=_state(rng, (2, 2)))
