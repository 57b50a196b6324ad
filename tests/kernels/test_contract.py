"""The accuracy contract, `tests/cases/contract.py`, on images with structure, for every backend.

`JAXBOX_CONTRACT=file.json` writes the worst figure of each line for each backend.
"""

import collections
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from jaxbox import boxes
from jaxbox_kernels.backend import Options
from tests.cases import box_conv as box_cases
from tests.cases import contract, extreme_boxes, images
from tests.cases.backends import BACKENDS, ON_CPU, run
from tests.oracles import box_conv as oracle

_OWN_BOUNDS = {
    # Prefix sums in fixed point with one step a row leave that much.
    "mosaic_interpreted": {"over zeros": 1e-6},
    # Their sums are in float64.
    "native": {
        "forward": 2e-7,
        "dx": 2e-7,
        "dtheta": 1e-6,
        "forward, of the box's own mean": 1e-6,
    },
}
_OWN_SPANS = {"native": 1e-6}
_OPTIONS = {
    "mean": Options(),
    "integral": Options(normalize=False),
    "whole_pixels": Options(whole_pixels=True),
}
# For backends that read them in place.
_CHANNELS_LAST = {
    f"{name}, channels last": replace(options, channels_last=True)
    for name, options in _OPTIONS.items()
}
_OPTIONS_OF = collections.defaultdict(lambda: _OPTIONS, native=_OPTIONS | _CHANNELS_LAST)


@dataclass(frozen=True)
class Setting:
    """A backend and the shapes that it is given.

    Attributes:
      name: a key of `BACKENDS`.
      size: `(H, W)`.
      channels: the number of channels that each scenario has.
      batch: the number of images.
      boxes: the number of boxes of each channel.
    """

    name: str
    size: tuple[int, int]
    channels: int = len(images.KINDS)
    batch: int = 2
    boxes: int = 3

    def __str__(self):
        return f"{self.name}-{self.size[0]}x{self.size[1]}"


_worst = collections.defaultdict(dict)


@pytest.fixture(autouse=True, scope="module")
def _report():
    yield
    jax.clear_caches()
    if path := os.environ.get("JAXBOX_CONTRACT"):
        Path(path).write_text(json.dumps(_worst, indent=1))


