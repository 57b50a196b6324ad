"""Comparing runs that have the same budget and differ in one setting and in their seeds."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from experiments.common.program import UserError
from experiments.segmentation.training.loop import train
from experiments.segmentation.training.metrics_log import read_metrics
from experiments.segmentation.training.prepared_run import prepare
from experiments.segmentation.training.run_directory import (
    holds_run,
    is_finished,
    read_settings,
    record_finished,
)
from experiments.segmentation.training.settings import Settings
from experiments.segmentation.training.settings_record import to_record
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

    def last(self, metric: str) -> float:
        """A metric at the end of training."""
        return float(self.records[-1][metric])


@dataclass(frozen=True)
class Comparison:
    """Runs of several networks, each in a directory NAME-SEED.

    Attributes:
      setting: the name of the setting in which the networks differ.
      names: the values of this setting.
      seeds: the seeds; each network is trained once with each.
      out: the directory that holds the directories of all runs.
      common: all other settings.
    """

    setting: Literal["model", "context"]
    names: Sequence[str]
    seeds: Sequence[int]
    out: Path
    common: Settings

    def train(self) -> bool:
        """Trains the networks that have not finished yet; returns whether all have finished now.

        Raises:
          UserError: a run in `out` had another budget.
        """
        self._check_same_budget()
        return all(_train(settings) for settings in self._runs())

    def finished(self) -> dict[str, list[FinishedRun]]:
        """All finished runs in `out`, by name, also those that another command started."""
        runs: dict[str, list[FinishedRun]] = {}
        for directory in self._directories():
            if is_finished(directory):
                own = read_settings(directory)
                run = FinishedRun(getattr(own, self.setting), own.seed, read_metrics(directory))
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
        wanted = to_record(self.common)
        for directory in self._directories():
            for name, value in to_record(read_settings(directory)).items():
                if name not in (self.setting, "seed") and wanted[name] not in (None, value):
                    raise UserError(
                        f"{directory} was trained with another {name}: {value!r}, not "
                        f"{wanted[name]!r}; choose another --out"
                    )


def mean_and_deviation(runs: Sequence[FinishedRun], metric: str) -> str:
    """The mean of a metric at the end of runs in percent, and the deviation of several runs."""
    values = [100 * run.last(metric) for run in runs]
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"


def _train(settings: Settings) -> bool:
    """Trains a network unless it has finished before; returns whether it has finished now."""
    if settings.resume and is_finished(settings.out):
        return True
    print(settings.out.name)
    run = prepare(settings)
    state = train(run)
    done = int(state.step) == run.steps
    if done:
        write_pictures(run, state)
        record_finished(settings.out, run.steps)
    # Otherwise the compiled programs of all networks would stay in memory.
    jax.clear_caches()
    return done
