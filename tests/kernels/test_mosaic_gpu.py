"""The Mosaic GPU kernels: interpreted, or on a GPU; and what is lowered for one."""

import functools
import subprocess
import sys
import textwrap

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import mosaic_gpu as plgpu

import jaxbox
from jaxbox import boxes
from jaxbox_kernels.mosaic_gpu import backend as mosaic_gpu
from jaxbox_kernels.mosaic_gpu import grad_x, row_cache
from jaxbox_kernels.xla import integral_image
from tests.cases.box_conv import boxes_of_all_kinds, images, relative_error
from tests.ops.test_accuracy import BOUNDS
from tests.oracles import box_conv as reference

# One strip of 128 columns and several, whole ones and not; rows that tiles divide and that none do.
SIZES = [(1, 1), (5, 7), (1, 9), (9, 1), (8, 128), (3, 330), (7, 129)]


_forward = jax.jit(mosaic_gpu.forward, static_argnames=("normalize", "whole_pixels"))
_backward = jax.jit(mosaic_gpu.backward, static_argnames=("normalize", "whole_pixels"))


@pytest.fixture(params=["interpreted", pytest.param("gpu", marks=pytest.mark.gpu)])
def machine(request):
    if request.param == "interpreted":
        with plgpu.force_gpu_interpret_mode(plgpu.InterpretGPUParams(detect_races=True)):
            yield
    elif jax.default_backend() == "gpu":
        yield
    else:
        pytest.skip("needs a GPU of compute capability 9 or 10")


def _check(result, exact, kind):
    error = relative_error(result, exact)
    assert error <= BOUNDS[kind], f"{kind}: {error:.1e}"


def _arguments(size, *, batch=1, channels=2, number=3):
    rng = np.random.default_rng()
    x = images(rng, (batch, channels, *size))
    theta = boxes_of_all_kinds(rng, (channels, number), size)
    g = rng.normal(size=(batch, channels, number, *size)).astype(np.float32)
    return x, theta, g


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("size", SIZES)
def test_forward(size):
    x, theta, _ = _arguments(size)
    _check(_forward(x, theta, normalize=True), reference.forward(x, theta), "forward")


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("size", SIZES)
def test_backward(size):
    x, theta, g = _arguments(size)
    dx, dtheta = _backward(x, theta, g, normalize=True)
    exact_dx, exact_dtheta = reference.backward(x, theta, g)
    _check(dx, exact_dx, "dx")
    _check(dtheta, exact_dtheta, "dtheta")


@pytest.mark.usefixtures("machine")
def test_several_images_and_more_boxes_than_a_program_adds_up():
    x, theta, g = _arguments((5, 7), batch=2, number=grad_x._BOXES + 2)
    dx, dtheta = _backward(x, theta, g, normalize=False)
    exact_dx, exact_dtheta = reference.backward(x, theta, g, normalize=False)
    output = _forward(x, theta, normalize=False)
    _check(output, reference.forward(x, theta, normalize=False), "forward")
    _check(dx, exact_dx, "dx")
    _check(dtheta, exact_dtheta, "dtheta")


@pytest.mark.usefixtures("machine")
def test_rows_in_several_parts():
    x, theta, g = _arguments((2 * grad_x._LEAST_ROWS, 5), channels=1, number=2)
    dx, _ = _backward(None, theta, g, normalize=True)
    _check(dx, reference.backward(x, theta, g)[0], "dx")


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("whole", [False, True])
def test_rows_are_kept_for_low_boxes_only(monkeypatch, whole):
    monkeypatch.setattr(row_cache, "_ROWS", 4)
    x, theta, _ = _arguments((11, 5), channels=1, number=4)
    # Up to 4 rows fit.
    theta[0, :, 2] = [-9.3, -1.2, 0.6, -7.3]
    theta[0, :, 3] = theta[0, :, 2] + [1.4, 2.9, 3.2, 9.9]
    if whole:
        theta = np.asarray(boxes.round_to_pixels(theta))

    @jax.jit
    def forward(x, theta):
        return mosaic_gpu.forward(x, theta, normalize=True, whole_pixels=whole)

    _check(forward(x, theta), reference.forward(x, theta), "forward")


@pytest.mark.usefixtures("machine")
def test_whole_pixels():
    x, theta, g = _arguments((6, 131))
    theta = np.asarray(boxes.round_to_pixels(theta))
    whole = {"normalize": True, "whole_pixels": True}
    _check(_forward(x, theta, **whole), reference.forward(x, theta), "forward")
    dx, _ = _backward(None, theta, g, **whole)
    _check(dx, reference.backward(x, theta, g)[0], "dx")


@pytest.mark.usefixtures("machine")
def test_inside_out_boxes_give_what_they_give_elsewhere():
    x, theta, g = _arguments((5, 7))
    # No user should have such boxes, and the oracle takes them for empty.
    theta = theta[..., [1, 0, 3, 2]]
    output = _forward(x, theta, normalize=False)
    dx, _ = _backward(None, theta, g, normalize=False)
    expected_dx, _ = integral_image.backward(None, theta, g, normalize=False)
    chex.assert_trees_all_close(
        output, integral_image.forward(x, theta, normalize=False), atol=1e-4
    )
    chex.assert_trees_all_close(dx, expected_dx, atol=1e-4)


