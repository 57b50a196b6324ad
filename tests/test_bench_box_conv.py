"""The benchmark: what it writes, that its contestants compute the same, and bad arguments."""

import dataclasses
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

import bench_box_conv
from bench_box_conv import Contestant, Shape, contestants, textbook
from jaxbox import boxes
from jaxbox_kernels import reference

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
    monkeypatch.setattr(bench_box_conv, "contestants", listed)
    out = tmp_path / "new" / "bench.json"
    arguments = ["--shapes", str(SHAPE), "--rounds", "1", "--out", str(out)]
    assert bench_box_conv.main(arguments) == 0
    report = json.loads(out.read_text())
    (block,) = report["blocks"]
    assert block["shape"] == list(SHAPE)
    assert block["dtype"] == "float32"
    timed = {(m["name"], m["direction"]): m for m in block["measurements"]}
    expected = [
        (contestant.name, direction)
        for contestant in listed(SHAPE, "float32", ("forward", "forward+backward"))
        for direction in contestant.directions
    ]
    assert list(timed) == expected
    for measurement in timed.values():
        assert measurement["rounds"] == 1
        assert measurement["milliseconds"] > 0
        assert measurement["compile_seconds"] > 0
        assert measurement["temporary_bytes"] >= 0

    planes, base = timed["box_conv planes", "forward"], timed["textbook", "forward"]
    assert base["times_faster_than_textbook"] == 1
    speed_up = base["milliseconds"] / planes["milliseconds"]
    assert planes["times_faster_than_textbook"] == pytest.approx(speed_up)
    floor = 1000 * 4 * 3 * 2 * 8 * 12 / block["bytes_per_second"]
    assert planes["times_floor"] == pytest.approx(planes["milliseconds"] / floor)
    (summary,) = report["summaries"]
    assert summary["planes_times_faster_than_textbook"]["forward"] == pytest.approx(speed_up)

    printed = capsys.readouterr().out
    for name, _ in expected:
        assert name in printed


def test_moved_bytes():
    image, output = 2 * 2 * 8 * 12, 2 * 2 * 2 * 8 * 12  # Of bfloat16.
    moved = {d: SHAPE.moved_bytes("bfloat16", d) for d in bench_box_conv._GRADIENTS_BY}
    assert SHAPE.moved_bytes("bfloat16", "forward") == image + output
    assert moved == {
        "forward+backward": 2 * (image + output),
        "forward+dx": 2 * (image + output),
        "forward+dtheta": image + 2 * output,
    }


def test_slow_contestants_run_in_fewer_rounds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench_box_conv, "_LONGEST_SECONDS", 0.01)
    calls = []
    runs = {"slow": lambda: [calls.append("slow"), time.sleep(0.02)]}
    memcpy = bench_box_conv.Memcpy(lambda: calls.append("copy"), 1)
    timings, _ = bench_box_conv._interleave(runs, memcpy, 4)
    assert timings["slow"].rounds == 1
    assert calls.count("slow") == 2  # One to warm up.
    assert calls.count("copy") == 5


def test_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bench_box_conv, "_IMAGE_SCALES", (0.25, 2))
    monkeypatch.setattr(bench_box_conv, "_IMAGE_CHANNELS", 1)
    settings = bench_box_conv.Settings(rounds=1, out=tmp_path / "bench.json")
    copying = bench_box_conv.Memcpy(lambda: None, 1)
    report = bench_box_conv._plot(settings, Shape(1, 1, 8, 12, 1), copying)
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


def test_square_boxes():
    shape = Shape(1, 3, 8, 12, 2)
    sides = {}
    for case in bench_box_conv._cases_by_box_size(shape):
        x_min, x_max, y_min, y_max = np.moveaxis(np.asarray(case.theta), -1, 0)
        np.testing.assert_allclose(x_max - x_min, case.size, rtol=1e-5)
        np.testing.assert_allclose(y_max - y_min, case.size, rtol=1e-5)
        sides[case.size] = (x_min + x_max) / 2
    np.testing.assert_allclose(sides[2], sides[12], atol=1e-5)
    assert np.abs(sides[2]).max() <= 3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_contestants_with_boxes_agree(dtype: str):
    bound = {"float32": 1e-4, "bfloat16": 3e-2}[dtype]
    x = bench_box_conv._images(SHAPE, dtype)["planes"].x
    for contestant in contestants(SHAPE, dtype, ()):
        theta = contestant.parameters
        if "whole pixels" in contestant.name:
            theta = boxes.round_to_pixels(theta)
        expected = reference.forward(np.asarray(x, np.float64), theta).reshape(1, 4, 8, 12)
        images = bench_box_conv._images(SHAPE, dtype)[contestant.layout].x
        output = jax.jit(contestant.layer)(images, contestant.parameters)
        assert output.dtype == dtype
        output = np.asarray(output, np.float64)
        if contestant.layout == "NHWC":
            output = np.moveaxis(output, -1, 1)
        np.testing.assert_allclose(output, expected, atol=bound, err_msg=contestant.name)


def test_textbook_gradients():
    x, g = bench_box_conv._images(SHAPE, "float32")["planes"]
    # Boxes larger than the image too: their sides are clipped.
    theta = 2 * boxes.sample(jax.random.key(0), (SHAPE.C, SHAPE.F), (SHAPE.H, SHAPE.W))
    output, pull = jax.vjp(jax.jit(textbook), x, theta)
    np.testing.assert_allclose(output, reference.forward(x, theta).reshape(output.shape), atol=1e-4)
    expected = reference.backward(x, theta, np.reshape(g, (1, 2, 2, 8, 12)))
    for gradient, of_reference in zip(pull(g), expected, strict=True):
        np.testing.assert_allclose(gradient, of_reference, atol=1e-3)


def test_convolutions_are_optional_and_matrices_are_for_small_images():
    def names(shape: Shape, *conv: bench_box_conv.Direction) -> list[str]:
        return [contestant.name for contestant in contestants(shape, "float32", conv)]

    assert "depthwise 15x15" in names(SHAPE, "forward")
    assert "depthwise 15x15" not in names(SHAPE)
    assert "overlap matrices" in names(SHAPE)
    assert "overlap matrices" not in names(Shape(1, 1, 200, 201, 1))


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
    assert bench_box_conv.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert re.search(message, error), error
    assert not (tmp_path / "runs").exists()
