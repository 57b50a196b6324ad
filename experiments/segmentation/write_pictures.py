"""Writing the pictures of a run into its directory."""

import jax.numpy as jnp
import numpy as np

from experiments.common.pictures import save_figure
from experiments.segmentation.drawing import draw_box_statistics, draw_curves, draw_predictions
from experiments.segmentation.input.pipeline import normalize
from experiments.segmentation.run_pictures import run_picture
from experiments.segmentation.training.confusion_matrix import format_score
from experiments.segmentation.training.metrics_log import read_metrics
from experiments.segmentation.training.prediction_picture import chosen_samples
from experiments.segmentation.training.prepared_run import PreparedRun
from experiments.segmentation.training.trainer import TrainState
from jaxbox.analysis import box_layers
from jaxbox.plots import draw_before_and_after

_SAMPLES_DRAWN = 4


def write_pictures(run: PreparedRun, state: TrainState) -> None:
    """Writes predictions.png, curves.png and, if the network has boxes, boxes.png.

    A run with `--track-boxes` also gets box_statistics.png.

    Args:
      run: the run; the pictures go into its directory.
      state: the state whose predictions and boxes are drawn.
    """
    out, val = run.settings.out, run.dataset.val
    records = read_metrics(out)
    if records:
        save_figure(draw_curves(records), run_picture(out, "curves"), dpi=120)
        score = format_score(records[-1]["mean_iou"])
        print(f"held-out mean IoU {score} after step {records[-1]['step']}")
    if records and records[0].get("boxes"):
        save_figure(draw_box_statistics(records), run_picture(out, "box_statistics"), dpi=100)
    samples = chosen_samples(val, _SAMPLES_DRAWN)
    images = jnp.asarray(np.stack([normalize(sample)["image"] for sample in samples]))
    predictions = list(np.asarray(run.trainer.predict(state, images)))
    figure = draw_predictions(samples, predictions, val.classes)
    save_figure(figure, run_picture(out, "predictions"), dpi=100)
    before, after = (box_layers(run.trainer.model(each)) for each in (run.trainer.initial, state))
    if after:
        save_figure(draw_before_and_after(before, after), run_picture(out, "boxes"), dpi=100)
    print(f"pictures, metrics and checkpoints are in {out}")
