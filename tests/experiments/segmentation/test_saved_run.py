"""Opening runs, and the programs that show what they learnt."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.common.program import UserError, exit_code
from experiments.paper import figures as paper_figures
from experiments.paper import prune_boxes
from experiments.segmentation.saved_run import open_run
from experiments.segmentation.training.checkpoints import Checkpoints
from experiments.segmentation.training.optimizer import optimizer
from experiments.segmentation.training.run_directory import begin_run
from experiments.segmentation.training.settings import Settings
from experiments.segmentation.training.settings_record import to_record
from experiments.segmentation.training.trainer import Trainer
from jaxbox import analysis, models

SETTINGS = Settings(model="boxerfnet", size="16x32", steps=7, seed=3)


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, models.SegmentationNetwork]:
    """A run's directory, and the network that its checkpoint holds."""
    model = models.create("boxerfnet", 19, (16, 32), rngs=nnx.Rngs(jax.random.key(3, impl="rbg")))
    initial = Trainer(model, optimizer(Settings(), model, 7, 144), np.ones(19)).initial
    moved = jax.tree.map(lambda leaf: leaf + jnp.ones_like(leaf), initial.params)
    begin_run(dataclasses.replace(SETTINGS, out=tmp_path / "run"))
    with Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(initial._replace(step=jnp.int32(7), params=moved))
    nnx.update(model, moved)
    return tmp_path / "run", model


def test_a_run_has_the_network_before_and_after(run: tuple[Path, models.SegmentationNetwork]):
    directory, model = run
    opened = open_run(directory)
    assert list(opened.history) == [0, 7]
    assert opened.name == "boxerfnet"
    assert opened.val[0]["image"].shape == (*opened.size, 3) == (16, 32, 3)
    kinds = (nnx.Param, nnx.BatchStat)
    trained, expected = nnx.state(opened.trained, *kinds), nnx.state(model, *kinds)
    jax.tree.map(np.testing.assert_array_equal, trained, expected)
    for before, after in zip(
        analysis.box_layers(opened.initial), analysis.box_layers(model), strict=True
    ):
        np.testing.assert_array_equal(before.theta + 1, after.theta)
    assert not any(
        layer.use_running_average is False
        for _, layer in nnx.iter_modules(opened.trained)
        if hasattr(layer, "use_running_average")
    )


def test_directories_without_a_run_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(UserError, match="holds no run"):
        open_run(tmp_path)
    (tmp_path / "settings.json").write_text(json.dumps(to_record(SETTINGS)))
    with pytest.raises(UserError, match="without a checkpoint"):
        open_run(tmp_path)
    for program in (paper_figures, prune_boxes):
        assert exit_code(program.main, [str(tmp_path)]) == 2
        assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.slow
def test_figures_and_pruning_of_a_saved_run(
    run: tuple[Path, models.SegmentationNetwork],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    directory, _ = run
    few = ["--images", "1", "--positions", "2", "--out", str(tmp_path / "figures")]
    assert exit_code(paper_figures.main, [str(directory), *few]) == 0
    assert "95% of the gradient within" in capsys.readouterr().out
    kinds = ("boxes", "before_after", "training", "areas", "histograms")
    expected = {f"boxerfnet_{kind}.png" for kind in kinds}
    expected |= {"boxerfnet_training.gif", "energy_logits.png", "energy_early.png"}
    assert {file.name for file in (tmp_path / "figures").iterdir()} == expected

    assert exit_code(prune_boxes.main, [str(directory), "--shares", "0.5"]) == 0
    rows = json.loads((directory / "pruning.json").read_text())
    assert [row["removed"] for row in rows] == ["nothing", "minimum size", "least 50%"]
    assert rows[2]["boxes"] == rows[0]["boxes"] / 2
    assert rows[2]["parameters"] < rows[0]["parameters"]
