"""Trains several networks, with several seeds each, on one budget, and compares them.

Each run is a directory NETWORK-SEED in --out. The same command again goes on where it was stopped,
leaves finished runs as they are, and writes the table of all runs in --out (table.md, runs.json)
and their learning curves (curves.png).

All arguments but --networks, --seeds and --out are those of cityscapes_boxenet.py and hold for
every run.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from jaxbox.models import NETWORKS
from segmentation.checkpoints import RunError, read_settings
from segmentation.errors import DataError
from segmentation.loop import train
from segmentation.memory import keep_freed_memory
from segmentation.pictures import draw_comparison
from segmentation.run import prepare
from segmentation.run_log import read_records
from segmentation.run_pictures import write_pictures
from segmentation.settings import Settings, UsageError, parse, to_record


@dataclass(frozen=True)
class Comparison:
    """What to compare."""

    networks: tuple[str, ...] = ("enet", "boxenet")
    """Names of networks."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each network is trained once with each."""
    out: Path = Path("runs/comparison")
    """Directory of the runs and of the comparison."""


@dataclass(frozen=True)
class FinishedRun:
    """The result of one training.

    Attributes:
      network: its name.
      seed: of the run.
      records: one an epoch, as in metrics.jsonl.
    """

    network: str
    seed: int
    records: Sequence[Mapping[str, Any]]

    def last(self, measure: str) -> float:
        """A measure at the end of training."""
        return float(self.records[-1][measure])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns the exit code: 0 done, 130 stopped by Ctrl-C, 2 a user's error."""
    comparison, others = tyro.cli(
        Comparison, args=arguments, description=__doc__, return_unknown_args=True
    )
    keep_freed_memory()
    try:
        return _compare(comparison, parse(Settings(), __doc__ or "", others))
    except (UsageError, DataError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _compare(comparison: Comparison, common: Settings) -> int:
    for name in comparison.networks:
        if name not in NETWORKS:
            raise UsageError(f"--networks must be among {', '.join(NETWORKS)}; got {name!r}")
    _check_same_budget(comparison.out, common)
    for settings in _runs(comparison, common):
        if not _train(settings):
            print("stopped; the same command goes on")
            return 130
    finished = _finished(comparison.out)
    table = _table(finished)
    print(table)
    (comparison.out / "table.md").write_text(table + "\n")
    (comparison.out / "runs.json").write_text(
        json.dumps([dataclasses.asdict(run) for run in finished], indent=1) + "\n"
    )
    curves: dict[str, list[Sequence[Mapping[str, Any]]]] = {}
    for run in finished:
        curves.setdefault(run.network, []).append(run.records)
    draw_comparison(curves).savefig(comparison.out / "curves.png", dpi=120)
    return 0


def _runs(comparison: Comparison, common: Settings) -> Iterator[Settings]:
    """The settings of each run: first all networks with one seed, then with the next."""
    for seed in comparison.seeds:
        for name in comparison.networks:
            out = comparison.out / f"{name}-{seed}"
            yield dataclasses.replace(
                common, model=name, seed=seed, out=out, resume=(out / "settings.json").exists()
            )


def _train(settings: Settings) -> bool:
    """Trains a network unless that was done before; returns whether it came to its end."""
    if settings.resume and _is_finished(settings.out):
        return True
    print(f"{settings.model}, seed {settings.seed}")
    run = prepare(settings)
    state = train(run)
    done = int(state.step) == run.steps
    if done:
        write_pictures(run, state)
    # Or the programs of all networks would stay in memory.
    jax.clear_caches()
    return done


def _finished(out: Path) -> list[FinishedRun]:
    """All runs in a directory that came to their end."""
    directories = [file.parent for file in sorted(out.glob("*/settings.json"))]
    finished = [directory for directory in directories if _is_finished(directory)]
    settings = [read_settings(directory) for directory in finished]
    return [
        FinishedRun(own["model"], own["seed"], read_records(directory))
        for directory, own in zip(finished, settings, strict=True)
    ]


def _is_finished(directory: Path) -> bool:
    # Pictures come after the last checkpoint, but also where training was stopped by hand.
    if not (directory / "curves.png").exists():
        return False
    records = read_records(directory)
    return bool(records) and records[-1]["step"] == read_settings(directory)["steps"]


def _check_same_budget(out: Path, common: Settings) -> None:
    wanted = to_record(common)
    for file in sorted(out.glob("*/settings.json")):
        for name, value in read_settings(file.parent).items():
            if name not in ("model", "seed") and wanted[name] not in (None, value):
                raise UsageError(
                    f"{file.parent} was trained with another {name}: {value!r}, not "
                    f"{wanted[name]!r}; choose another --out"
                )


def _table(finished: Sequence[FinishedRun]) -> str:
    """A row a network: mean and deviation over its seeds, in percent."""
    lines = [
        "| network | seeds | mean IoU, % | class accuracy, % | pixel accuracy, % |",
        "|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(run.network for run in finished):
        runs = [run for run in finished if run.network == name]
        cells = [
            _mean_and_deviation([100 * run.last(measure) for run in runs])
            for measure in ("mean_iou", "class_accuracy", "pixel_accuracy")
        ]
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean_and_deviation(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"


if __name__ == "__main__":
    sys.exit(main())
