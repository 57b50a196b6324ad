"""The command line of the training programs: train, evaluate and predict."""

import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from experiments.segmentation.data.errors import DataError
from experiments.segmentation.data.inspection import describe_left_out
from experiments.segmentation.evaluate import evaluate
from experiments.segmentation.predict import predict
from experiments.segmentation.run_pictures import write_pictures
from experiments.segmentation.training.checkpoints import RunError
from experiments.segmentation.training.devices import is_first_process, join_processes
from experiments.segmentation.training.loop import train
from experiments.segmentation.training.memory import keep_freed_memory
from experiments.segmentation.training.run import prepare
from experiments.segmentation.training.settings import Settings, UsageError, parse

_SUBCOMMANDS: Final[Mapping[str, Callable[[Sequence[str]], int]]] = MappingProxyType(
    {"evaluate": evaluate, "predict": predict}
)


def main(defaults: Settings, description: str, arguments: Sequence[str] | None = None) -> int:
    """Runs a program.

    Args:
      defaults: what is not given on the command line.
      description: what `--help` says first.
      arguments: of the command line, by default this process's. The first may name a subcommand.

    Returns:
      The exit code: 0 done, 130 stopped by Ctrl-C, 2 a user's error.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    keep_freed_memory()
    try:
        if given and given[0] in _SUBCOMMANDS:
            return _SUBCOMMANDS[given[0]](given[1:])
        return _train(parse(defaults, description, given))
    except (UsageError, DataError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped before the current step was done; add --resume to go on", file=sys.stderr)
        return 130


def _train(settings: Settings) -> int:
    if settings.distributed:
        try:
            join_processes(settings.distributed)
        except ValueError as error:
            raise UsageError(f"--distributed {error}") from error
    run = prepare(settings)
    if run.left_out:
        kept = len(run.dataset.train) + len(run.dataset.val)
        print(describe_left_out(run.left_out, kept), file=sys.stderr)
    state = train(run)
    if is_first_process():
        write_pictures(run, state)
    if int(state.step) < run.steps:
        print(f"stopped at step {int(state.step)} of {run.steps}; add --resume to go on")
        return 130
    return 0
