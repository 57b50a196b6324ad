"""The native kernels for CPUs: dtypes, transformations, threads, devices and platforms.

What they compute is tested with all backends.
"""

import functools
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbox
from jaxbox_kernels.cpu import library
from tests.cases import contract
from tests.cases.backends import BACKENDS, native_kernels, run
from tests.cases.box_conv import (
    BOUNDS,
    arguments,
    assert_close,
    boxes_of_all_kinds,
    boxes_off_edges,
    images,
    relative_error,
)
from tests.oracles import box_conv as oracle

_ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="module")
def _kernels():
    with native_kernels():
        yield


_run = functools.partial(run, backend=BACKENDS["native"].backend)
_op = functools.partial(jaxbox.box_conv, implementation="native", channel_axis=-3)


def _exact(x, theta, g):
    return oracle.forward(x, theta), *oracle.backward(x, theta, g)


def _assert_exact(results, x, theta, g):
    for kind, result, exact in zip(BOUNDS, results, _exact(x, theta, g), strict=True):
        assert_close(result, exact, kind)


def _gradients(x, theta, op=_op):
    return jax.grad(lambda x, theta: jnp.sum(op(x, theta) ** 2), (0, 1))(x, theta)


def test_one_large_plane(rng):
    """Several bands, strips of columns and blocks of rows."""
    x, theta, g = arguments(rng, (500, 330), channels=1)
    _assert_exact(_run(x, theta, g), x, theta, g)


def test_means_of_dark_boxes_beside_pixels_a_million_times_brighter(rng):
    x = 10.0 ** rng.uniform(-3, 3, (1, 3, 70, 90)).astype(np.float32)
    x[:, 0] *= np.sign(rng.normal(size=x[:, 0].shape))
    x[:, 1, :, 45:] = 1e-3
    x[:, 2, 35:] = 1e-3
    theta = boxes_of_all_kinds(rng, (3, 20), (70, 90))
    error = np.abs(_op(x, theta).reshape(1, 3, 20, 70, 90) - oracle.forward(x, theta))
    own = oracle.forward_magnitudes(contract.raised(x, 1e-6), theta)
    assert (error <= 1e-6 * own).all()


def test_an_empty_batch(rng):
    _, theta, _ = arguments(rng, (5, 7))
    x = np.zeros((0, 2, 5, 7), np.float32)
    assert jax.jit(_op)(x, theta).shape == (0, 6, 5, 7)
    dx, dtheta = jax.jit(_gradients)(x, theta)
    assert dx.shape == x.shape
    np.testing.assert_array_equal(dtheta, np.zeros_like(theta))


def test_float64(rng):
    x, theta, g = (a.astype(np.float64) for a in arguments(rng, (33, 47), batch=2))
    with jax.enable_x64(True):
        results = _run(x, theta, g)
    for result, exact in zip(results, _exact(x, theta, g), strict=True):
        assert result.dtype == np.float64
        assert relative_error(result, exact) <= 1e-14


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_rounds_results_once(dtype, rng):
    x, theta, g = arguments(rng, (9, 13), batch=2)
    x, g = jnp.asarray(x, dtype), jnp.asarray(g, dtype)
    output, dx, dtheta = _run(x, theta, g)
    assert (output.dtype, dx.dtype, dtheta.dtype) == (dtype, dtype, jnp.float32)
    given = [np.asarray(a, np.float64) for a in (x, theta, g)]
    for result, exact in zip((output, dx), _exact(*given), strict=False):
        assert relative_error(result, exact) <= 0.51 * float(jnp.finfo(dtype).eps)
    assert_close(dtheta, _exact(*given)[2], "dtheta")


@pytest.mark.parametrize("axes", [(0, None, 0), (None, 0, 0), (0, 0, 0), (1, 2, 0)])
def test_vmap(axes, rng):
    """Over x, over theta, over both, and over axes other than the first."""
    draws = [arguments(rng, (6, 11), batch=2) for _ in range(3)]
    # What is not mapped is the same for all.
    draws = [
        [
            first if axis is None else own
            for own, first, axis in zip(draw, draws[0], axes, strict=True)
        ]
        for draw in draws
    ]
    given = [
        values[0] if axis is None else np.stack(values, axis)
        for values, axis in zip(zip(*draws, strict=True), axes, strict=True)
    ]
    mapped = jax.jit(jax.vmap(lambda *arrays: _run(*arrays), axes))(*given)
    for number, draw in enumerate(draws):
        _assert_exact([result[number] for result in mapped], *draw)


