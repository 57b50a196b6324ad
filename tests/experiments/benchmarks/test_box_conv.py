"""The benchmark: what it writes, that its contestants compute the same, and bad arguments."""

import collections
import dataclasses
import functools
import importlib.util
import json
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks.box_conv import benchmark as bench_box_conv
from experiments.benchmarks.box_conv import methods, plots, rotation, timed_calls
from experiments.benchmarks.box_conv.contestants import Contestant, contestants, images
from experiments.benchmarks.box_conv.measurements import measure
from experiments.benchmarks.box_conv.shapes import FULL_AND_PARTS, Direction, Shape
from experiments.benchmarks.box_conv.tables import table
from experiments.benchmarks.box_conv.textbook import textbook
from experiments.benchmarks.box_conv.timed_calls import Copying, Timed
from experiments.common.program import exit_code
from jaxbox import boxes
from tests.kernels.test_mosaic_compiled import describe, environment
from tests.oracles import box_conv as reference

SHAPE = Shape(1, 2, 8, 12, 2)


def _quick_contestants(*arguments) -> list[Contestant]:
    """Those that compile quickly."""
    return [
        dataclasses.replace(contestant, directions=contestant.directions[:3])
        for contestant in contestants(*arguments)
        if contestant.name != "integral images" and "whole pixels" not in contestant.name
    ]


