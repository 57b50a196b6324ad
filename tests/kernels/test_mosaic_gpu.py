"""What is particular to the Mosaic GPU kernels, interpreted or on a GPU; and what is lowered."""

import functools
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbox
from jaxbox import boxes
from jaxbox_kernels.backend import Options
from jaxbox_kernels.common import powers_of_two
from jaxbox_kernels.mosaic_gpu import box_params, forward, row_cache, tiles
from tests.cases import contract
from tests.cases.backends import BACKENDS, EXACT, run
from tests.cases.box_conv import BOUNDS, arguments, assert_close, relative_error
from tests.oracles import box_conv as oracle


@pytest.fixture(params=["mosaic_interpreted", pytest.param("mosaic_gpu", marks=pytest.mark.gpu)])
def backend(request):
    """The backend, where it runs."""
    if request.param == "mosaic_gpu" and jax.default_backend() != "gpu":
        pytest.skip("needs a GPU of compute capability 9 or 10")
    tested = BACKENDS[request.param]
    with tested.machine():
        yield tested.backend


@functools.partial(jax.jit, static_argnames=("backend", "options"))
def _dx(theta, g, *, backend, options=EXACT):
    return backend.backward(None, theta, g, options)[0]


@functools.partial(jax.jit, static_argnames=("backend", "options"))
def _output(x, theta, *, backend, options=EXACT):
    return backend.forward(x, theta, options)


def test_rows_in_several_parts(backend, rng):
    x, theta, g = arguments(rng, (2 * tiles._LEAST_ROWS, 5), channels=1, number=2)
    assert_close(_dx(theta, g, backend=backend), oracle.backward(x, theta, g)[0], "dx")


@pytest.fixture
def cache_of_four_rows(monkeypatch):
    """A row cache that holds four rows."""
    monkeypatch.setattr(row_cache, "_ROWS", 4)
    # JAX must not find what it traced with a larger cache, nor later with this one.
    forward.filter_planes.clear_cache()
    yield
    forward.filter_planes.clear_cache()


@pytest.mark.usefixtures("cache_of_four_rows")
@pytest.mark.parametrize("whole", [False, True])
def test_rows_of_low_boxes_alone_are_cached(backend, whole, rng):
    x, theta, _ = arguments(rng, (11, 5), channels=1, number=4)
    # Up to 4 rows fit.
    theta[0, :, 2] = [-9.3, -1.2, 0.6, -7.3]
    theta[0, :, 3] = theta[0, :, 2] + [1.4, 2.9, 3.2, 9.9]
    if whole:
        theta = np.asarray(boxes.round_to_pixels(theta))
    output = jax.jit(functools.partial(backend.forward, options=Options(whole_pixels=whole)))
    assert_close(output(x, theta), oracle.forward(x, theta), "forward")


def test_gradient_on_whole_pixels_needs_no_image(backend, rng):
    x, theta, g = arguments(rng, (5, 7))
    theta = np.asarray(boxes.round_to_pixels(theta))
    dx = _dx(theta, g, backend=backend, options=Options(whole_pixels=True))
    assert_close(dx, oracle.backward(x, theta, g)[0], "dx")


def test_swapped_bounds_change_the_sign(backend, rng):
    x, theta, g = arguments(rng, (5, 7), channels=1)
    theta = theta[..., [1, 0, 2, 3]]  # Along x alone: a second sign would hide the first.
    options = Options(normalize=False)
    results = run(x, theta, g, backend=backend, options=options)
    expected = (
        oracle.forward(x, theta, normalize=False),
        *oracle.backward(x, theta, g, normalize=False),
    )
    for result, kind, exact in zip(results, BOUNDS, expected, strict=True):
        assert_close(result, exact, kind)


