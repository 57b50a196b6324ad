"""Figures show what they should and leave no global state."""

import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from PIL import Image

from jaxbox import boxes, plots
from jaxbox.analysis import BoxLayer


def layers(rng, number, window=(16, 32)):
    keys = jax.random.split(jax.random.key(rng.integers(2**31)), number)
    return [
        BoxLayer(
            f"box layer {index + 1}",
            boxes.sample(key, (3, 4), window),
            window,
            jnp.asarray(rng.uniform(size=(3, 4)), jnp.float32),
        )
        for index, key in enumerate(keys)
    ]


def history(layer, frames=3):
    return {f"step {n}": layer.theta * (1 + 0.1 * n) for n in range(frames)}


def of_rank(rng, rank, number=2):
    """Layers for signals, images or volumes."""
    return layers(rng, number, (9, 16, 32)[-rank:])


FIGURES = {
    "signals": lambda rng: plots.draw_layers(of_rank(rng, 1)),
    "signals in training": lambda rng: plots.draw_training(
        layer := of_rank(rng, 1)[0], history(layer)
    ),
    "volumes": lambda rng: plots.draw_before_and_after(of_rank(rng, 3), of_rank(rng, 3)),
    "volumes in training": lambda rng: plots.draw_training(
        layer := of_rank(rng, 3)[0], history(layer)
    ),
    "areas of volumes": lambda rng: plots.draw_areas(of_rank(rng, 3)),
    "layers": lambda rng: plots.draw_layers(layers(rng, 5)),
    "before and after": lambda rng: plots.draw_before_and_after(layers(rng, 5), layers(rng, 5)),
    "training": lambda rng: plots.draw_training(layer := layers(rng, 1)[0], history(layer)),
    "areas": lambda rng: plots.draw_areas(layers(rng, 3)),
    "energy": lambda _: plots.draw_energy({"a": np.linspace(0, 1, 9), "b": jnp.ones(9)}, title="t"),
    "histograms": lambda rng: plots.draw_histograms(layers(rng, 2), layers(rng, 2)),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_figures_are_saved_and_leave_no_global_state(draw, tmp_path, rng):
    settings = dict(matplotlib.rcParams)
    figure = draw(rng)
    assert isinstance(figure, Figure)
    assert figure.get_size_inches()[0] == 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as a layout that did not fit
        figure.savefig(tmp_path / "figure.png", dpi=50)
    with Image.open(tmp_path / "figure.png") as image:
        assert image.size[0] == 400
    assert pyplot.get_fignums() == []
    assert dict(matplotlib.rcParams) == settings


def test_opacity_follows_importance_and_the_most_important_are_drawn(rng):
    layer = layers(rng, 1)[0]._replace(importance=jnp.arange(12.0).reshape(3, 4))
    axes = plots.draw_layers([layer], most=5).axes[0]
    limit, feature_map, *drawn = axes.patches
    assert limit.get_bbox().bounds == (-32, -16, 64, 32)
    assert feature_map.get_bbox().bounds == (-16, -8, 32, 16)
    alphas = [patch.get_alpha() for patch in drawn]
    assert alphas == sorted(alphas)
    assert alphas[-1] == 1
    theta = np.asarray(layer.theta).reshape(12, 4)[-5:]
    for patch, (x_min, x_max, y_min, y_max) in zip(drawn, theta, strict=True):
        bounds = (x_min, y_min, x_max - x_min, y_max - y_min)
        np.testing.assert_allclose(patch.get_bbox().bounds, bounds, rtol=1e-5)
    assert axes.yaxis_inverted()


def test_boxes_of_signals_are_bars_in_the_order_of_their_importance(rng):
    (layer,) = of_rank(rng, 1, 1)
    layer = layer._replace(importance=jnp.arange(12.0).reshape(3, 4))
    axes = plots.draw_layers([layer], most=5).axes[0]
    theta = np.asarray(layer.theta).reshape(12, 2)
    assert len(axes.patches) == 5
    # Drawn last, the most important one is on top.
    for row, patch in enumerate(reversed(axes.patches)):
        box = patch.get_bbox()
        np.testing.assert_allclose(box.intervalx, theta[11 - row], rtol=1e-5)
        np.testing.assert_allclose(box.intervaly.mean(), row - 2)
    verticals = {tuple(line.get_xdata()) for line in axes.lines}
    assert verticals == {(x, x) for x in (0, -16, 16, -32, 32)}
    assert axes.yaxis_inverted()
    assert not axes.get_yticks().size


def test_boxes_of_volumes_are_seen_from_three_sides(rng):
    (layer,) = of_rank(rng, 3, 1)
    panels = plots.draw_layers([layer], most=1).axes
    assert [axes.get_title() for axes in panels] == [
        "box layer 1, from the front",
        "box layer 1, from the side",
        "box layer 1, from above",
    ]
    most_important = np.asarray(layer.importance).argmax()
    x, y, z = np.asarray(layer.theta).reshape(-1, 3, 2)[most_important]
    for axes, right, down, (height, width) in zip(
        panels, (x, z, x), (y, y, z), ((16, 32), (16, 9), (9, 32)), strict=True
    ):
        limit, feature_map, box = (patch.get_bbox() for patch in axes.patches)
        assert limit.size.tolist() == [2 * width, 2 * height]
        assert feature_map.size.tolist() == [width, height]
        np.testing.assert_allclose([box.intervalx, box.intervaly], [right, down], rtol=1e-5)


def test_an_animation_of_volumes_has_three_panels(tmp_path, rng):
    (layer,) = of_rank(rng, 3, 1)
    plots.animate_training(layer, history(layer, 2), tmp_path / "volumes.gif")
    with Image.open(tmp_path / "volumes.gif") as frames:
        assert frames.size == (1200, 420)
    with pytest.raises(ValueError, match="image must be None"):
        plots.animate_training(layer, history(layer), tmp_path / "a.gif", image=np.ones((4, 5)))


def test_a_layer_without_window_or_importance(rng):
    layer = layers(rng, 1)[0]._replace(window=None, importance=jnp.zeros((3, 4)))
    assert len(plots.draw_layers([layer]).axes[0].patches) == 12


def test_areas_and_importance_are_where_they_belong(rng):
    layer = layers(rng, 1)[0]
    axes = plots.draw_areas([layer]).axes[0]
    points = axes.collections[0].get_offsets()
    expected = np.stack([np.ravel(layer.importance), np.ravel(boxes.area(layer.theta))], axis=1)
    np.testing.assert_allclose(points, expected, rtol=1e-5)
    assert axes.get_yscale() == "log"


@pytest.mark.parametrize("image", [None, np.eye(16, 32)], ids=["plain", "on an image"])
def test_animation_is_readable(image, tmp_path, rng):
    layer = layers(rng, 1)[0]
    path = tmp_path / "boxes.gif"
    plots.animate_training(layer, history(layer, 4), path, milliseconds=50, image=image)
    with Image.open(path) as gif:
        assert gif.n_frames == 4
        assert gif.info["loop"] == 0
        durations, pictures = [], set()
        for frame in range(4):
            gif.seek(frame)
            durations.append(gif.info["duration"])
            pictures.add(gif.convert("RGB").tobytes())
    assert durations == [50, 50, 50, 1000]
    assert len(pictures) == 4


def test_what_cannot_be_drawn(rng):
    layer = layers(rng, 1)[0]
    for draw in (plots.draw_layers, plots.draw_areas):
        with pytest.raises(ValueError, match="layers must have at least one element"):
            draw([])
    with pytest.raises(ValueError, match="curves must have at least one element"):
        plots.draw_energy({})
    for draw in (plots.draw_before_and_after, plots.draw_histograms):
        with pytest.raises(ValueError, match="before must have 2 layers, as after, got 1"):
            draw(layers(rng, 1), layers(rng, 2))
    with pytest.raises(ValueError, match=r"got shape \(1, 4, 4\) for 'early'"):
        plots.draw_training(layer, {"early": layer.theta[:1]})


def test_without_matplotlib_the_message_names_the_extra():
    program = (
        "import sys\n"
        "sys.modules['matplotlib'] = None\n"
        "import jaxbox\n"
        "jaxbox.analysis\n"
        "try:\n"
        "    jaxbox.plots\n"
        "except ImportError as error:\n"
        "    assert 'jaxbox[plots]' in str(error), error\n"
        "else:\n"
        "    raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-P", "-c", program], check=True)