class Scenario:
    """Arguments of one kind for a backend; the methods draw `(x, theta, g)`."""

    def __init__(self, rng, setting):
        self.rng, self.size, self.batch = rng, setting.size, setting.batch
        self.boxes = (setting.channels, setting.boxes)

    def x(self):
        kinds = self.rng.permutation(list(images.KINDS))
        return images.planes(self.rng, (self.batch, self.boxes[0], *self.size), kinds=kinds)

    def g(self):
        """Images of kinds that are independent of those of `x`."""
        kinds = self.rng.permutation(list(images.KINDS))
        shape = (self.batch, self.boxes[1], self.boxes[0], *self.size)
        return images.planes(self.rng, shape, kinds=kinds).swapaxes(1, 2)

    def theta(self):
        return box_cases.boxes_of_all_kinds(self.rng, self.boxes, self.size)

    def structured(self):
        return self.x(), self.theta(), self.g()

    def on_edges(self):
        """Bounds on pixel edges, or on edges and off them."""
        kinds = (box_cases.boxes_on_edges, box_cases.boxes_with_one_bound_on_an_edge)
        kind = kinds[self.rng.integers(2)]
        return self.x(), kind(self.rng, self.boxes, self.size), self.g()

    def next_to_edges(self):
        """Bounds one rounding error off pixel edges, inside and outside of boxes."""
        each = [
            box_cases.boxes_one_rounding_error_off_edges(self.rng, (1, self.boxes[1]), self.size)
            for _ in range(self.boxes[0])
        ]
        return self.x(), np.concatenate(each), self.g()

    def magnitudes(self):
        """Planes whose largest value is anywhere from 1e-35 to 1e35."""
        x, theta, g = self.structured()
        return self._scale(x), theta, self._scale(g)

    def _scale(self, planes):
        largest = np.abs(planes).max((-1, -2), keepdims=True)
        exponent = self.rng.choice([-35, 35, self.rng.uniform(-35, 35)], planes.shape[1:2])
        scale = 10.0 ** exponent.reshape(-1, *[1] * (planes.ndim - 2))
        planes = (planes / np.where(largest == 0, 1, largest) * scale).astype(np.float32)
        # XLA takes subnormal numbers for 0.
        return np.where(np.abs(planes) < np.finfo(np.float32).tiny, 0, planes)

    def one_nan_in_x(self):
        x, theta, g = self.structured()
        x[-1, 0, self.size[0] // 2, self.size[1] // 2] = np.nan
        return x, theta, g

    def one_nan_in_g(self):
        x, theta, g = self.structured()
        g[-1, 0, 0, self.size[0] // 2, self.size[1] // 2] = np.nan
        return x, theta, g

    def not_finite_x(self):
        return self._spoil(self.x()), self.theta(), self.g()

    def not_finite_g(self):
        return self.x(), self.theta(), self._spoil(self.g())

    def not_finite_x_and_g_next_to_edges(self):
        x, theta, g = self.next_to_edges()
        return self._spoil(x), theta, self._spoil(g)

    def _spoil(self, planes):
        """Puts one to three values that are not finite into half of the planes."""
        planes = planes.copy()
        for index in np.ndindex(*planes.shape[:-2]):
            for _ in range(self.rng.choice([0, 1, 2, 3], p=[0.5, 0.2, 0.2, 0.1])):
                row, column = (self.rng.integers(n) for n in self.size)
                planes[index][row, column] = self.rng.choice([np.inf, -np.inf, np.nan])
        return planes

    def invalid_boxes(self):
        return self._boxes(extreme_boxes.INVALID)

    def extreme_boxes(self):
        return self._boxes(extreme_boxes.EXTREME)

    def _boxes(self, kinds):
        order = self.rng.permutation(list(kinds))
        theta = extreme_boxes.boxes(
            self.rng, self.boxes, self.size, kinds=[kinds[name] for name in order]
        )
        return self.x(), theta, self.g()


# Those of a group are the channels of one call. There is nothing that is not finite in the first,
# and a single NaN in the second and third.
_GROUPS = (
    (Scenario.structured, Scenario.magnitudes, Scenario.invalid_boxes),
    (Scenario.on_edges, Scenario.extreme_boxes, Scenario.one_nan_in_x),
    (Scenario.structured, Scenario.next_to_edges, Scenario.one_nan_in_g),
    (
        Scenario.not_finite_x,
        Scenario.not_finite_g,
        Scenario.not_finite_x_and_g_next_to_edges,
    ),
)


def _check(setting, options, group, rng):
    """Runs a backend and returns the lines of the contract that it breaks, as text."""
    drawn = [draw(Scenario(rng, setting)) for draw in group]
    if options.whole_pixels:
        drawn = [(x, np.asarray(boxes.round_to_pixels(theta)), g) for x, theta, g in drawn]
    x, theta, g = map(np.concatenate, zip(*drawn, strict=True), (1, 0, 1))
    results = run(x, theta, g, backend=BACKENDS[setting.name].backend, options=options)
    lines = []
    for number, (draw, arguments) in enumerate(zip(group, drawn, strict=True)):
        of_scenario = slice(number * setting.channels, (number + 1) * setting.channels)
        output, dx, dtheta = results
        dtheta = None if options.whole_pixels else dtheta[of_scenario]
        worst = contract.figures(
            (output[:, of_scenario], dx[:, of_scenario], dtheta),
            contract.expect(*arguments, normalize=options.normalize, span=_span(setting.name)),
        )
        _note(setting.name, draw.__name__, worst)
        broken = contract.broken(worst, _bounds(setting.name))
        lines += [f"{draw.__name__}: {line}" for line in broken]
    return lines


def _bounds(name):
    return contract.BOUNDS | _OWN_BOUNDS.get(name, {})


def _span(name):
    return _OWN_SPANS.get(name, contract.SPAN)


def _note(name, scenario, worst):
    for line, figure in worst.items():
        for table in (_worst[name], _worst[f"{name}, {scenario}"]):
            table[line] = max(table.get(line, 0.0), float(figure))


# Interpreting takes as long for a few planes as XLA does for thousands.
_INTERPRETED = Setting("mosaic_interpreted", (3, 9), channels=1, batch=1, boxes=2)
# Each is a program to compile: means and integrals on images of different sizes.
_QUICK = [
    *((Setting(name, (17, 23)), options) for name in ON_CPU for options in _OPTIONS),
    *((Setting("native", (17, 23)), options) for options in _CHANNELS_LAST),
    (Setting("native", (40, 70), batch=1, boxes=2), "mean"),
    *((Setting(name, (1, 200), batch=1, boxes=2), "integral") for name in ON_CPU),
    (_INTERPRETED, "mean"),
]


@pytest.mark.parametrize(("setting", "options"), _QUICK, ids=str)
def test_every_kind_of_image_and_box(setting, options, rng):
    with BACKENDS[setting.name].machine():
        lines = [
            line
            for group in _GROUPS
            for line in _check(setting, _OPTIONS_OF[setting.name][options], group, rng)
        ]
    assert not lines, "\n".join(["", *lines])


@pytest.mark.parametrize("name", ON_CPU)
def test_outputs_of_a_large_image(name, rng):
    """As accurate as those of a small one; on independent noise, integral images always were."""
    kinds = ("step 1 to 0 along y", "step 1e2 to 1e-2 along x", "photograph", "ramp")
    x = images.planes(rng, (1, 4, 512, 1024), kinds=kinds)
    theta = box_cases.boxes_of_all_kinds(rng, (4, 2), (512, 1024))
    low = rng.uniform(-4, 2, (4, 2))
    theta[:, 0] = np.stack([low, low + 2], -1).reshape(4, 4)
    with BACKENDS[name].machine():
        output = jax.jit(BACKENDS[name].backend.forward, static_argnums=2)(x, theta, Options())
    error = np.abs(output - oracle.forward(x, theta))
    own = oracle.forward_magnitudes(contract.raised(x, _span(name)), theta)
    largest = np.abs(x).max((-1, -2))[:, :, None, None, None]
    assert (error <= _bounds(name)["forward"] * largest).all()
    assert (error <= _bounds(name)["forward, of the box's own mean"] * own).all()


# Few shapes, so that few programs are compiled.
_SIZES = {
    **{name: [(1, 1), (1, 90), (90, 1), (5, 7), (33, 20), (64, 128), (71, 251)] for name in ON_CPU},
    "mosaic_interpreted": [(1, 1), (3, 9), (5, 131)],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", _SIZES)
def test_at_length(name):
    """At least 300 images and sets of boxes; set `JAXBOX_CONTRACT` for the figures."""
    few = {"channels": 1, "batch": 1, "boxes": 2} if name == "mosaic_interpreted" else {}
    settings = [Setting(name, size, **{"channels": 7, "batch": 1, **few}) for size in _SIZES[name]]

    # A smaller seed is no simpler example.
    @hypothesis.settings(max_examples=100, phases=[hypothesis.Phase.generate])
    @hypothesis.given(
        setting=st.sampled_from(settings),
        options=st.sampled_from(list(_OPTIONS_OF[name])),
        group=st.sampled_from(_GROUPS),
        seed=st.integers(0, 2**32 - 1),
    )
    def check(setting, options, group, seed):
        lines = _check(setting, _OPTIONS_OF[name][options], group, np.random.default_rng(seed))
        assert not lines, "\n".join(["", *lines])

    with BACKENDS[name].machine():
        check()
