"""The one-layer demonstration."""

from pathlib import Path

import jax
import pytest
from flax import nnx
from PIL import Image

from experiments.common.program import exit_code
from experiments.demos import digits_boxes
from experiments.demos.digits import load


def test_boxes_learn_digits(tmp_path: Path):
    train, test = load(0)
    assert len(test.labels) == 450
    model = digits_boxes.Classifier(24, trainable=True, rngs=nnx.Rngs(0))
    # Flax's and optax's own arithmetic relies on promotion.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        moments = list(digits_boxes.train(model, train, test, steps=400, seed=0))
    assert moments[0].step == 1
    assert moments[-1].step == 400
    # Ten draws of boxes and batches gave 0.92 to 0.95; the whole program trains longer.
    assert moments[-1].accuracy > 0.85
    digits_boxes.draw(model, moments[::8], train.images[0, ..., 0], tmp_path)
    with Image.open(tmp_path / "digits_boxes.gif") as gif:
        assert gif.n_frames == len(moments[::8])
    assert (tmp_path / "digits_boxes.png").stat().st_size > 5000


@pytest.mark.slow
@pytest.mark.usefixtures("relaxed_promotion")
def test_the_program_classifies_nine_of_ten_digits_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert exit_code(digits_boxes.main, ["--out", str(tmp_path)]) == 0
    learnt = capsys.readouterr().out.splitlines()[1]
    assert float(learnt.split("%")[0]) >= 90
    assert (tmp_path / "digits_boxes.gif").stat().st_size < 400_000


def test_bad_arguments_say_what_is_allowed(capsys: pytest.CaptureFixture[str]):
    assert exit_code(digits_boxes.main, ["--steps", "0"]) == 2
    assert capsys.readouterr().err == "error: --steps must be 1 or more; got 0\n"