@pytest.mark.usefixtures("cache_of_four_rows")
def test_bright_rows_leave_nothing_behind_beside_dark_ones(backend, rng):
    """Of two boxes, one is too tall for the row cache; the other is a sliver across an edge."""
    x = rng.uniform(1, 2, (1, 1, 24, 9)).astype(np.float32)
    x[..., :9, :] *= 1e4
    x[..., 4] *= 1e4
    theta = np.array([[[-2.5, 1.5, -3.3, 2.2], [0.49999, 0.50001, -0.2, 0.9]]], np.float32)
    output = jax.jit(functools.partial(backend.forward, options=EXACT))
    magnitudes = oracle.forward(x, theta)  # All pixels are positive.
    assert (np.abs(output(x, theta) - magnitudes) <= 1e-6 * magnitudes).all()


def test_lengths_of_slivers_keep_their_digits():
    """A box across a pixel edge has two lengths, which 1 less a fraction would round away."""
    low, high = np.float32(0.49999), np.float32(0.50001)
    tiny = jnp.array([[[low, high, 0, 1e-30]]], jnp.float32)
    along_x, along_y = box_params.of_boxes(tiny, (5, 7), normalize=True)
    lengths = np.array([0.5 - float(low), float(high) - 0.5])
    weights = np.ravel([along_x.low_weight, along_x.high_weight])
    np.testing.assert_allclose(weights, lengths / lengths.sum(), rtol=1e-6)
    assert (along_y.low_weight, along_y.high_weight, along_y.scale) == (0, 1, 1)


@pytest.mark.parametrize("magnitude", [1.2e-38, 1e-35, 1.0, 2.0, 1e35, 3.4e38])
def test_units_are_powers_of_two_below_magnitudes(magnitude):
    exponent = powers_of_two.exponent(jnp.float32(magnitude))
    unit = float(powers_of_two.power(exponent))
    assert np.frexp(unit)[0] == 0.5
    assert unit <= float(np.float32(magnitude)) < 2 * unit
    first, second = map(float, powers_of_two.quotient(19, exponent))
    assert first * second * unit == 2**19
    assert float(powers_of_two.inverse(exponent)) * unit in (1, 2)


def test_what_is_not_finite_reaches_other_strips(backend, rng):
    x, theta, g = arguments(rng, (5, 131), batch=1, channels=1, number=2)
    theta[0, 0] = [-3.2, 5.5, -0.5, 1.2]
    x[..., 1, 126], x[..., 3, 129], x[..., 4, 3] = np.inf, -np.inf, np.nan
    g[:, :, 0, 2, 127], g[:, :, 1, 0, 0] = np.nan, np.inf
    results = run(x, theta, g, backend=backend)
    figures = contract.figures(results, contract.expect(x, theta, g, normalize=True))
    assert not contract.broken(figures, contract.BOUNDS | {"over zeros": 1e-6})


def test_bfloat16(backend, rng):
    x, theta, g = arguments(rng, (5, 7), channels=1)
    x, g = jnp.asarray(x, jnp.bfloat16), jnp.asarray(g, jnp.bfloat16)
    output, dx, dtheta = run(x, theta, g, backend=backend)
    assert output.dtype == dx.dtype == jnp.bfloat16
    assert dtheta.dtype == jnp.float32
    x, g = np.asarray(x, np.float32), np.asarray(g, np.float32)
    exact_dx, exact_dtheta = oracle.backward(x, theta, g)
    # The results are rounded to 8 bits, the sums are not.
    assert relative_error(output, oracle.forward(x, theta)) <= 2**-8
    assert relative_error(dx, exact_dx) <= 2**-8
    assert_close(dtheta, exact_dtheta, "dtheta")


@pytest.mark.parametrize("maps_boxes", [False, True])
def test_vmap_joins_planes(backend, maps_boxes, rng):
    x, theta, g = arguments(rng, (5, 7), batch=2, number=1)
    if maps_boxes:
        theta = np.stack([theta, theta[::-1]])

    def results(x, theta, g):
        output, dx, dtheta = run(x[None], theta, g[None], backend=backend)
        return output[0], dx, dtheta

    axes = (0, 0 if maps_boxes else None, 0)
    mapped = jax.vmap(results, axes)(x, theta, g)
    for image in range(2):
        boxes_of_image = theta[image] if maps_boxes else theta
        exact = (
            oracle.forward(x[image, None], boxes_of_image)[0],
            *oracle.backward(x[image, None], boxes_of_image, g[image, None]),
        )
        for result, kind, expected in zip(mapped, BOUNDS, exact, strict=True):
            assert_close(result[image], expected, kind)


