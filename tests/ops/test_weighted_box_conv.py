"""Convolution by weighted boxes, in any number of chunks: against the oracle, and its memory."""

import functools
from unittest import mock

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

import jaxbox
from jaxbox.ops import weighted_box_conv as module
from tests.cases.box_conv import BOUNDS, boxes_off_edges, images
from tests.oracles import weighted_box_conv as oracle

BACKENDS = [
    name for name, missing in jaxbox.backends().items() if missing is None and name != "mosaic_gpu"
]
NAMES = ("forward", "dx", "dtheta", "dweight")


def _chunks(outputs):
    """The context in which so many averages are in memory at a time."""
    return mock.patch.object(module, "_CHUNK_OUTPUTS_ON_CPU", outputs)


@st.composite
def _problems(draw):
    rank = draw(st.sampled_from((1, 2, 2, 3)))
    padding = draw(st.sampled_from(("zeros", "edge", "partial")))
    return {
        "size": tuple(draw(st.integers(1, 17 if rank < 3 else 5)) for _ in range(rank)),
        "images": draw(st.integers(1, 4)),
        "channels": draw(st.integers(1, 9)),
        "boxes": draw(st.integers(1, 3)),
        "outputs": draw(st.integers(1, 4)),
        # All at once; one or several images at a time; groups of channels.
        "chunk": draw(st.sampled_from((2**20, 1000, 100, 1))),
        "channels_first": draw(st.booleans()),
        "options": {
            "strides": tuple(draw(st.integers(1, 2)) for _ in range(rank)),
            "padding": padding,
            "normalize": padding == "partial" or draw(st.booleans()),
        },
        "seed": draw(st.integers(0, 2**32 - 1)),
    }


