"""The pictures that a run leaves in its directory."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxbox
from segmentation.pictures import draw_boxes, draw_curves, draw_predictions
from segmentation.pipeline import normalize
from segmentation.run import Run
from segmentation.run_log import read_records
from segmentation.training import Trainer, TrainState

_SAMPLES_DRAWN = 4


def write_pictures(run: Run, state: TrainState) -> None:
    """Writes predictions.png, curves.png and, if there are boxes, boxes.png."""
    out, val = run.settings.out, run.dataset.val
    records = read_records(out)
    if records:
        draw_curves(records).savefig(out / "curves.png", dpi=120)
        print(f"held-out mean IoU {records[-1]['mean_iou']:.3f} after step {records[-1]['step']}")
    # Spread over the data set, since neighbours may be frames of one film.
    indices = np.linspace(0, len(val) - 1, min(_SAMPLES_DRAWN, len(val)))
    samples = [val[index] for index in indices.round().astype(int).tolist()]
    images = jnp.asarray(np.stack([normalize(sample)["image"] for sample in samples]))
    predictions = list(np.asarray(run.trainer.predict(state, images)))
    draw_predictions(samples, predictions, val.classes).savefig(out / "predictions.png", dpi=100)
    before, windows = _boxes(run.trainer, run.trainer.initial)
    if before:
        after, _ = _boxes(run.trainer, state)
        draw_boxes(before, after, windows).savefig(out / "boxes.png", dpi=100)
    print(f"pictures, metrics and checkpoints are in {out}")


def _boxes(
    trainer: Trainer, state: TrainState
) -> tuple[dict[str, np.ndarray], dict[str, tuple[float, float]]]:
    """The boxes of every box layer, and its window, by the layer's name."""
    layers = [m for _, m in nnx.iter_modules(trainer.model(state)) if isinstance(m, jaxbox.BoxConv)]
    names = [f"box layer {index + 1}" for index in range(len(layers))]
    thetas = {name: np.asarray(m.theta[...]) for name, m in zip(names, layers, strict=True)}
    windows = {
        name: m.theta.get_metadata()["window"] for name, m in zip(names, layers, strict=True)
    }
    return thetas, windows