_X = jnp.ones((2, 8, 9, 2), jnp.float32)
_THETA = jnp.tile(jnp.array([-1.25, 1.5, -1.0, 2.0]), (2, 3, 1))
_op = functools.partial(jaxbox.box_conv, implementation="mosaic_gpu")


def _gradients(x, theta):
    return jax.grad(lambda x, theta: jnp.sum(_op(x, theta) ** 2), (0, 1))(x, theta)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_exports_for_cuda(dtype):
    x = jax.ShapeDtypeStruct(_X.shape, dtype)
    exported = jax.export.export(jax.jit(_gradients), platforms=["cuda"])(x, _THETA)
    assert exported.platforms == ("cuda",)
    assert [aval.shape for aval in exported.out_avals] == [_X.shape, _THETA.shape]
    assert [aval.dtype for aval in exported.out_avals] == [dtype, jnp.float32]
    # Prefix sums of rows, the filter, its adjoint, inner products.
    assert exported.mlir_module().count("stablehlo.custom_call @mosaic_gpu") == 4


# They consist of the kernels that gradients have, of which both dtypes are lowered above.
@pytest.mark.parametrize("dtype", [pytest.param(jnp.float32, marks=pytest.mark.slow), jnp.bfloat16])
def test_second_derivatives_lower_for_cuda(dtype):
    def energy(x, theta):
        return sum(jnp.sum(gradient.astype(jnp.float32) ** 2) for gradient in _gradients(x, theta))

    x = jax.ShapeDtypeStruct(_X.shape, dtype)
    jax.jit(jax.grad(energy, (0, 1))).trace(x, _THETA).lower(lowering_platforms=("cuda",))


def _count_kernels(function, *arguments):
    lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",))
    return lowered.as_text().count("stablehlo.custom_call @mosaic_gpu")


def test_vmap_adds_no_kernel():
    mapped = jax.vmap(_op, (0, None))
    assert _count_kernels(mapped, _X, _THETA) == _count_kernels(_op, _X, _THETA) == 2


def test_layers_of_one_shape_are_lowered_once():
    """Mosaic takes a second or more for each kernel that it lowers, and networks have many."""

    def two_layers(x, theta):
        return _op(_op(x, theta)[..., :2], theta)

    assert _count_kernels(two_layers, _X, _THETA) == 2


def test_large_images_are_not_taken_one_by_one():
    x = jax.ShapeDtypeStruct((8, 64, 128, 16), jnp.float32)
    theta = jax.ShapeDtypeStruct((16, 4, 4), jnp.float32)
    lowered = jax.jit(_op).trace(x, theta).lower(lowering_platforms=("cuda",))
    # One call of the kernel filters the planes of all images.
    assert f"-> tensor<{8 * 16 * 4}x64x128xf32>" in lowered.as_text()


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="for machines without a GPU")
def test_cannot_run_without_a_gpu():
    reason = "implementation='mosaic_gpu' cannot serve: it must be .* CUDA.*; got a program for cpu"
    with pytest.raises(ValueError, match=reason):
        _op(_X, _THETA)
    with pytest.raises(ValueError, match=reason):
        jax.jit(jax.vmap(_gradients, (0, None)))(_X[None], _THETA)


def test_picks_xla_without_a_gpu():
    lowered = jax.jit(jaxbox.box_conv).lower(_X, _THETA)
    assert "mosaic" not in lowered.as_text()


