"""The command line of the training programs: train, and the subcommands evaluate and predict."""

import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from experiments.common.command_line import read_command
from experiments.common.memory import keep_freed_memory
from experiments.common.outputs import OutputFile
from experiments.common.program import UserError
from experiments.segmentation.data.inspection import describe_left_out
from experiments.segmentation.evaluate import EvaluateSettings, evaluate
from experiments.segmentation.predict import PredictSettings, predict
from experiments.segmentation.run_pictures import check_pictures
from experiments.segmentation.training.data_record import data_record
from experiments.segmentation.training.devices import is_first_process, join_processes
from experiments.segmentation.training.loop import train
from experiments.segmentation.training.prepared_run import PreparedRun, prepare
from experiments.segmentation.training.run_directory import (
    claimed,
    holds_run,
    is_finished,
    record_finished,
)
from experiments.segmentation.training.settings import Settings, check, with_recipe
from experiments.segmentation.training.trainer import TrainState
from experiments.segmentation.weights_file import NAME, encode_weights, weights_output
from experiments.segmentation.write_pictures import write_pictures

_COMMANDS: Final[Mapping[str, type]] = MappingProxyType(
    {"train": Settings, "evaluate": EvaluateSettings, "predict": PredictSettings}
)


def main(
    arguments: Sequence[str] | None = None, *, description: str = "", **defaults: Any
) -> int | None:
    """Runs a training program.

    Args:
      arguments: the arguments of the command line, by default this process's. The first may name a
        subcommand; without one, the program trains.
      description: the first text of `--help`.
      defaults: the settings of this program that differ from the defaults of `Settings`; the
        command line may change them.

    Returns:
      130 if training was stopped by Ctrl-C.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    keep_freed_memory()
    default = Settings(**defaults)
    if not given or given[0] not in ("evaluate", "predict"):
        default = with_recipe(default, given)
    settings = read_command(_COMMANDS, given, default, description=description)
    if isinstance(settings, EvaluateSettings):
        evaluate(settings)
    elif isinstance(settings, PredictSettings):
        predict(settings)
    else:
        check(settings)
        return _prepare_and_train(settings)
    return None


def _prepare_and_train(settings: Settings) -> int | None:
    if settings.distributed:
        try:
            join_processes(settings.distributed)
        except ValueError as error:
            raise UserError(f"--distributed {error}") from error
    go_on = "the same command goes on" if settings.resume else "add --resume to go on"
    try:
        with claimed(settings) as settings:
            if is_first_process():
                check_pictures(settings.out)
                _weights(settings).check()
            return _train(settings, go_on)
    except KeyboardInterrupt as interrupt:
        message = str(interrupt) or "stopped"
        goes_on = holds_run(settings.out) and not is_finished(settings.out)
        raise KeyboardInterrupt(f"{message}; {go_on}" if goes_on else message) from None


def _train(settings: Settings, go_on: str) -> int | None:
    run = prepare(settings)
    if run.left_out:
        kept = len(run.dataset.train) + len(run.dataset.val)
        print(describe_left_out(run.left_out, kept), file=sys.stderr)
    state = train(run)
    step = int(state.step)
    if is_first_process():
        write_pictures(run, state)
        _write_weights(run, state)
        if step == run.steps:
            record_finished(run.settings.out, step)
    if step < run.steps:
        print(f"stopped at step {step} of {run.steps}; {go_on}")
        return 130
    return None


def _weights(settings: Settings) -> OutputFile:
    """The file of weights in a run's directory."""
    return weights_output(settings.out / NAME, option=None)


def _write_weights(run: PreparedRun, state: TrainState) -> None:
    """Writes the network, ready to be used anywhere, into the run's directory."""
    settings, data = run.settings, run.dataset
    facts = data_record(data.val.classes, len(data.train), len(data.val))
    content = encode_weights(
        run.trainer.model(state), settings, facts.classes, facts.normalization, data.size
    )
    _weights(settings).write(content)
