"""The README's Python runs as it stands there."""

import re
from pathlib import Path

import jax
import pytest

from jaxbox import models
from jaxbox.models import ModelCard, catalogue
from tests.cases.networks import SMALL_ENET, build


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Puts the file of a small network where the examples look for a run's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(catalogue.VARIANTS["paper"], "boxenet", SMALL_ENET)
    card = ModelCard("boxenet", (16, 24), ("road", "car"), (0.5,) * 3, (0.25,) * 3, "CC0-1.0")
    model = build(SMALL_ENET, num_classes=2, image_size=(16, 24))
    models.save("weights.safetensors", model, card)


@pytest.mark.usefixtures("weights")
def test_examples_run():
    readme = Path(__file__).parents[1] / "README.md"
    blocks = re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)
    assert blocks
    # Flax's and optax's own arithmetic relies on promotion.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        for block in blocks:
            exec(compile(block, str(readme), "exec"), {})