def _structured(rng, shape):
    """Images with steps, a dark half and zeros."""
    x = np.cumsum(rng.normal(size=shape), axis=-1)
    x[..., : shape[-1] // 2] *= 1e-3
    x[..., -1:] = 0
    return x.astype(np.float32)


def _draw_boxes(rng, shape, size):
    """Boxes with no bound near a pixel edge: `(*shape, 2 * rank)`."""
    pairs = [boxes_off_edges(rng, shape, (pixels, pixels))[..., :2] for pixels in reversed(size)]
    return np.concatenate(pairs, axis=-1)


def _planes(x, theta, weight, *, channels_first, **options):
    """The operation on `(N, C, *S)`: `(N, O, *outputs)`."""
    axis = 1 - x.ndim if channels_first else -1
    moved = jnp.moveaxis(x, 1, axis)
    output = jaxbox.weighted_box_conv(moved, theta, weight, channel_axis=axis, **options)
    return jnp.moveaxis(output, axis, 1)


def _check(problem, implementation):
    rng = np.random.default_rng(problem["seed"])
    shape = (problem["channels"], problem["boxes"])
    x = _structured(rng, (problem["images"], shape[0], *problem["size"]))
    theta = _draw_boxes(rng, shape, problem["size"])
    weight = rng.normal(size=(*shape, problem["outputs"])).astype(np.float32)
    options = problem["options"]
    expected = [oracle.forward(x, theta, weight, **options)]
    g = _structured(rng, expected[0].shape)
    expected += oracle.backward(x, theta, weight, g, **options)
    op = functools.partial(
        _planes,
        channels_first=problem["channels_first"],
        implementation=implementation,
        **options,
    )

    def run(x, theta, weight, g):
        output, pull_back = jax.vjp(op, x, theta, weight)
        return output, *pull_back(g)

    with _chunks(problem["chunk"]):
        actual = jax.jit(run)(x, theta, weight, g)
    # Sums may cancel. Their terms are of these sizes.
    averages = np.abs(oracle.forward(np.abs(x), theta, np.abs(weight), **options)).max()
    products = np.abs(x).max() * np.abs(g).max()
    terms = {
        "forward": averages,
        "dtheta": products * np.abs(weight).sum(-1).max(),
        "dweight": products,
    }
    for name, result, reference in zip(NAMES, actual, expected, strict=True):
        assert result.shape == reference.shape
        scale = max(np.abs(reference).max(), terms.get(name, 0))
        bound = 2 * BOUNDS.get(name, BOUNDS["dx"])
        np.testing.assert_allclose(result, reference, rtol=0, atol=bound * scale + 1e-30)


@given(problem=_problems())
@settings(max_examples=6, deadline=None)
@pytest.mark.parametrize("implementation", BACKENDS)
def test_any_problem(implementation, problem):
    _check(problem, implementation)


@pytest.mark.slow
@given(problem=_problems())
@settings(max_examples=300, deadline=None)
@pytest.mark.parametrize("implementation", BACKENDS)
def test_many_problems(implementation, problem):
    _check(problem, implementation)


def _composed(x, theta, weight):
    maps = jaxbox.box_conv(x, theta)
    return jnp.tensordot(maps, weight.reshape(-1, weight.shape[-1]), (-1, 0))


def _draw(rng, shape, boxes, outputs):
    """Images `(..., H, W, C)`, boxes, and a weight of each of them in each output."""
    channels = shape[-1]
    return (
        images(rng, shape),
        boxes_off_edges(rng, (channels, boxes), shape[-3:-1]),
        rng.normal(size=(channels, boxes, outputs)).astype(np.float32),
    )


@jax.jit
def _squares(x, theta, weight):
    return jnp.sum(jaxbox.weighted_box_conv(x, theta, weight) ** 2)


@pytest.mark.parametrize("chunk", [2**20, 140, 1])
def test_it_is_the_composition(chunk, rng):
    """Forward and in both modes of differentiation, to 2e-6."""
    arguments = _draw(rng, (2, 2, 5, 7, 3), 2, 4)

    def run(op):
        return jax.jvp(op, arguments, arguments), jax.vjp(op, *arguments)[1](op(*arguments))

    with _chunks(chunk):
        actual = jax.jit(lambda: run(jaxbox.weighted_box_conv))()
    expected = jax.jit(lambda: run(_composed))()
    for result, reference in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        scale = np.abs(reference).max()
        np.testing.assert_allclose(result, reference, rtol=0, atol=2e-6 * scale)


@pytest.mark.parametrize("chunk", [2**20, pytest.param(1, marks=pytest.mark.slow)])
def test_both_modes_to_second_order(chunk, rng):
    with jax.enable_x64(True), _chunks(chunk):
        arguments = [each.astype(np.float64) for each in _draw(rng, (2, 3, 4, 2), 2, 2)]
        op = jax.jit(lambda *arguments: jaxbox.weighted_box_conv(*arguments))
        check_grads(op, arguments, order=2, modes=("fwd", "rev"), eps=1e-5, rtol=1e-5)


def test_a_quarter_of_the_memory_of_the_composition():
    """A batch's averages are never in memory together, forward and backward."""
    shapes = [(8, 32, 64, 16), (16, 4, 4), (16, 4, 16)]
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    g = jax.ShapeDtypeStruct((8, 32, 64, 16), jnp.float32)

    def temporaries(op):
        def run(g, *arguments):
            output, pull_back = jax.vjp(op, *arguments)
            return output, pull_back(g)

        memory = jax.jit(run).lower(g, *arguments).compile().memory_analysis()
        return memory.temp_size_in_bytes

    with _chunks(2**17):
        assert temporaries(jaxbox.weighted_box_conv) <= temporaries(_composed) / 4


@pytest.mark.parametrize("explicit", [False, True])
def test_a_batch_on_several_devices(explicit, rng):
    """With a mesh of all devices there are, which may be one."""
    x, theta, weight = _draw(rng, (jax.device_count(), 5, 7, 3), 2, 4)
    kind = AxisType.Explicit if explicit else AxisType.Auto
    mesh = jax.make_mesh((jax.device_count(),), ("device",), axis_types=(kind,))
    with _chunks(1):
        expected = jax.grad(_squares, (0, 1, 2))(x, theta, weight)
        sharded = jax.device_put(x, NamedSharding(mesh, P("device")))
        with jax.set_mesh(mesh):
            actual = jax.jit(jax.grad(_squares, (0, 1, 2)))(sharded, theta, weight)
    for result, reference in zip(actual, expected, strict=True):
        np.testing.assert_allclose(result, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk", [2**20, 1])
def test_vmap_over_boxes_and_weights(chunk, rng):
    x, _, _ = _draw(rng, (2, 5, 7, 3), 2, 4)
    drawn = [_draw(rng, (2, 5, 7, 3), 2, 4)[1:] for _ in range(3)]
    theta, weight = map(np.stack, zip(*drawn, strict=True))
    with _chunks(chunk):
        mapped = jax.vmap(jaxbox.weighted_box_conv, (None, 0, 0))(x, theta, weight)
    expected = np.stack([_composed(x, *pair) for pair in drawn])
    np.testing.assert_allclose(mapped, expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_is_rounded_once(rng):
    x, theta, weight = _draw(rng, (2, 5, 7, 3), 2, 4)
    x = jnp.asarray(x, jnp.bfloat16)
    for chunk in (2**20, 1):
        with _chunks(chunk):
            output = jaxbox.weighted_box_conv(x, theta, weight)
        assert output.dtype == jnp.bfloat16
        exact = np.asarray(_composed(x.astype(jnp.float32), theta, weight))
        error = np.abs(np.asarray(output, np.float32) - exact)
        assert (error <= 2.0**-8 * np.abs(exact) + 1e-6 * np.abs(exact).max()).all()


@pytest.mark.parametrize("channel_axis", [-1, -3])
@pytest.mark.parametrize("chunk", [2**20, 140, 1])
def test_a_bias_is_added_once(chunk, channel_axis, rng):
    x, theta, weight = _draw(rng, (2, 5, 7, 3), 2, 4)
    bias = np.arange(4, dtype=np.float32)

    def op(x, bias):
        moved = jnp.moveaxis(x, -1, channel_axis)
        output = jaxbox.weighted_box_conv(moved, theta, weight, bias, channel_axis=channel_axis)
        return jnp.moveaxis(output, channel_axis, -1)

    with _chunks(chunk):
        output, pull_back = jax.vjp(op, x, bias)
    expected = _composed(x, theta, weight) + bias.reshape(1, 1, 1, 4)
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(pull_back(output)[1], output.sum((0, 1, 2)), rtol=1e-5, atol=1e-4)


def test_a_bias_of_another_shape_is_named(rng):
    with pytest.raises(ValueError, match=r"bias must be \(O,\), \(4,\); got the shape \(3,\)"):
        jaxbox.weighted_box_conv(*_draw(rng, (5, 7, 3), 2, 4), jnp.ones(3))


def test_no_images(rng):
    x, theta, weight = _draw(rng, (0, 5, 7, 3), 2, 4)
    with _chunks(1):
        assert jaxbox.weighted_box_conv(x, theta, weight).shape == (0, 5, 7, 4)


def test_a_symbolic_batch(rng):
    x, theta, weight = _draw(rng, (2, 5, 7, 3), 2, 4)
    symbolic = jax.ShapeDtypeStruct(jax.export.symbolic_shape("n, 5, 7, 3"), jnp.float32)
    with jaxbox.default_implementation("xla"):
        exported = jax.export.export(jax.jit(jaxbox.weighted_box_conv))(symbolic, theta, weight)
    expected = jaxbox.weighted_box_conv(x, theta, weight)
    np.testing.assert_allclose(exported.call(x, theta, weight), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 2), (3, 3, 4), (2, 2, 4), (3, 2, 0), (3, 2, 4, 1)])
def test_weights_of_another_shape_are_named(shape, rng):
    x, theta, _ = _draw(rng, (2, 5, 7, 3), 2, 4)
    with pytest.raises(ValueError, match=r"weight must be \(C, F, O\).* 3 x 2 boxes; got"):
        jaxbox.weighted_box_conv(x, theta, jnp.ones(shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strides": (1, 2, 3)}, "strides must be 2 positive sizes"),
        ({"strides": [2, 0]}, "strides must be 2 positive sizes"),
        ({"padding": "reflect"}, "padding must be one of"),
        ({"padding": "partial", "normalize": False}, "padding='partial' is a way to normalize"),
        ({"channel_axis": -2}, "channel_axis must be -1 or -3"),
        ({"precision": "exact"}, "precision must be"),
        ({"implementation": "none"}, "implementation must be None or one of"),
    ],
)
def test_bad_options_are_named(options, message, rng):
    with pytest.raises(ValueError, match=message):
        jaxbox.weighted_box_conv(*_draw(rng, (5, 7, 3), 2, 4), **options)


def test_arrays_of_another_dtype_are_named(rng):
    x, theta, weight = _draw(rng, (5, 7, 3), 2, 4)
    for name, arguments in {
        "x": (x.astype(int), theta, weight),
        "theta": (x, theta.astype(int), weight),
        "weight": (x, theta, weight.astype(int)),
    }.items():
        with pytest.raises(TypeError, match=f"{name} must be of a real floating dtype"):
            jaxbox.weighted_box_conv(*arguments)