def test_checkpoint(rng):
    x, theta, _ = arguments(rng, (6, 11), batch=2)
    recomputed = functools.partial(_gradients, op=jax.checkpoint(_op))
    assert "remat" in str(jax.make_jaxpr(recomputed)(x, theta))
    output = oracle.forward(x, theta)
    exact = oracle.backward(x, theta, 2 * output)
    for kind, result, expected in zip(
        ("dx", "dtheta"), jax.jit(recomputed)(x, theta), exact, strict=True
    ):
        assert_close(result, expected, kind)


def test_second_derivatives(rng):
    """Reverse over reverse, against differences of the oracle's gradients."""
    x, theta = (
        np.asarray(a, np.float64)
        for a in (images(rng, (2, 2, 5, 8)), boxes_off_edges(rng, (2, 3), (5, 8)))
    )
    along = [rng.normal(size=a.shape) for a in (x, theta)]
    factors = [rng.normal(size=a.shape) for a in (x, theta)]

    def contract_with_factors(gradients):
        return sum(
            (factor * gradient).sum() for factor, gradient in zip(factors, gradients, strict=True)
        )

    def difference(h):
        x_, theta_ = x + h * along[0], theta + h * along[1]
        return contract_with_factors(oracle.backward(x_, theta_, 2 * oracle.forward(x_, theta_)))

    with jax.enable_x64(True):
        second = jax.jit(
            jax.grad(lambda *arrays: contract_with_factors(_gradients(*arrays)), (0, 1))
        )
        terms = [
            np.asarray(grad) * step for grad, step in zip(second(x, theta), along, strict=True)
        ]
    expected = (difference(1e-5) - difference(-1e-5)) / 2e-5
    size = sum(np.abs(term).sum() for term in terms)
    np.testing.assert_allclose(
        sum(term.sum() for term in terms), expected, rtol=0, atol=1e-6 * size
    )


_X = jnp.ones((2, 2, 8, 9), jnp.float32)
_THETA = jnp.tile(jnp.array([-1.25, 1.5, -1.0, 2.0]), (2, 3, 1))


@pytest.mark.parametrize("platform", ["cuda", "rocm", "tpu"])
def test_programs_for_other_platforms_do_without_them(platform):
    op = functools.partial(jaxbox.box_conv, channel_axis=-3)
    traced = jax.jit(functools.partial(_gradients, op=op)).trace(_X, _THETA)
    assert "jaxbox_box_conv" in traced.lower(lowering_platforms=("cpu",)).compile().as_text()
    assert "jaxbox_box_conv" not in traced.lower(lowering_platforms=(platform,)).as_text()


def test_the_default_of_a_block_of_code():
    """Programs that were traced outside of the block are traced again inside."""
    compiled = jax.jit(jaxbox.box_conv)
    x = jnp.moveaxis(_X, 1, -1)

    def is_native():
        return "jaxbox_box_conv" in compiled.lower(x, _THETA).as_text()

    assert is_native()
    with pytest.raises(ValueError, match=r'default_implementation\("xla"\)'):
        jax.export.export(compiled)(x, _THETA)
    with jaxbox.default_implementation("xla"):
        assert not is_native()
        jax.export.export(compiled)(x, _THETA)
        with jaxbox.default_implementation(None):
            assert is_native()
    assert is_native()
    with pytest.raises(ValueError, match=r"must be None or one of .*; got 'fast'"):
        jaxbox.default_implementation("fast")


def test_programs_for_other_platforms_cannot_ask_for_them():
    with pytest.raises(ValueError, match=r"implementation='native' .* must be compiled for CPUs"):
        jax.jit(_op).trace(_X, _THETA).lower(lowering_platforms=("cuda",))


def test_calls_from_several_threads(rng):
    given = [arguments(rng, (70, 50), batch=2) for _ in range(12)]
    alone = [jax.device_get(_run(*arrays)) for arrays in given]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda arrays: jax.device_get(_run(*arrays)), given))
    for results, expected in zip(together, alone, strict=True):
        for result, exact in zip(results, expected, strict=True):
            np.testing.assert_array_equal(result, exact)


