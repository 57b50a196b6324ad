"""The training loop: steps, held-out scores, records and checkpoints until the end or Ctrl-C."""

import signal
from contextlib import ExitStack
from types import FrameType
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from experiments.segmentation.input.pipeline import (
    Shard,
    evaluation_batches,
    read_ahead,
    training_batches,
)
from experiments.segmentation.training.checkpoints import Checkpoints, RunError, begin_run
from experiments.segmentation.training.devices import any_process, is_first_process
from experiments.segmentation.training.iou import Scores
from experiments.segmentation.training.run import Run
from experiments.segmentation.training.run_log import RunLog
from experiments.segmentation.training.settings import to_record
from experiments.segmentation.training.trainer import TrainState

_STEPS_BETWEEN_LOOKS = 10  # at the loss, which has to be waited for, and at other processes
_MOMENTS_KEPT = 8


def train(run: Run) -> TrainState:
    """Trains until the end or Ctrl-C; scores, records and saves at the end of each epoch.

    Whenever it is stopped, the same call with `resume` set goes on with the newest checkpoint and
    ends the same.

    Returns:
      The state at the end, or where it was stopped.

    Raises:
      RunError: the run's directory is not what was expected, or the loss is not finite.
    """
    settings = run.settings
    begin_run(settings.out, to_record(settings), resume=settings.resume)
    with ExitStack() as stack:
        # Moments enough to see how boxes moved.
        keep_every = -(-run.epochs // _MOMENTS_KEPT) * run.steps_per_epoch
        checkpoints = stack.enter_context(Checkpoints(settings.out, keep_every))
        state = checkpoints.latest(run.trainer.initial) or run.trainer.initial
        log = None
        if is_first_process():
            log = stack.enter_context(RunLog(settings.out, int(state.step)))
        return _train(run, state, checkpoints, log)


def held_out_scores(run: Run, state: TrainState) -> Scores:
    """Scores the network on the validation split at the size at which it trains."""
    batches = evaluation_batches(run.dataset.val, run.settings.training.batch_size, _shard())
    read = read_ahead(batches, workers=run.settings.workers)
    return run.trainer.evaluate(state, run.trainer.on_devices(read))


def _train(run: Run, state: TrainState, checkpoints: Checkpoints, log: RunLog | None) -> TrainState:
    settings, recipe = run.settings, run.settings.training
    step = int(state.step)
    dataset = training_batches(
        run.dataset.train, recipe.batch_size, settings.seed, recipe.augmentation, _shard()
    )
    batches = run.trainer.on_devices(read_ahead(dataset, step, workers=settings.workers))
    scores: Scores | None = None
    with (
        _Interrupts() as interrupts,
        tqdm(
            total=run.steps * recipe.batch_size,
            initial=step * recipe.batch_size,
            unit="img",
            desc=settings.model,
            disable=None if is_first_process() else True,
        ) as bar,
    ):
        bar.set_postfix_str("compiling")
        while step < run.steps and not interrupts.stop_after(step):
            state = run.trainer.step(state, next(batches))
            step += 1
            since_epoch = (step - 1) % run.steps_per_epoch + 1
            if step % _STEPS_BETWEEN_LOOKS == 0 or step == run.steps:
                bar.update(step * recipe.batch_size - bar.n)
                bar.set_postfix(_postfix(float(state.epoch_loss) / since_epoch, scores))
            if since_epoch == run.steps_per_epoch or step == run.steps:
                scores = held_out_scores(run, state)
                loss = _finite(float(state.epoch_loss) / since_epoch, step)
                state = run.trainer.begin_epoch(state)
                if log:
                    log.add(_record(run, step, loss, scores))
                checkpoints.save(state)
        checkpoints.save(state)
    return state


def _shard() -> Shard:
    return Shard(jax.process_index(), jax.process_count())


def _finite(loss: float, step: int) -> float:
    if not np.isfinite(loss):
        raise RunError(
            f"the loss is {loss} after step {step}; lower --learning-rate and start again with "
            "another --out"
        )
    return loss


class _Interrupts:
    """While entered, Ctrl-C asks for a stop after the current step; pressed twice it stops now.

    So does the signal with which schedulers announce that they will end a program.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self._pending = False

    def __enter__(self) -> "_Interrupts":
        self._previous = {number: signal.signal(number, self._handle) for number in self._SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def stop_after(self, step: int) -> bool:
        """Whether to stop; with several processes all stop after the same step."""
        if jax.process_count() > 1 and step % _STEPS_BETWEEN_LOOKS:
            return False
        return any_process(self._pending)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self._pending:
            raise KeyboardInterrupt
        self._pending = True


def _postfix(loss: float, scores: Scores | None) -> dict[str, str]:
    shown = {"loss": f"{loss:.3f}"}
    if scores is not None:
        shown["mIoU"] = f"{scores.mean_iou:.3f}"
    return shown


def _record(run: Run, step: int, loss: float, scores: Scores) -> dict[str, Any]:
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
