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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.segmentation.comparison import Comparison, FinishedRun, mean_and_deviation
from experiments.segmentation.data.errors import DataError
from experiments.segmentation.pictures import draw_comparison
from experiments.segmentation.training.checkpoints import RunError
from experiments.segmentation.training.memory import keep_freed_memory
from experiments.segmentation.training.settings import Settings, UsageError, parse
from jaxbox.models import NETWORKS


@dataclass(frozen=True)
class Networks:
    """What to compare."""

    networks: tuple[str, ...] = ("enet", "boxenet")
    """Names of networks."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each network is trained once with each."""
    out: Path = Path("runs/comparison")
    """Directory of the runs and of the comparison."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns the exit code: 0 done, 130 stopped by Ctrl-C, 2 a user's error."""
    compared, others = tyro.cli(
        Networks, args=arguments, description=__doc__, return_unknown_args=True
    )
    keep_freed_memory()
    try:
        return _compare(compared, parse(Settings(), __doc__ or "", others))
    except (UsageError, DataError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _compare(compared: Networks, common: Settings) -> int:
    for name in compared.networks:
        if name not in NETWORKS:
            raise UsageError(f"--networks must be among {', '.join(NETWORKS)}; got {name!r}")
    comparison = Comparison("model", compared.networks, compared.seeds, compared.out, common)
    if not comparison.train():
        print("stopped; the same command goes on")
        return 130
    finished = comparison.finished()
    table = _table(finished)
    print(table)
    (compared.out / "table.md").write_text(table + "\n")
    runs = [dataclasses.asdict(run) for own in finished.values() for run in own]
    (compared.out / "runs.json").write_text(json.dumps(runs, indent=1) + "\n")
    curves = {name: [run.records for run in own] for name, own in finished.items()}
    draw_comparison(curves).savefig(compared.out / "curves.png", dpi=120)
    return 0


def _table(finished: Mapping[str, Sequence[FinishedRun]]) -> str:
    """A row a network: mean and deviation over its seeds, in percent."""
    lines = [
        "| network | seeds | mean IoU, % | class accuracy, % | pixel accuracy, % |",
        "|---|---|---|---|---|",
    ]
    for name, runs in finished.items():
        cells = [
            mean_and_deviation(runs, measure)
            for measure in ("mean_iou", "class_accuracy", "pixel_accuracy")
        ]
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)