@pytest.mark.parametrize(
    "listed", [_quick_contestants, pytest.param(contestants, marks=pytest.mark.slow)]
)
def test_writes_a_figure_of_every_contestant(
    listed: Callable[..., list[Contestant]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(bench_box_conv.contestants, "contestants", listed)
    out = tmp_path / "new" / "bench.json"
    arguments = ["--device", "cpu", "--shapes", str(SHAPE), "--rounds", "1", "--out", str(out)]
    assert exit_code(bench_box_conv.main, arguments) == 0
    report = json.loads(out.read_text())
    (block,) = report["blocks"]
    assert block["shape"] == list(SHAPE)
    assert block["dtype"] == "float32"
    assert block["baseline"] == "textbook"
    timed = {(m["name"], m["direction"]): m for m in block["measurements"]}
    expected = [
        (contestant.name, direction)
        for contestant in listed(SHAPE, "float32", ("forward", "forward+backward"), "cpu")
        for direction in contestant.directions
    ]
    assert list(timed) == expected
    for measurement in timed.values():
        assert measurement["rounds"] == 1
        assert measurement["milliseconds"] > 0
        assert measurement["compile_seconds"] > 0
        assert measurement["temporary_bytes"] >= 0

    planes, base = timed["box_conv planes", "forward"], timed["textbook", "forward"]
    assert base["times_faster_than_baseline"] == 1
    speed_up = base["milliseconds"] / planes["milliseconds"]
    assert planes["times_faster_than_baseline"] == pytest.approx(speed_up)
    floor = 1000 * 4 * 3 * 2 * 8 * 12 / block["bytes_per_second"]
    assert planes["times_floor"] == pytest.approx(planes["milliseconds"] / floor)
    (summary,) = report["summaries"]
    assert summary["planes_times_faster_than_baseline"]["forward"] == pytest.approx(speed_up)

    printed = capsys.readouterr().out
    for name, _ in expected:
        assert name in printed


def test_moved_bytes_are_those_of_inputs_and_results():
    image, output = 2 * 2 * 8 * 12, 2 * 2 * 2 * 8 * 12  # Of bfloat16.
    moved = {d: SHAPE.moved_bytes("bfloat16", d) for d in FULL_AND_PARTS}
    assert moved == {
        "forward": image + output,
        "forward+backward": 2 * (image + output),
        "forward+dx": 2 * (image + output),
        "forward+dtheta": image + 2 * output,
    }


def test_slow_contestants_run_in_fewer_rounds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(timed_calls, "_LONGEST_SECONDS", 0.01)
    calls = []
    slow = Timed(lambda: [calls.append("slow"), time.sleep(0.02)])
    copying = Copying(Timed(lambda: calls.append("copy")), 1)
    timings, _ = timed_calls.time_calls({"slow": slow}, copying, 4)
    assert timings["slow"].rounds == 1
    assert calls.count("slow") == 2  # One to warm up.
    assert calls.count("copy") == 5


def test_plots_are_drawn_against_both_sizes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(plots, "_IMAGE_SCALES", (0.25, 2))
    monkeypatch.setattr(plots, "_IMAGE_CHANNELS", 1)
    method = methods.Method(methods._single, Copying(Timed(lambda: None), 1))
    report = plots.plot(Shape(1, 1, 8, 12, 1), "float32", 1, method, tmp_path / "bench.json")
    for name in ("by_box_size", "by_image_size"):
        assert (tmp_path / f"bench_{name}.png").stat().st_size > 5000
    for direction in ("forward", "forward+backward"):
        by_box, by_image = (
            [point["size"] for point in points if point["direction"] == direction]
            for points in (report["by_box_size"], report["by_image_size"])
        )
        assert by_box == [2, 4, 8, 12]
        assert by_image == [6, 384]
    assert "boxes as wide as the image" in capsys.readouterr().out


def test_square_boxes_keep_their_centres_at_every_size():
    shape = Shape(1, 3, 8, 12, 2)
    sides = {}
    for case in plots.cases_by_box_size(shape):
        x_min, x_max, y_min, y_max = np.moveaxis(np.asarray(case.theta), -1, 0)
        np.testing.assert_allclose(x_max - x_min, case.size, rtol=1e-5)
        np.testing.assert_allclose(y_max - y_min, case.size, rtol=1e-5)
        sides[case.size] = (x_min + x_max) / 2
    np.testing.assert_allclose(sides[2], sides[12], atol=1e-5)
    assert np.abs(sides[2]).max() <= 3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_contestants_with_boxes_agree(dtype: str):
    bound = {"float32": 1e-4, "bfloat16": 3e-2}[dtype]
    x = images(SHAPE, dtype)["planes"].x
    for contestant in contestants(SHAPE, dtype, (), "cpu"):
        theta = contestant.parameters
        if "whole pixels" in contestant.name:
            theta = boxes.round_to_pixels(theta)
        expected = reference.forward(np.asarray(x, np.float64), theta).reshape(1, 4, 8, 12)
        given = images(SHAPE, dtype)[contestant.layout].x
        output = jax.jit(contestant.layer)(given, contestant.parameters)
        assert output.dtype == dtype
        output = np.asarray(output, np.float64)
        if contestant.layout == "NHWC":
            output = np.moveaxis(output, -1, 1)
        np.testing.assert_allclose(output, expected, atol=bound, err_msg=contestant.name)


def test_the_textbook_form_has_the_reference_s_gradients():
    x, g = images(SHAPE, "float32")["planes"]
    # Boxes larger than the image too: their sides are clipped.
    theta = 2 * boxes.sample(jax.random.key(0), (SHAPE.C, SHAPE.F), (SHAPE.H, SHAPE.W))
    output, pull = jax.vjp(jax.jit(textbook), x, theta)
    np.testing.assert_allclose(output, reference.forward(x, theta).reshape(output.shape), atol=1e-4)
    expected = reference.backward(x, theta, np.reshape(g, (1, 2, 2, 8, 12)))
    for gradient, of_reference in zip(pull(g), expected, strict=True):
        np.testing.assert_allclose(gradient, of_reference, atol=1e-3)


def test_convolutions_are_optional_and_matrices_are_for_small_images():
    def names(shape: Shape, *conv: Direction) -> list[str]:
        return [contestant.name for contestant in contestants(shape, "float32", conv, "cpu")]

    assert "depthwise 15x15" in names(SHAPE, "forward")
    assert "depthwise 15x15" not in names(SHAPE)
    assert "overlap matrices" in names(SHAPE)
    assert "overlap matrices" not in names(Shape(1, 1, 200, 201, 1))


def test_every_iteration_calls_the_function_on_each_copy():
    seen: collections.Counter[float] = collections.Counter()

    @jax.jit
    def function(x: jax.Array, y: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        jax.debug.callback(lambda value: seen.update([float(value)]), y)
        return x + y, [x * y]

    copies = [(jnp.full(3, 2.0), jnp.float32(number)) for number in range(4)]
    timed = rotation.rotate_copies(function, copies, iterations=5)
    assert timed.calls == 20
    jax.effects_barrier()
    assert seen == dict.fromkeys(range(4), 5)
    for _ in range(2):
        results = timed.run()
        for number, (total, (product,)) in enumerate(results):
            np.testing.assert_array_equal(total, np.full(3, 2 + number))
            np.testing.assert_array_equal(product, np.full(3, 2 * number))


def test_copies_do_not_fit_into_the_cache_together():
    # 120 bytes of arguments, 40 of results: 7 copies, each turn of which moves 1120 bytes.
    x = jnp.ones(10)
    timed = rotation.rotate(
        lambda x, y, z: x + y + z, (x, x, x), past_cache_bytes=1000, moved_bytes=3000
    )
    assert timed.calls == 7 * 3


def test_times_are_of_one_call_when_a_run_makes_many():
    """As on a GPU, with fewer calls."""
    few = functools.partial(rotation.rotate, past_cache_bytes=1000, moved_bytes=5000)
    source = jnp.ones(500)
    method = methods.Method(
        lambda function, arguments, _: few(function, arguments),
        Copying(few(jnp.negative, (source,)), 2 * source.nbytes),
    )
    listed = [
        dataclasses.replace(contestant, directions=("forward",))
        for contestant in contestants(SHAPE, "bfloat16", (), "gpu")
        if contestant.name in ("xla", "copy of x for each box")
    ]
    block = measure(SHAPE, "bfloat16", listed, "xla", method, rounds=2)
    xla, copy = block.measurements
    assert xla.times_faster_than_baseline == 1
    assert copy.times_faster_than_baseline == pytest.approx(xla.milliseconds / copy.milliseconds)
    for measurement in block.measurements:
        moved = SHAPE.moved_bytes("bfloat16", "forward")
        seconds = measurement.milliseconds / 1000
        assert measurement.bytes_per_second == pytest.approx(moved / seconds)
        assert measurement.times_floor == pytest.approx(
            block.bytes_per_second / measurement.bytes_per_second
        )
    for title in ("xla", "GB/s", "copy of x for each box"):
        assert title in table(block, 2)


def test_on_a_gpu_there_are_other_contestants():
    listed = {c.name: c for c in contestants(Shape(1, 2, 200, 201, 2), "float32", (), "gpu")}
    assert list(listed) == [
        "box_conv planes",
        "box_conv planes, whole pixels",
        "box_conv NHWC",
        "xla",
        "integral images",
        "copy of x for each box",
    ]
    x = np.arange(4.0).reshape(1, 2, 1, 2)
    copy = listed["copy of x for each box"]
    copied = copy.layer(jnp.asarray(x), copy.parameters)
    np.testing.assert_array_equal(copied, -x[:, [0, 0, 1, 1]])


@pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None,
    reason="needs the dependency group `cuda-compiler`",
)
def test_nothing_but_calls_is_in_the_loop_on_a_gpu():
    program = """
        import functools, sys
        import jax, jax.numpy as jnp
        from jax import lax
        from jax.experimental import topologies
        from jax.sharding import NamedSharding, PartitionSpec
        from experiments.benchmarks.box_conv.rotation import call_in_loop

        topology = topologies.get_topology_desc(
            platform="cuda", topology_name="gpu", target_config=sys.argv[1], topology="1x1x1"
        )
        sharding = NamedSharding(topologies.make_mesh(topology, (1,), ("gpu",)), PartitionSpec())
        array = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32, sharding=sharding)
        copies, results = [(array((32, 64)),)] * 3, [array((32, 256))] * 3
        lowered = call_in_loop.lower(lambda x: jnp.repeat(-x, 4, 1), 7, copies, results)
        print(lowered.compile().as_text())
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), describe("H100")],
        check=True,
        capture_output=True,
        text=True,
        env=environment() | {"PYTHONPATH": str(Path(bench_box_conv.__file__).parents[3])},
    )
    assert '"known_trip_count":{"n":"7"}' in run.stdout
    (body,) = re.findall(r"while\(.*body=%?([\w.]+)", run.stdout)
    (text,) = re.findall(rf"^%?{re.escape(body)} \(.*?^}}", run.stdout, re.MULTILINE | re.DOTALL)
    operations = collections.Counter(re.findall(r" = .*? ([\w-]+)\(", text))
    # The fourth counts iterations.
    assert operations["fusion"] == 4
    assert set(operations) <= {"fusion", "get-tuple-element", "parameter", "tuple", "bitcast"}


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="for machines without a GPU")
def test_a_gpu_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]):
    assert exit_code(bench_box_conv.main, ["--device", "gpu"]) == 2
    assert "--device must be cpu, for JAX found no GPU" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shapes", "1,2,3"], "--shapes must be B,C,H,W,F, five positive .*; got '1,2,3'"),
        (["--shapes", "1,1,8,0,1"], "--shapes must .*; got '1,1,8,0,1'"),
        (["--shapes", "1,1,8,-8,1"], "--shapes must .*; got '1,1,8,-8,1'"),
        (["--shapes", "1,1,8,x,1"], "--shapes must .*; got '1,1,8,x,1'"),
        (["--shapes"], "--shapes must be one or more; got none"),
        (["--dtypes", "int8"], "--dtypes must be of float32, bfloat16; got 'int8'"),
        (["--rounds", "0"], "--rounds must be 1 or more; got 0"),
        (["--out", "."], "--out must be a file that can be written; .*'.'"),
    ],
)
def test_bad_arguments_say_what_is_allowed(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    assert exit_code(bench_box_conv.main, arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(message, error), error
    assert not (tmp_path / "runs").exists()
