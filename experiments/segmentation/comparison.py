"""Comparing runs that have the same budget and differ in one setting and in their seeds."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from experiments.common.command_line import check_list, check_seed
from experiments.common.outputs import OutputFile, make_directory
from experiments.common.program import UserError
from experiments.segmentation.run_pictures import check_pictures
from experiments.segmentation.training.loop import train
from experiments.segmentation.training.metrics_log import read_metrics
from experiments.segmentation.training.prepared_run import prepare
from experiments.segmentation.training.run_directory import (
    claimed,
    holds_run,
    is_finished,
    read_record,
    read_settings,
    record_finished,
)
from experiments.segmentation.training.settings import Settings
from experiments.segmentation.training.settings_record import differences, with_recorded_defaults
from experiments.segmentation.write_pictures import write_pictures


@dataclass(frozen=True)
class FinishedRun:
    """The result of one run.

    Attributes:
      name: the value of the setting in which runs differ.
      seed: the seed of the run.
      records: the metrics of the run, one record for each epoch, as in metrics.jsonl.
    """

    name: str
    seed: int
    records: Sequence[Mapping[str, Any]]

    @property
    def steps(self) -> list[int]:
        """The step of each record."""
        return [record["step"] for record in self.records]

    def last(self, metric: str) -> float | None:
        """A metric at the end of training, or None if there is no such score."""
        value: float | None = self.records[-1][metric]
        return value


@dataclass(frozen=True)
class Comparison:
    """Runs that differ in one setting, each in a directory NAME-SEED.

    Attributes:
      setting: the name of the setting in which the runs differ.
      names: the values of this setting.
      seeds: the seeds; each value is trained once with each.
      out: the directory that holds the directories of all runs.
      common: all other settings.
    """

    setting: Literal["model", "context", "box_learning"]
    names: Sequence[str]
    seeds: Sequence[int]
    out: Path
    common: Settings

    def check(self, *files: OutputFile) -> None:
        """Checks lists, settings and files before any work.

        Args:
          files: the files that are written into `out` at the end.

        Raises:
          UserError: a list is empty or has a value twice, a seed is not allowed, a setting is given
            that would have no effect, or a file cannot be written.
        """
        options = {"model": "--networks", "context": "--contexts", "box_learning": "--variants"}
        check_list(options[self.setting], self.names)
        check_list("--seeds", self.seeds)
        for seed in self.seeds:
            check_seed("--seeds", seed)
        usual = Settings()
        for name in ("seed", "resume", "distributed"):
            if getattr(self.common, name) != getattr(usual, name):
                raise UserError(f"--{name} has no effect here; see --help")
        if holds_run(self.out):
            raise UserError(f"{self.out} holds a run; --out must be a directory of runs")
        make_directory(self.out)
        for file in files:
            file.check()

    def train(self) -> bool:
        """Trains the networks that have not finished yet; returns whether all have finished now.

        Raises:
          UserError: a run in `out` had another budget.
          KeyboardInterrupt: training was stopped within a step.
        """
        self._check_same_budget()
        self.finished()  # which finds damaged metrics before other runs are trained
        try:
            return all(_train(settings) for settings in self._runs())
        except KeyboardInterrupt as interrupt:
            message = str(interrupt) or "stopped"
            raise KeyboardInterrupt(f"{message}; the same command goes on") from None

    def finished(self) -> dict[str, list[FinishedRun]]:
        """All finished runs in `out`, by name, also those that another command started."""
        runs: dict[str, list[FinishedRun]] = {}
        for directory in self._directories():
            if is_finished(directory):
                own = read_settings(directory)
                run = FinishedRun(getattr(own, self.setting), own.seed, read_metrics(directory))
                first = next(iter(runs.values()))[0] if runs else run
                if not run.records or run.steps != first.steps:
                    raise UserError(
                        f"{directory / 'metrics.jsonl'} does not have the steps of the other runs; "
                        "restore it, or move the run away to train it again"
                    )
                runs.setdefault(run.name, []).append(run)
        return runs

    def _directories(self) -> list[Path]:
        """The directories of all runs in `out`."""
        return [directory for directory in sorted(self.out.glob("*")) if holds_run(directory)]

    def _runs(self) -> Iterator[Settings]:
        """The settings of each run: all networks with the first seed, then with the next one."""
        for seed in self.seeds:
            for name in self.names:
                out = self.out / f"{name}-{seed}"
                own: dict[str, Any] = {self.setting: name, "seed": seed, "out": out}
                yield dataclasses.replace(self.common, resume=holds_run(out), **own)

    def _check_same_budget(self) -> None:
        for directory in self._directories():
            saved = read_settings(directory)
            wanted = dataclasses.replace(
                self.common, seed=saved.seed, **{self.setting: getattr(saved, self.setting)}
            )
            wanted, _ = with_recorded_defaults(wanted, read_record(directory))
            for name, (value, other) in differences(saved, wanted).items():
                raise UserError(
                    f"{directory} was trained with another {name}: {value!r}, not {other!r}; "
                    "choose another --out"
                )


def mean_and_deviation(runs: Sequence[FinishedRun], metric: str) -> str:
    """The mean of a metric at the end of runs in percent, and the deviation of several runs.

    It is `none` if a run has no such score, which is so for all runs on the same data.
    """
    scores = [run.last(metric) for run in runs]
    values = [100 * score for score in scores if score is not None]
    if len(values) < len(scores):
        return "none"
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"


def paired_difference(runs: Sequence[FinishedRun], base: Sequence[FinishedRun]) -> str:
    """The mean difference of the mean IoU at the end, in percent points, over seeds both have.

    With several such seeds, its deviation stands beside it. It is empty without any, or if a run
    has no such score.
    """
    scores = {run.seed: run.last("mean_iou") for run in base}
    pairs = [(run.last("mean_iou"), scores.get(run.seed)) for run in runs]
    values = [100 * (own - other) for own, other in pairs if own is not None and other is not None]
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:+.1f}"
    return f"{np.mean(values):+.1f} ± {np.std(values, ddof=1):.1f}"


def _train(settings: Settings) -> bool:
    """Trains a network unless it has finished before; returns whether it has finished now."""
    if settings.resume and is_finished(settings.out):
        return True
    print(settings.out.name)
    with claimed(settings) as settings:
        check_pictures(settings.out)
        run = prepare(settings)
        state = train(run)
        done = int(state.step) == run.steps
        if done:
            write_pictures(run, state)
            record_finished(settings.out, run.steps)
    # Otherwise the compiled programs of all networks would stay in memory.
    jax.clear_caches()
    return done