def test_picks_by_platform_with_a_gpu(monkeypatch):
    class Device:
        compute_capability = "9.0"
        device_kind = "abacus"

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")

    def gradients(x, theta):
        return jax.grad(lambda x, theta: jnp.sum(jaxbox.box_conv(x, theta) ** 2), (0, 1))(x, theta)

    traced = jax.jit(gradients).trace(_X, _THETA)
    for platform, kernels in (("cuda", 4), ("cpu", 0)):
        lowered = traced.lower(lowering_platforms=(platform,)).as_text()
        assert lowered.count("stablehlo.custom_call @mosaic_gpu") == kernels


@pytest.mark.parametrize("capability", ["8.0", "12.0", "gfx90a"])
def test_other_gpus(monkeypatch, capability):
    class Device:
        compute_capability = capability
        device_kind = "abacus"

    monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
    with pytest.raises(
        ValueError, match=rf"'mosaic_gpu'.*capability 9 or 10.*{capability} \(abacus"
    ):
        _op(_X, _THETA)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    jaxbox.box_conv(_X, _THETA)  # by XLA


@pytest.mark.parametrize(
    ("shape", "dtype", "reason"),
    [
        ((1, 4, 4, 2), jnp.float16, "float32 or bfloat16; got float16"),
        ((0, 4, 4, 2), jnp.float32, "must not be empty"),
        ((1, 1, 50_000, 2), jnp.float32, "shared memory; got 50000 pixels"),
        ((2**17, 64, 128, 2), jnp.float32, r"2\*\*31"),
    ],
)
def test_unsuitable_arguments(shape, dtype, reason):
    with pytest.raises(ValueError, match=rf"implementation='mosaic_gpu' cannot serve: .*{reason}"):
        jax.eval_shape(_op, jax.ShapeDtypeStruct(shape, dtype), _THETA)


def test_each_device_works_on_its_own_planes():
    # A process has as many devices as it began with. XLA stands in for kernels: these cannot be
    # interpreted on several devices.
    program = """
        from dataclasses import replace
        import jax
        import jax.numpy as jnp
        from jax.sharding import AxisType, NamedSharding, PartitionSpec
        import jaxbox
        from jaxbox_kernels import registry, xla
        from jaxbox_kernels.common.planewise import planewise

        xla = xla.load()

        def forward(x, theta, options):
            return planewise(lambda theta, x: xla.forward(x, theta, options), theta, x)

        def backward(x, theta, g, options):
            def dx(theta, g):
                return xla.backward(None, theta, g, options)[0]

            _, dtheta = xla.backward(x, theta, g, replace(options, needs_dx=False))
            return planewise(dx, theta, g), dtheta

        choose = registry.choose
        by_planes = replace(xla, forward=forward, backward=backward, maps_images=False)
        registry.choose = lambda name, *given, **more: (
            choose(name, *given, **more) if name else by_planes
        )

        def results(x, theta, implementation=None):
            def loss(x, theta):
                output = jaxbox.box_conv(x, theta, implementation=implementation)
                return jnp.sum(output**2), output

            (_, output), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(x, theta)
            return output, *gradients

        x = jnp.arange(8 * 5 * 7 * 2.0).reshape(8, 5, 7, 2) / 560
        theta = jnp.tile(jnp.array([-1.25, 1.5, -1.0, 2.0]), (2, 3, 1))
        expected = jax.jit(lambda x, theta: results(x, theta, "xla"))(x, theta)
        for axis_type in (AxisType.Auto, AxisType.Explicit):
            mesh = jax.make_mesh((4,), ("data",), axis_types=(axis_type,))
            with jax.set_mesh(mesh):
                divided = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
                copied = jax.device_put(theta, NamedSharding(mesh, PartitionSpec()))
                compiled = jax.jit(results).lower(divided, copied).compile()
                assert "all-gather" not in compiled.as_text()
                assert "all-to-all" not in compiled.as_text()
                given = compiled(divided, copied)
            for result, spec, exact in zip(given, ("data", "data", None), expected, strict=True):
                assert (*result.sharding.spec, None)[0] == spec
                assert jnp.allclose(jax.device_get(result), exact, rtol=1e-4, atol=1e-4)
    """
    subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(program)],
        check=True,
        env={"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"},
    )
