"""The tables of optax's wrappers in the documentation: each line is run as it stands there."""

import functools
import itertools
import re
from pathlib import Path

import optax
import pytest
from flax import nnx

from jaxbox import boxes as box_arrays
from jaxbox import optim
from tests.cases.optim import WINDOW, make_model, train, violation

DOCUMENT = (Path(__file__).parents[2] / "docs/optimizers.md").read_text()
WINDOWS = (WINDOW, (6, 10), None)


def _lines(heading):
    """The code in the last column of the table after a line, each with its first two columns."""
    table = itertools.takewhile(
        lambda line: line.startswith("|"), DOCUMENT.split(heading)[1].lstrip().splitlines()[2:]
    )
    return [
        pytest.param(re.search(r"`([^`]*)` \|$", line)[1], id=re.sub(r"[^\w]+", "-", line[:40]))
        for line in table
    ]


def _train(code, steps):
    model = make_model()
    boxes = optim.find_boxes(model)
    names = {"optax": optax, "optim": optim, "model": model, "boxes": boxes}
    names["labels"] = optim.labels(boxes)
    optimizer = eval(code, names)
    before = nnx.as_pure(nnx.state(model, nnx.Param))
    params = optax.LookaheadParams.init_synced(before) if "lookahead" in code else before
    after = train(optimizer, params, steps)
    states = after if "lookahead" in code else (after,)
    thetas = [[state["boxes"][i]["theta"] for i in range(3)] for state in states]
    return [before["boxes"][i]["theta"] for i in range(3)], thetas


@pytest.mark.parametrize("code", _lines("`labels = optim.labels(boxes)`."))
def test_boxes_are_valid_and_move(code):
    before, states = _train(code, steps=4)
    for thetas in states:
        for theta, old, window in zip(thetas, before, WINDOWS, strict=True):
            assert violation(theta, window) <= 1e-4
            assert (theta != old).any() or "masked" in code


@pytest.mark.parametrize("code", _lines("Tests run them too:"))
def test_these_make_boxes_invalid(code):
    (thetas,) = _train(code, steps=12)[1]
    assert max(map(violation, thetas, WINDOWS)) > 0.01
    projected = map(box_arrays.project, thetas, WINDOWS)
    assert max(map(functools.partial(violation), projected, WINDOWS)) <= 1e-4
