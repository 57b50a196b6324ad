"""The NNX layer: shapes, dtypes, metadata, and NNX's transformations."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxbox
from jaxbox import boxes, optim
from jaxbox.layers import BoxConv, box
from tests.oracles import box_conv as oracle


def _layer(**kwargs):
    return BoxConv(3, 2, window=(6, 8), rngs=nnx.Rngs(0), **kwargs)


def _x(shape=(2, 6, 8, 3), dtype=jnp.float32):
    return jax.random.normal(jax.random.key(1), shape, dtype)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("shape", [(2, 6, 8, 3), (5, 4, 3), (2, 1, 6, 8, 3)])
def test_it_is_the_op_with_its_own_boxes(shape, normalize):
    layer = _layer(normalize=normalize)
    y = layer(_x(shape))
    assert y.shape == (*shape[:-1], 6)
    np.testing.assert_array_equal(
        y, jaxbox.box_conv(_x(shape), layer.theta[...], normalize=normalize)
    )


def test_whole_pixels():
    layer = _layer(whole_pixels=True)
    y = jaxbox.box_conv(_x(), layer.theta[...], whole_pixels=True)
    np.testing.assert_array_equal(layer(_x()), y)


def _optimizers(rate):
    # Lion's weight decay would double boxes at each step, up to infinity minus infinity.
    lion = optax.lion(rate, weight_decay=0.0)
    return {"sgd": optax.sgd(rate), "adam": optax.adam(rate), "lion": lion}


@pytest.mark.usefixtures("relaxed_promotion")
@pytest.mark.parametrize("window", [(6, 8), None])
@pytest.mark.parametrize("name", _optimizers(0.0))
def test_every_output_is_a_mean_over_a_valid_box_whatever_the_optimizer_does(name, window, rng):
    """Over 200 steps without `optim.constrain`, at any learning rate."""
    layer = BoxConv(2, 2, window=window, rngs=nnx.Rngs(0))
    graph, theta = nnx.split(layer)
    x = jnp.asarray(rng.normal(size=(5, 6, 2)), jnp.float32)
    targets = jnp.asarray(rng.normal(size=(5, 6, 4)), jnp.float32)

    def train(rate):
        tx = _optimizers(rate)[name]

        def loss(theta):
            y = nnx.merge(graph, theta)(x)
            return jnp.mean((y - targets) ** 2), y

        def step(carry, _):
            theta, state = carry
            gradients, y = jax.grad(loss, has_aux=True)(theta)
            updates, state = tx.update(gradients, state, theta)
            used = nnx.merge(graph, theta).valid_theta
            return (optax.apply_updates(theta, updates), state), (used, y)

        return jax.lax.scan(step, (theta, tx.init(theta)), length=200)

    rates = jnp.array([1e-3, 1.0, 1e3, 1e9, 1e30])
    (last, _), (used, outputs) = jax.jit(lambda rates: jax.lax.map(train, rates))(rates)
    assert (boxes.project(last["theta"][...], window) != last["theta"][...]).any()
    np.testing.assert_array_equal(boxes.project(used, window), used)
    assert jnp.isfinite(used).all()
    for index in itertools.product(range(len(rates)), (0, 1, 7, 199)):
        mean = oracle.forward(np.moveaxis(x, -1, 0)[None], used[index])
        expected = np.moveaxis(mean.reshape(4, 5, 6), 0, -1)
        np.testing.assert_allclose(outputs[index], expected, rtol=1e-4, atol=1e-5)


def test_valid_boxes_are_used_bit_for_bit_and_others_get_the_gradient_of_the_nearest_valid_one():
    layer = _layer()
    np.testing.assert_array_equal(layer.valid_theta, layer.theta[...])
    layer.theta[...] = jnp.asarray(
        [
            [[4, -4, 2, 1], [-50, 50, -2, -2]],
            [[-jnp.inf, jnp.inf, -1, 1], [jnp.inf, jnp.inf, -jnp.inf, 0]],
            [[1, 2, -1, 1], [jnp.nan, 1, -1, 1]],
        ],
        jnp.float32,
    )
    valid = boxes.project(jnp.clip(layer.theta[...], -1e9, 1e9), layer.window)
    np.testing.assert_array_equal(layer.valid_theta, valid)

    def loss(layer):
        return jnp.sum(layer(_x()) ** 2)

    actual = nnx.grad(loss)(layer)["theta"][...]
    expected = jax.grad(lambda theta: jnp.sum(jaxbox.box_conv(_x(), theta) ** 2))(valid)
    np.testing.assert_array_equal(actual, expected)
    # A NaN is seen, in the outputs of its own box only.
    assert jnp.isnan(layer(_x())).any((0, 1, 2)).tolist() == [False] * 5 + [True]


def test_the_minimum_size_of_boxes_is_the_layers():
    small = jax.nn.initializers.constant(jnp.array([-0.25, 0.25, -0.25, 0.25]))
    assert jnp.ptp(_layer(theta_init=small).valid_theta) == 1
    layer = _layer(theta_init=small, min_size=0.5)
    np.testing.assert_array_equal(layer.valid_theta, layer.theta[...])


def test_boxes_start_valid_and_random():
    layer = _layer()
    assert layer.theta.shape == (3, 2, 4)
    assert layer.theta.dtype == jnp.float32
    np.testing.assert_array_equal(boxes.project(layer.theta[...], (3, 4)), layer.theta[...])
    other = BoxConv(3, 2, window=(6, 8), rngs=nnx.Rngs(1))
    assert (layer.theta[...] != other.theta[...]).all()


def test_the_stream_of_random_keys_is_params():
    a = BoxConv(3, 2, window=(6, 8), rngs=nnx.Rngs(params=7))
    b = BoxConv(3, 2, window=(6, 8), rngs=nnx.Rngs(0, params=7))
    np.testing.assert_array_equal(a.theta[...], b.theta[...])


@pytest.mark.parametrize("make", [jnp.zeros, lambda shape: jax.ShapeDtypeStruct(shape, jnp.int8)])
def test_window_of_an_example(make):
    layer = BoxConv(3, 2, example=make((5, 6, 8, 3)), rngs=nnx.Rngs(0))
    assert layer.window == (6, 8)
    np.testing.assert_array_equal(layer.theta[...], _layer().theta[...])


def test_without_a_window():
    layer = BoxConv(3, 50, rngs=nnx.Rngs(0))
    assert layer.window is None
    same = BoxConv(3, 50, window=box.DEFAULT_WINDOW, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(layer.theta[...], same.theta[...])


def test_theta_init():
    init = jax.nn.initializers.constant(0.5)
    assert (_layer(theta_init=init).theta[...] == 0.5).all()
    narrow = BoxConv(3, 40, window=(60, 80), theta_init=boxes.initializer((4, 6)), rngs=nnx.Rngs(0))
    assert jnp.abs(narrow.theta[...]).max() <= 3
    assert narrow.window == (60, 80)


def test_dtypes():
    assert _layer()(_x(dtype=jnp.bfloat16)).dtype == jnp.bfloat16
    layer = _layer(dtype=jnp.bfloat16)
    y = layer(_x())
    assert y.dtype == jnp.bfloat16
    assert layer.theta.dtype == jnp.float32
    np.testing.assert_array_equal(y, _layer()(_x().astype(jnp.bfloat16)))
    assert _layer(param_dtype=jnp.bfloat16).theta.dtype == jnp.bfloat16


def test_metadata_survive_what_nnx_does_to_models():
    layer = _layer()
    graphdef, state = nnx.split(layer)
    merged = nnx.merge(graphdef, state)
    abstract = nnx.eval_shape(_layer)
    created = nnx.jit(_layer)()
    for theta in (layer.theta, state["theta"], merged.theta, abstract.theta, created.theta):
        assert theta.get_metadata("tag") == box.BOX_TAG
        assert theta.get_metadata("window") == (6, 8)
    assert abstract.theta.shape == (3, 2, 4)
    assert merged.window == abstract.window == (6, 8)


@pytest.mark.parametrize("graph", [True, False])
def test_jit_and_grad_in_both_modes_of_nnx(graph):
    layer, x = _layer(), _x()

    def loss(layer, x):
        return jnp.sum(layer(x) ** 2)

    def pure_loss(theta, x):
        return jnp.sum(jaxbox.box_conv(x, theta) ** 2)

    value, grads = nnx.jit(nnx.value_and_grad(loss, graph=graph), graph=graph)(layer, x)
    expected, expected_grad = jax.value_and_grad(pure_loss)(layer.theta[...], x)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    grad = nnx.state(grads, nnx.Param)["theta"][...]
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-3, atol=1e-4)


def test_eval_shape_of_a_call():
    y = nnx.eval_shape(lambda layer, x: layer(x), _layer(), _x(dtype=jnp.bfloat16))
    assert (y.shape, y.dtype) == ((2, 6, 8, 6), jnp.bfloat16)


def test_layers_stacked_by_vmap():
    rngs = nnx.Rngs(0).split(4)
    make = nnx.vmap(lambda rngs: BoxConv(3, 2, window=(6, 8), rngs=rngs))
    stacked = make(rngs)
    assert stacked.theta.shape == (4, 3, 2, 4)
    assert stacked.window == (6, 8)
    y = nnx.vmap(lambda layer, x: layer(x), in_axes=(0, None))(stacked, _x())
    for i in range(4):
        np.testing.assert_allclose(
            y[i], jaxbox.box_conv(_x(), stacked.theta[i]), rtol=1e-4, atol=1e-5
        )


def test_bad_arguments():
    rngs = nnx.Rngs(0)
    with pytest.raises(ValueError, match="window or example, not both"):
        BoxConv(3, 2, window=(6, 8), example=_x(), rngs=rngs)
    with pytest.raises(ValueError, match="window must be two positive"):
        BoxConv(3, 2, window=(6, 0), theta_init=jax.nn.initializers.zeros, rngs=rngs)
    for shape in ((6, 3), (6, 8, 4)):
        with pytest.raises(ValueError, match="example must be"):
            BoxConv(3, 2, example=jnp.zeros(shape), rngs=rngs)
    for counts in ((0, 2), (3, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            BoxConv(*counts, rngs=rngs)
    with pytest.raises(ValueError, match="channels"):
        _layer()(_x((6, 8, 4)))
    with pytest.raises(ValueError, match="implementation"):
        _layer(implementation="abacus")(_x())


@pytest.mark.parametrize(
    ("window", "shape"), [((9,), (2, 9, 3)), ((4, 6, 8), (2, 4, 6, 8, 3)), ((6, 8), (2, 6, 8, 3))]
)
def test_the_window_decides_the_number_of_dimensions(window, shape):
    rank = len(window)
    options = {"strides": 2, "padding": "edge"}
    layer = BoxConv(3, 2, window=window, rngs=nnx.Rngs(0), **options)
    assert layer.theta.shape == (3, 2, 2 * rank)
    y = layer(_x(shape))
    assert y.shape == (2, *(-(-size // 2) for size in window), 6)
    np.testing.assert_array_equal(y, jaxbox.box_conv(_x(shape), layer.theta[...], **options))
    first = BoxConv(
        3, 2, window=window, channel_axis=-rank - 1, theta_init=lambda *_: layer.theta[...],
        rngs=nnx.Rngs(0), **options,
    )  # fmt: skip
    moved = jnp.moveaxis(first(jnp.moveaxis(_x(shape), -1, 1)), 1, -1)
    np.testing.assert_allclose(moved, y, atol=1e-6)


@pytest.mark.parametrize("num_dims", [1, 2, 3])
def test_layers_without_a_window_take_the_number_of_dimensions(num_dims):
    layer = BoxConv(4, 2, num_dims=num_dims, rngs=nnx.Rngs(0))
    assert layer.theta.shape == (4, 2, 2 * num_dims)
    shape = (*(5,) * num_dims, 4)
    assert layer(_x(shape)).shape == (*shape[:-1], 8)
    # With as many channels as an image's box has bounds, the axis of the bounds is still found.
    spec = optim.find_boxes(layer)["theta"]
    assert (spec.window, spec.axis) == (None, -1)
    tx = optim.constrain(optax.sgd(1.0), layer)
    theta = nnx.as_pure(nnx.state(layer, nnx.Param))
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, theta), tx.init(theta), theta)
    np.testing.assert_allclose(updates["theta"], -32.0, rtol=1e-6)


def test_a_number_of_dimensions_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"num_dims must be the length of window .*; got 3"):
        _layer(num_dims=3)
    with pytest.raises(ValueError, match="num_dims"):
        BoxConv(3, 2, num_dims=4, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="channel_axis must be -1 or -2"):
        BoxConv(3, 2, num_dims=1, channel_axis=-3, rngs=nnx.Rngs(0))
