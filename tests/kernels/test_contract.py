"""The accuracy contract, `tests/cases/contract.py`, on images with structure, for every backend.

`JAXBOX_CONTRACT=file.json` writes the worst figure of each line for each backend.
"""

import collections
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxbox import boxes
from jaxbox_kernels.backend import Options
from tests.cases import box_conv as box_cases
from tests.cases import contract, extreme_boxes, images
from tests.cases.backends import BACKENDS, run

# Prefix sums in fixed point with one step a row leave that much.
_OWN_BOUNDS = {"mosaic_interpreted": {"over zeros": 1e-6}}
_FORMS = ("overlap_matrices", "integral_images")
_OPTIONS = {
    "mean": Options(),
    "integral": Options(normalize=False),
    "whole_pixels": Options(whole_pixels=True),
}
_CHANNELS, _BOXES = 21, 3

_worst = collections.defaultdict(dict)


@pytest.fixture(autouse=True, scope="module")
def _report():
    yield
    jax.clear_caches()
    if path := os.environ.get("JAXBOX_CONTRACT"):
        Path(path).write_text(json.dumps(_worst, indent=1))


class Scenario:
    """Arguments of one kind for a backend; the methods draw `(x, theta, g)`."""

    def __init__(self, rng, size, channels=_CHANNELS, batch=2):
        self.rng, self.size, self.batch = rng, size, batch
        self.boxes = (channels, _BOXES)

    def x(self):
        return images.planes(self.rng, (self.batch, self.boxes[0], *self.size))

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
            box_cases.boxes_one_rounding_error_off_edges(self.rng, (1, _BOXES), self.size)
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
        return (planes / np.where(largest == 0, 1, largest) * scale).astype(np.float32)

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
        theta = extreme_boxes.boxes(self.rng, self.boxes, self.size, kinds=kinds)
        # Another kind of image for the same kind of box in each draw.
        x = images.planes(
            self.rng,
            (self.batch, self.boxes[0], *self.size),
            kinds=self.rng.permutation(list(images.KINDS)),
        )
        return x, theta, self.g()


_SCENARIOS = [
    Scenario.structured,
    Scenario.on_edges,
    Scenario.next_to_edges,
    Scenario.magnitudes,
    Scenario.not_finite_x,
    Scenario.not_finite_g,
    Scenario.not_finite_x_and_g_next_to_edges,
    Scenario.invalid_boxes,
    Scenario.extreme_boxes,
]


def _check(name, x, theta, g, options, *, scenario):
    """Runs a backend and returns the lines of the contract that it breaks, as text."""
    if options.whole_pixels:
        theta = np.asarray(boxes.round_to_pixels(theta))
    output, dx, dtheta = run(x, theta, g, backend=BACKENDS[name].backend, options=options)
    expected = contract.expect(x, theta, g, normalize=options.normalize)
    worst = contract.figures((output, dx, None if options.whole_pixels else dtheta), expected)
    for line, figure in worst.items():
        table = _worst[f"{name}, {scenario}"]
        table[line] = max(table.get(line, 0.0), float(figure))
    return contract.broken(worst, contract.BOUNDS | _OWN_BOUNDS.get(name, {}))


def _param(name, size):
    return pytest.param(name, size, id=f"{name}-{size[0]}x{size[1]}")


_QUICK = [
    *(_param(form, size) for size in [(17, 23), (40, 70), (1, 330)] for form in _FORMS),
    _param("mosaic_interpreted", (6, 131)),
]


@pytest.mark.parametrize("options", _OPTIONS)
@pytest.mark.parametrize(("name", "size"), _QUICK)
def test_every_kind_of_image_and_box(name, size, options, rng):
    tested, lines = BACKENDS[name], []
    with tested.machine():
        for draw in _SCENARIOS:
            if options == "whole_pixels" and draw is Scenario.invalid_boxes:
                continue  # Rounding makes them valid, or fails.
            arguments = draw(Scenario(rng, size))
            scenario = draw.__name__
            broken = _check(name, *arguments, _OPTIONS[options], scenario=scenario)
            lines += [f"{scenario}: {line}" for line in broken]
    assert not lines, "\n".join(["", *lines])