@pytest.mark.usefixtures("machine")
def test_bfloat16():
    x, theta, g = _arguments((5, 7))
    x, g = jnp.asarray(x, jnp.bfloat16), jnp.asarray(g, jnp.bfloat16)
    output = _forward(x, theta, normalize=True)
    dx, dtheta = _backward(x, theta, g, normalize=True)
    assert output.dtype == dx.dtype == jnp.bfloat16
    assert dtheta.dtype == jnp.float32
    x, g = np.asarray(x, np.float32), np.asarray(g, np.float32)
    exact_dx, exact_dtheta = reference.backward(x, theta, g)
    # The results are rounded to 8 bits, the sums are not.
    assert relative_error(output, reference.forward(x, theta)) <= 2**-8
    assert relative_error(dx, exact_dx) <= 2**-8
    _check(dtheta, exact_dtheta, "dtheta")


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("maps_boxes", [False, True])
def test_vmap_joins_planes(maps_boxes):
    x, theta, g = _arguments((5, 7), batch=2)
    if maps_boxes:
        theta = np.stack([theta, theta[:, ::-1]])

    def results(x, theta, g):
        output = _forward(x[None], theta, normalize=True)
        return output[0], *_backward(x[None], theta, g[None], normalize=True)

    axes = (0, 0 if maps_boxes else None, 0)
    mapped = jax.vmap(results, axes)(x, theta, g)
    for image in range(2):
        boxes_of_image = theta[image] if maps_boxes else theta
        exact = (
            reference.forward(x[image, None], boxes_of_image)[0],
            *reference.backward(x[image, None], boxes_of_image, g[image, None]),
        )
        for result, kind, expected in zip(mapped, BOUNDS, exact, strict=True):
            _check(result[image], expected, kind)


_X = jnp.ones((2, 8, 9, 2), jnp.float32)
_THETA = jnp.tile(jnp.array([-1.25, 1.5, -1.0, 2.0]), (2, 3, 1))
_op = functools.partial(jaxbox.box_conv, implementation="mosaic_gpu")


def _gradients(x, theta):
    return jax.grad(lambda x, theta: jnp.sum(_op(x, theta) ** 2), (0, 1))(x, theta)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_lowers_for_cuda(dtype):
    x = jax.ShapeDtypeStruct(_X.shape, dtype)
    lowered = jax.jit(_gradients).trace(x, _THETA).lower(lowering_platforms=("cuda",))
    # Row sums twice, the filter, what enters pixels and its sums, inner products.
    assert lowered.as_text().count("stablehlo.custom_call @mosaic_gpu") == 6


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_second_derivatives_lower_for_cuda(dtype):
    def energy(x, theta):
        return sum(jnp.sum(gradient.astype(jnp.float32) ** 2) for gradient in _gradients(x, theta))

    x = jax.ShapeDtypeStruct(_X.shape, dtype)
    jax.jit(jax.grad(energy, (0, 1))).trace(x, _THETA).lower(lowering_platforms=("cuda",))


def test_vmap_adds_no_kernel():
    def count(function, *arguments):
        lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",))
        return lowered.as_text().count("stablehlo.custom_call @mosaic_gpu")

    assert count(jax.vmap(_op, (0, None)), _X, _THETA) == count(_op, _X, _THETA) == 2


def test_large_images_are_not_taken_one_by_one():
    x = jax.ShapeDtypeStruct((8, 64, 128, 16), jnp.float32)
    theta = jax.ShapeDtypeStruct((16, 4, 4), jnp.float32)
    lowered = jax.jit(_op).trace(x, theta).lower(lowering_platforms=("cuda",))
    assert "stablehlo.while" not in lowered.as_text()


def test_exports_for_cuda():
    exported = jax.export.export(jax.jit(_gradients), platforms=["cuda"])(_X, _THETA)
    assert exported.platforms == ("cuda",)
    assert [aval.shape for aval in exported.out_avals] == [_X.shape, _THETA.shape]


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
    for platform, kernels in (("cuda", 6), ("cpu", 0)):
        lowered = traced.lower(lowering_platforms=(platform,)).as_text()
        assert lowered.count("stablehlo.custom_call @mosaic_gpu") == kernels


@pytest.mark.parametrize("capability", ["8.0", "12.0"])
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
        import types
        import jax
        import jax.numpy as jnp
        from jax.sharding import AxisType, NamedSharding, PartitionSpec
        import jaxbox
        from jaxbox_kernels import backend as implementations
        from jaxbox_kernels.xla import backend as xla
        from jaxbox_kernels.mosaic_gpu.partitioning import planewise

        def forward(x, theta, **options):
            return planewise(lambda theta, x: xla.forward(x, theta, **options), theta, x)

        def backward(x, theta, g, *, by_x, **options):
            def by_planes(theta, g):
                return xla.backward(None, theta, g, **options)[0]

            _, dtheta = xla.backward(x, theta, g, by_x=False, **options)
            return planewise(by_planes, theta, g), dtheta

        pick = implementations.pick
        by_planes = types.SimpleNamespace(forward=forward, backward=backward)
        implementations.pick = lambda name, *given: pick(name, *given) if name else by_planes

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
        [sys.executable, "-c", textwrap.dedent(program)],
        check=True,
        env={"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"},
    )
