"""The training loop: steps, held-out scores, metrics and checkpoints, until the end or Ctrl-C."""

from contextlib import ExitStack
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from experiments.common.program import UserError
from experiments.segmentation.input.pipeline import (
    Shard,
    evaluation_batches,
    read_ahead,
    training_batches,
)
from experiments.segmentation.training.box_history import BoxHistory
from experiments.segmentation.training.box_statistics import box_statistics
from experiments.segmentation.training.checkpoints import Checkpoints
from experiments.segmentation.training.confusion_matrix import Scores, format_score
from experiments.segmentation.training.data_record import (
    data_record,
    read_data_record,
    write_data_record,
)
from experiments.segmentation.training.devices import is_first_process
from experiments.segmentation.training.interrupts import Interrupts
from experiments.segmentation.training.metrics_log import MetricsLog
from experiments.segmentation.training.prediction_picture import prediction_picture
from experiments.segmentation.training.prepared_run import PreparedRun
from experiments.segmentation.training.records import (
    RecentLoss,
    Records,
    is_shown,
    steps_between_boxes,
)
from experiments.segmentation.training.run_directory import begin_run
from experiments.segmentation.training.trainer import TrainState
from jaxbox.analysis import box_layers
from jaxbox.optim import restart_tracking

# Steps between updates of the progress bar. Each update waits for the device to finish the loss.
_STEPS_BETWEEN_UPDATES = 10
_CHECKPOINTS_KEPT = 8  # enough to see how boxes moved


def train(run: PreparedRun) -> TrainState:
    """Trains until the end or Ctrl-C; scores, records and saves at the end of each epoch.

    However it was stopped, the same call with `resume` set continues from the newest checkpoint and
    has the same result.

    Returns:
      The state at the end, or where training was stopped.

    Raises:
      UserError: the run's directory or the data set is not as expected, or the loss is not finite.
    """
    settings = run.settings
    _begin(run)
    with ExitStack() as stack:
        keep_every = -(-run.epochs // _CHECKPOINTS_KEPT) * run.steps_per_epoch
        checkpoints = stack.enter_context(Checkpoints(settings.out, keep_every))
        state = checkpoints.latest(run.trainer.initial) or run.trainer.initial
        records = None
        if is_first_process():
            log = stack.enter_context(MetricsLog(settings.out, int(state.step)))
            records = Records(run, log, BoxHistory(settings.out, int(state.step)))
        return _train(run, state, checkpoints, records)


def _begin(run: PreparedRun) -> None:
    """Records the run's settings and data set, or checks that they are those of the run to resume.

    Raises:
      UserError: they are not.
    """
    out, dataset = run.settings.out, run.dataset
    data = data_record(dataset.val.classes, len(dataset.train), len(dataset.val))
    recorded = read_data_record(out) if run.settings.resume else None
    difference = recorded.difference(data) if recorded else None
    if difference is not None:
        raise UserError(
            f"{run.settings.data} is not the data set of the run in {out}: it had {difference}"
        )
    begin_run(run.settings)
    if recorded is None and is_first_process():
        write_data_record(out, data)


def _train(
    run: PreparedRun, state: TrainState, checkpoints: Checkpoints, records: Records | None
) -> TrainState:
    settings, recipe = run.settings, run.settings.training
    step = int(state.step)
    dataset = training_batches(
        run.dataset.train, recipe.batch_size, settings.seed, recipe.augmentation, _shard()
    )
    batches = run.trainer.on_devices(read_ahead(dataset, step, workers=settings.workers))
    scores: Scores | None = None
    recent = RecentLoss(step, float(state.epoch_loss))
    interval = steps_between_boxes(run)
    if step == 0:
        _record_boxes(run, state, records)
    with Interrupts() as interrupts, _progress_bar(run, step) as bar:
        while step < run.steps and not interrupts.stop_after(step):
            state = run.trainer.step(state, next(batches))
            step += 1
            steps_in_epoch = (step - 1) % run.steps_per_epoch + 1
            if step % _STEPS_BETWEEN_UPDATES == 0 or step == run.steps:
                total = float(state.epoch_loss)
                bar.update(step * recipe.batch_size - bar.n)
                bar.set_postfix(_postfix(total / steps_in_epoch, scores))
                if records:
                    records.add_step(step, recent.read(step, total))
            if step % interval == 0 or steps_in_epoch == run.steps_per_epoch or step == run.steps:
                _record_boxes(run, state, records)
            if steps_in_epoch == run.steps_per_epoch or step == run.steps:
                state, scores = _end_epoch(run, state, steps_in_epoch, records)
                recent = RecentLoss(step, 0.0)
                checkpoints.save(state)
        checkpoints.save(state)
    return state


def _end_epoch(
    run: PreparedRun, state: TrainState, steps_in_epoch: int, records: Records | None
) -> tuple[TrainState, Scores]:
    """Scores and records an epoch, and returns the state in which the next one begins."""
    step = int(state.step)
    scores = _held_out_scores(run, state)
    loss = _finite(float(state.epoch_loss) / steps_in_epoch, step)
    metrics = _metrics(run, step, loss, scores)
    if run.settings.track_boxes:
        metrics["boxes"] = box_statistics(run.trainer.model(state), state)
        state = state._replace(opt_state=restart_tracking(state.opt_state))
    if records:
        records.add_epoch(metrics)
    if is_shown(run, step):
        picture = prediction_picture(run, state)
        if records:
            records.add_predictions(step, picture)
    return run.trainer.begin_epoch(state), scores


def _record_boxes(run: PreparedRun, state: TrainState, records: Records | None) -> None:
    """Records the boxes of a state, which all processes have to ask for together."""
    layers = box_layers(run.trainer.model(state))
    if records:
        records.add_boxes(int(state.step), layers)


def _progress_bar(run: PreparedRun, step: int) -> tqdm:
    batch_size = run.settings.training.batch_size
    bar = tqdm(
        total=run.steps * batch_size,
        initial=step * batch_size,
        unit="img",
        desc=run.settings.model,
        disable=None if is_first_process() else True,
    )
    bar.set_postfix_str("compiling")
    return bar


def _held_out_scores(run: PreparedRun, state: TrainState) -> Scores:
    """Scores the network on the validation split, at the size at which it trains."""
    batches = evaluation_batches(run.dataset.val, run.settings.training.batch_size, _shard())
    read = read_ahead(batches, workers=run.settings.workers)
    return run.trainer.evaluate(state, run.trainer.on_devices(read))


def _shard() -> Shard:
    return Shard(jax.process_index(), jax.process_count())


def _finite(loss: float, step: int) -> float:
    if not np.isfinite(loss):
        raise UserError(
            f"the loss is {loss} after step {step}; lower --learning-rate and start again with "
            "another --out"
        )
    return loss


def _postfix(loss: float, scores: Scores | None) -> dict[str, str]:
    """The values at the end of the progress bar."""
    shown = {"loss": f"{loss:.3f}"}
    if scores is not None:
        shown["mIoU"] = format_score(scores.mean_iou)
    return shown


def _metrics(run: PreparedRun, step: int, loss: float, scores: Scores) -> dict[str, Any]:
    names = run.dataset.val.classes.names
    return {
        "step": step,
        "epoch": step / run.steps_per_epoch,
        "loss": loss,
        "mean_iou": scores.mean_iou,
        "class_accuracy": scores.class_accuracy,
        "pixel_accuracy": scores.pixel_accuracy,
        "iou": dict(zip(names, scores.iou.tolist(), strict=True)),
    }