def _run_program(program, **environment):
    """Runs a program in another process, and returns what it prints."""
    # The checkout comes last in the path, or it would be imported for the installed package.
    path = f"import sys; sys.path.append({str(_ROOT)!r})\n"
    return subprocess.run(
        [sys.executable, "-P", "-c", path + textwrap.dedent(program)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
    ).stdout


def test_same_bits_whatever_the_number_of_threads():
    # One plane, of which threads compute bands, and planes for all threads.
    program = """
        import hashlib
        import jax
        import numpy as np
        from jaxbox_kernels import cpu
        from jaxbox_kernels.backend import Options

        backend = cpu.load()
        assert not backend.unsuitable(jax.ShapeDtypeStruct((1, 1, 1, 1), np.float32), 1)

        @jax.jit
        def run(x, theta, g):
            return backend.forward(x, theta, Options()), backend.backward(x, theta, g, Options())

        jax.config.update("jax_enable_x64", True)
        rng = np.random.default_rng(0)
        digest = hashlib.sha256()
        for dtype in (np.float32, np.float64):
            for batch, channels, height, width in ((1, 1, 300, 70), (3, 8, 70, 30)):
                x = rng.normal(size=(batch, channels, height, width)).astype(dtype)
                g = rng.normal(size=(batch, channels, 3, height, width)).astype(dtype)
                theta = np.sort(rng.uniform(-30, 30, (channels, 3, 2, 2))).reshape(channels, 3, 4)
                for result in jax.tree.leaves(run(x, theta.astype(dtype), g)):
                    digest.update(np.asarray(result).tobytes())
        print(digest.hexdigest())
    """
    # The size of XLA's thread pool.
    assert len({_run_program(program, NPROC=threads) for threads in ("1", "2", "7")}) == 1


def test_each_device_works_on_its_own_planes():
    # A process has as many devices as it began with.
    _run_program(
        """
        import functools
        import jax
        import jax.numpy as jnp
        import numpy as np
        from jax.sharding import AxisType, NamedSharding, PartitionSpec
        import jaxbox
        from tests.oracles import box_conv as oracle

        op = functools.partial(jaxbox.box_conv, implementation="native", channel_axis=-3)

        def results(x, theta):
            def loss(x, theta):
                output = op(x, theta)
                return jnp.sum(output**2), output

            (_, output), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(x, theta)
            return output, *gradients

        def check(given):
            for result, exact in zip(given, expected, strict=True):
                largest = np.abs(exact).max()
                exact = exact.reshape(result.shape)
                np.testing.assert_allclose(result, exact, rtol=0, atol=1e-5 * largest)

        rng = np.random.default_rng(0)
        x = rng.normal(size=(8, 2, 5, 7)).astype(np.float32)
        theta = np.tile(np.float32([-1.25, 1.5, -1.0, 2.0]), (2, 3, 1))
        output = oracle.forward(x, theta)
        expected = output, *oracle.backward(x, theta, 2 * output)
        images, everywhere = PartitionSpec("data"), PartitionSpec()

        for axis_type in (AxisType.Auto, AxisType.Explicit):
            mesh = jax.make_mesh((8,), ("data",), axis_types=(axis_type,))
            with jax.set_mesh(mesh):
                divided = jax.device_put(x, NamedSharding(mesh, images))
                copied = jax.device_put(theta, NamedSharding(mesh, everywhere))
                compiled = jax.jit(results).lower(divided, copied).compile()
                assert "all-gather" not in compiled.as_text()
                assert "all-to-all" not in compiled.as_text()
                given = compiled(divided, copied)
            for result, spec in zip(given, ("data", "data", None), strict=True):
                assert (*result.sharding.spec, None)[0] == spec
            check(given)

        mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
        mapped = jax.shard_map(
            results,
            mesh=mesh,
            in_specs=(images, everywhere),
            out_specs=(images, images, everywhere),
        )
        check(jax.jit(mapped)(x, theta))
        """,
        XLA_FLAGS="--xla_force_host_platform_device_count=8",
    )


def test_a_library_of_other_sources_is_refused(monkeypatch):
    load = library.why_missing.__wrapped__  # without what it remembers
    monkeypatch.setattr(library, "_CALLS_VERSION", -1)
    assert "compiled from other sources; install jaxbox again" in load()


def test_a_library_from_before_the_versions():
    assert library._calls_version(SimpleNamespace()) == 0
