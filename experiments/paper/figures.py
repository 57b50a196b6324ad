"""Figures 2, 3 and 4 of the box convolution paper, for networks trained by cityscapes_boxenet.py.

For each run with boxes: its boxes, the more important the more opaque (NAME_boxes.png), before and
after training (NAME_before_after.png), the first layer during training (NAME_training.png and
.gif), areas against importance (NAME_areas.png) and histograms (NAME_histograms.png). For all runs
together: cumulative gradient energy E(r) of the logits (energy_logits.png) and of the first blocks'
output (energy_early.png), with the radii within which 95% of the gradient lies.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from tqdm import tqdm

from experiments.common.command_line import check_seed, check_whole, read_settings
from experiments.common.memory import keep_freed_memory
from experiments.common.outputs import OutputFile, make_directory, picture
from experiments.common.pictures import save_animation, save_figure
from experiments.common.program import UserError
from experiments.segmentation.input.pipeline import normalize
from experiments.segmentation.saved_run import SavedRun, number_of_blocks, open_run
from experiments.segmentation.training.run_directory import read_settings as read_run_settings
from experiments.segmentation.training.settings import Settings as RunSettings
from jaxbox import analysis, models, plots

_MOMENTS_IN_STRIP = 8
_KINDS = ("boxes", "before_after", "training", "areas", "histograms")
_ENERGIES = ("logits", "early")
_MOST_POSITIONS = 10**6


@dataclass(frozen=True)
class Settings:
    """Draws what trained networks learnt."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    """Directories of runs, which are the --out of cityscapes_boxenet.py."""
    out: Path = Path("runs/figures")
    """Directory for the figures."""
    images: int = 8
    """Number of held-out images that E(r) is averaged over; the paper's is 30."""
    positions: int = 2
    """Number of positions in each image; the paper's is 20."""
    depth: int = 4
    """Number of blocks after which E(r) is shown, besides that of the logits. The fourth block is
    the first with boxes in all of the paper's networks but BoxOnlyENet."""
    seed: int = 0
    """Seed of the choice of images and positions."""
    data: str | None = None
    """Where the runs' data set is now, such as camvid:DIR, if it was moved."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program."""
    settings = read_settings(Settings, arguments, description=__doc__)
    keep_freed_memory()
    _check(settings)
    runs = _open(settings)
    for label, run in tqdm(runs.items(), desc="drawing boxes", unit="run", disable=None):
        draw_boxes(label, run, settings.out)
    draw_energy(runs, settings)
    print(f"figures are in {settings.out}")


def _check(settings: Settings) -> None:
    """Checks everything that can be known before checkpoints and images are read."""
    if not settings.runs:
        raise UserError("RUNS must be one or more; got none")
    check_whole("--images", settings.images, 1, _MOST_POSITIONS)
    check_whole("--positions", settings.positions, 1, _MOST_POSITIONS)
    check_seed("--seed", settings.seed)
    labels = _labels(settings.runs)
    make_directory(settings.out)
    for file in _files(settings.out, labels):
        file.check()
    for directory, run in labels.values():
        blocks = number_of_blocks(run)
        if not 1 <= settings.depth <= blocks:
            raise UserError(
                f"--depth must be from 1 to {blocks}, the number of blocks of {run.model} in "
                f"{directory}; got {settings.depth}"
            )


def _labels(directories: Sequence[Path]) -> dict[str, tuple[Path, RunSettings]]:
    """The settings of runs, by the name of the network, or of the directory if networks repeat."""
    runs = [(directory, read_run_settings(directory)) for directory in directories]
    names = [run.model for _, run in runs]
    if len(set(names)) < len(names):
        names = [directory.resolve().name for directory in directories]
    if len(set(names)) < len(names):
        raise UserError("runs of one network must be in directories of different names")
    return dict(zip(names, runs, strict=True))


def _files(out: Path, labels: Iterable[str]) -> list[OutputFile]:
    """All files that may be written."""
    own = [_file(out, f"{label}_{kind}") for label in labels for kind in _KINDS]
    animations = [_file(out, f"{label}_training", "gif") for label in labels]
    return [*own, *animations, *(_file(out, f"energy_{kind}") for kind in _ENERGIES)]


def _file(out: Path, name: str, suffix: str = "png") -> OutputFile:
    return picture(out / f"{name}.{suffix}")


def _open(settings: Settings) -> dict[str, SavedRun]:
    """Opens runs and their held-out images, by their labels."""
    labels = _labels(settings.runs)
    runs = {label: open_run(directory, settings.data) for label, (directory, _) in labels.items()}
    for run in runs.values():
        len(run.val)  # Opens it, so that missing images are noticed before figures are drawn.
    return runs


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
        save_figure(figure, _file(out, f"{label}_{kind}"), dpi=100)
    animation = _file(out, f"{label}_training", "gif")
    save_animation(after[0], history, animation, milliseconds=300)
    for when, layers in (("before", before), ("after", after)):
        theta = jnp.concatenate([layer.theta.reshape(-1, 4) for layer in layers])
        tqdm.write(
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
    with tqdm(desc="gradient energy", unit="img", disable=None) as bar:
        opened = {label: _images(run, settings) for label, run in runs.items()}
        bar.reset(total=2 * sum(len(images) for images in opened.values()))
        for label, images in opened.items():
            model = runs[label].trained

            def first_blocks(
                images: jax.Array, model: models.SegmentationNetwork = model
            ) -> jax.Array:
                return model.features(images, settings.depth)

            logits[label] = _mean_curve(model, images, settings, bar)
            early[label] = _mean_curve(first_blocks, images, settings, bar)
    titles = {
        "logits": (logits, "logits"),
        "early": (early, f"after {settings.depth} blocks"),
    }
    for kind, (curves, title) in titles.items():
        figure = plots.draw_energy(curves, title=f"Cumulative gradient energy, {title}")
        save_figure(figure, _file(settings.out, f"energy_{kind}"), dpi=100)
        for label, curve in curves.items():
            radius = analysis.saturation_radius(curve)
            print(f"{label}, {title}: 95% of the gradient within {radius} pixels")


def _images(run: SavedRun, settings: Settings) -> jax.Array:
    number = min(settings.images, len(run.val))
    rng = np.random.default_rng(settings.seed)
    chosen = rng.choice(len(run.val), number, replace=False).tolist()
    return jnp.asarray(np.stack([normalize(run.val[index])["image"] for index in chosen]))


def _mean_curve(
    layer: analysis.Layer, images: jax.Array, settings: Settings, bar: tqdm
) -> jax.Array:
    """The mean curve of a layer; the progress bar advances by each image."""
    h, w = jax.eval_shape(layer, images).shape[1:3]
    # The relative positions are the same for all networks.
    places = np.random.default_rng(settings.seed).random((len(images), settings.positions, 2))
    positions = (places * (h, w)).astype(np.int32)

    @jax.jit  # Or each image would be compiled for.
    def curves_of(image: jax.Array, positions: jax.Array) -> jax.Array:
        return analysis.energy_curves(layer, image[None], positions[None])[0]

    curves = []
    for image, own in zip(images, positions, strict=True):
        curves.append(jax.block_until_ready(curves_of(image, own)))
        bar.update()
    return jnp.nanmean(jnp.stack(curves), axis=(0, 1))
