"""The README's Python runs as it stands there."""

import re
from pathlib import Path

import jax


def test_examples_run():
    readme = Path(__file__).parents[1] / "README.md"
    blocks = re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)
    assert blocks
    # Flax's and optax's own arithmetic relies on promotion.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        for block in blocks:
            exec(compile(block, str(readme), "exec"), {})
