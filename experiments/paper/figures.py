"""Figures 2, 3 and 4 of the box convolution paper, for networks trained by cityscapes_boxenet.py.

For each run with boxes: its boxes, the more important the more opaque (NAME_boxes.png), before and
after training (NAME_before_after.png), the first layer during training (NAME_training.png and
.gif), areas against importance (NAME_areas.png) and histograms (NAME_histograms.png). For all runs
together: cumulative gradient energy E(r) of the logits (energy_logits.png) and of the first blocks'
output (energy_early.png), with the radii within which 95% of the gradient lies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments.common.memory import keep_freed_memory
from experiments.common.program import UserError
from experiments.segmentation.input.pipeline import normalize
from experiments.segmentation.saved_run import SavedRun, open_run
from jaxbox import analysis, models, plots

_MOMENTS_IN_STRIP = 8


@dataclass(frozen=True)
class Settings:
    """Draws what trained networks learnt."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Directories of runs, which are the --out of cityscapes_boxenet.py."""
    out: Path = Path("runs/figures")
    """Directory for the figures."""
    images: int = 30
    """Number of held-out images that E(r) is averaged over; the default is the paper's."""
    positions: int = 20
    """Number of positions in each image; the default is the paper's."""
    depth: int = 4
    """Number of blocks after which E(r) is shown, besides that of the logits. The fourth block is
    the first with boxes in all of the paper's networks but BoxOnlyENet."""
    seed: int = 0
    """Seed of the choice of images and positions."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program."""
    settings = tyro.cli(
        Annotated[Settings, tyro.conf.arg(name="")], args=arguments, description=__doc__
    )
    keep_freed_memory()
    if not settings.runs or min(settings.images, settings.positions, settings.depth) < 1:
        raise UserError("give a run; --images, --positions, --depth of 1 or more")
    runs = _open(settings.runs)
    settings.out.mkdir(parents=True, exist_ok=True)
    for label, run in runs.items():
        draw_boxes(label, run, settings.out)
    draw_energy(runs, settings)
    print(f"figures are in {settings.out}")


def _open(directories: Sequence[Path]) -> dict[str, SavedRun]:
    """Opens runs, by the name of their network, or of their directory if networks repeat."""
    runs = [open_run(directory) for directory in directories]
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [directory.name for directory in directories]
    if len(set(names)) < len(names):
        raise UserError("runs of one network must be in directories of different names")
    return dict(zip(names, runs, strict=True))


def draw_boxes(label: str, run: SavedRun, out: Path) -> None:
    """Writes the figures of a run's boxes, if it has any.

    Args:
      label: the start of the names of all files.
      run: the run.
      out: the directory of the figures.
    """
    before, after = analysis.box_layers(run.initial), analysis.box_layers(run.trained)
    if not after:
        return
    history = {
        f"step {step}": analysis.box_layers(model)[0].theta for step, model in run.history.items()
    }
    figures = {
        "boxes": plots.draw_layers(after),
        "before_after": plots.draw_before_and_after(before, after),
        "training": plots.draw_training(after[0], _evenly_chosen(history)),
        "areas": plots.draw_areas(after),
        "histograms": plots.draw_histograms(before, after),
    }
    for kind, figure in figures.items():
        figure.savefig(out / f"{label}_{kind}.png", dpi=100)
    plots.animate_training(after[0], history, out / f"{label}_training.gif", milliseconds=300)
    for when, layers in (("before", before), ("after", after)):
        theta = jnp.concatenate([layer.theta.reshape(-1, 4) for layer in layers])
        print(
            f"{label}, {when} training: {analysis.share_at_minimum(theta):.1%} of {len(theta)} "
            f"boxes at minimum size, mean symmetry {analysis.symmetry(theta).mean():.2f}"
        )


def _evenly_chosen(history: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The first and last moment and some between, as many as a strip of pictures has room for."""
    captions = list(history)
    chosen = np.linspace(0, len(captions) - 1, min(_MOMENTS_IN_STRIP, len(captions)))
    return {captions[i]: history[captions[i]] for i in chosen.round().astype(int).tolist()}


def draw_energy(runs: dict[str, SavedRun], settings: Settings) -> None:
    """Writes the curves E(r) of all runs, for the logits and for the first blocks' output."""
    logits, early = {}, {}
    for label, run in runs.items():
        model = run.trained
        images = _images(run, settings)
        logits[label] = _mean_curve(model, images, settings)

        def first_blocks(images: jax.Array, model: models.SegmentationNetwork = model) -> jax.Array:
            return model.features(images, settings.depth)

        early[label] = _mean_curve(first_blocks, images, settings)
    titles = {
        "logits": (logits, "logits"),
        "early": (early, f"after {settings.depth} blocks"),
    }
    for kind, (curves, title) in titles.items():
        figure = plots.draw_energy(curves, title=f"Cumulative gradient energy, {title}")
        figure.savefig(settings.out / f"energy_{kind}.png", dpi=100)
        for label, curve in curves.items():
            radius = analysis.saturation_radius(curve)
            print(f"{label}, {title}: 95% of the gradient within {radius} pixels")


def _images(run: SavedRun, settings: Settings) -> jax.Array:
    number = min(settings.images, len(run.val))
    rng = np.random.default_rng(settings.seed)
    chosen = rng.choice(len(run.val), number, replace=False).tolist()
    return jnp.asarray(np.stack([normalize(run.val[index])["image"] for index in chosen]))


def _mean_curve(layer: analysis.Layer, images: jax.Array, settings: Settings) -> jax.Array:
    h, w = jax.eval_shape(layer, images).shape[1:3]
    # The relative positions are the same for all networks.
    places = np.random.default_rng(settings.seed).random((len(images), settings.positions, 2))
    positions = (places * (h, w)).astype(np.int32)
    return jnp.nanmean(analysis.energy_curves(layer, images, positions), axis=(0, 1))
