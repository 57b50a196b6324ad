"""Trainings on one budget that differ in one setting and in their seeds."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from experiments.segmentation.run_pictures import write_pictures
from experiments.segmentation.training.checkpoints import read_settings
from experiments.segmentation.training.loop import train
from experiments.segmentation.training.run import prepare
from experiments.segmentation.training.run_log import read_records
from experiments.segmentation.training.settings import Settings, UsageError, to_record


@dataclass(frozen=True)
class FinishedRun:
    """The result of one training.

    Attributes:
      name: the value of the setting that differs.
      seed: of the run.
      records: one an epoch, as in metrics.jsonl.
    """

    name: str
    seed: int
    records: Sequence[Mapping[str, Any]]

    def last(self, measure: str) -> float:
        """A measure at the end of training."""
        return float(self.records[-1][measure])


@dataclass(frozen=True)
class Comparison:
    """Trainings of several networks, each in a directory NAME-SEED.

    Attributes:
      setting: the one in which networks differ.
      names: its values.
      seeds: each network is trained once with each.
      out: the directory of all runs.
      common: all other settings.
    """

    setting: Literal["model", "context"]
    names: Sequence[str]
    seeds: Sequence[int]
    out: Path
    common: Settings

    def train(self) -> bool:
        """Trains what was not yet trained to the end; returns whether all is.

        Raises:
          UsageError: a run in `out` had another budget.
        """
        self._check_same_budget()
        return all(_train(settings) for settings in self._runs())

    def finished(self) -> dict[str, list[FinishedRun]]:
        """All runs in `out` that came to their end, by name, whoever started them."""
        runs: dict[str, list[FinishedRun]] = {}
        for file in sorted(self.out.glob("*/settings.json")):
            if _is_finished(file.parent):
                own = read_settings(file.parent)
                run = FinishedRun(own[self.setting], own["seed"], read_records(file.parent))
                runs.setdefault(run.name, []).append(run)
        return runs

    def _runs(self) -> Iterator[Settings]:
        """The settings of each run: first all networks with one seed, then with the next."""
        for seed in self.seeds:
            for name in self.names:
                out = self.out / f"{name}-{seed}"
                own: dict[str, Any] = {self.setting: name, "seed": seed, "out": out}
                resume = (out / "settings.json").exists()
                yield dataclasses.replace(self.common, resume=resume, **own)

    def _check_same_budget(self) -> None:
        wanted = to_record(self.common)
        for file in sorted(self.out.glob("*/settings.json")):
            for name, value in read_settings(file.parent).items():
                if name not in (self.setting, "seed") and wanted[name] not in (None, value):
                    raise UsageError(
                        f"{file.parent} was trained with another {name}: {value!r}, not "
                        f"{wanted[name]!r}; choose another --out"
                    )


def mean_and_deviation(runs: Sequence[FinishedRun], measure: str) -> str:
    """A measure at the end of runs in percent, with the deviation of several."""
    values = [100 * run.last(measure) for run in runs]
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"


def _train(settings: Settings) -> bool:
    """Trains a network unless that was done before; returns whether it came to its end."""
    if settings.resume and _is_finished(settings.out):
        return True
    print(settings.out.name)
    run = prepare(settings)
    state = train(run)
    done = int(state.step) == run.steps
    if done:
        write_pictures(run, state)
    # Or the programs of all networks would stay in memory.
    jax.clear_caches()
    return done


def _is_finished(directory: Path) -> bool:
    # Pictures come after the last checkpoint, but also where training was stopped by hand.
    if not (directory / "curves.png").exists():
        return False
    records = read_records(directory)
    return bool(records) and records[-1]["step"] == read_settings(directory)["steps"]
