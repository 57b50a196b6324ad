"""Trains several networks, with several seeds each, on one budget, and compares them.

Each run is a directory NETWORK-SEED in --out. The same command continues where it was stopped,
leaves finished runs as they are, and writes a table of all runs in --out (table.md, runs.json) and
their learning curves (curves.png).

All arguments but --networks, --seeds and --out are those of cityscapes_boxenet.py and apply to
every run.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.common.command_line import read_settings_and_rest
from experiments.common.memory import keep_freed_memory
from experiments.common.outputs import json_output, picture, table_output, write_json
from experiments.common.pictures import save_figure
from experiments.common.program import UserError
from experiments.segmentation.comparison import Comparison, FinishedRun, mean_and_deviation
from experiments.segmentation.drawing import draw_comparison
from experiments.segmentation.training.settings import Settings, parse
from jaxbox.models import NETWORKS

_HEADER = "| network | seeds | mean IoU, % | class accuracy, % | pixel accuracy, % |"


@dataclass(frozen=True)
class Networks:
    """The networks to compare, and how."""

    networks: tuple[str, ...] = ("enet", "boxenet")
    """Names of the networks."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; each network is trained once with each."""
    out: Path = Path("runs/comparison")
    """Directory of the runs and of the comparison."""


def main(arguments: Sequence[str] | None = None) -> int | None:
    """Runs the program; returns 130 if training was stopped by Ctrl-C."""
    compared, others = read_settings_and_rest(Networks, arguments, description=__doc__)
    keep_freed_memory()
    return _compare(compared, parse(Settings(), __doc__ or "", others))


def _compare(compared: Networks, common: Settings) -> int | None:
    for name in compared.networks:
        if name not in NETWORKS:
            raise UserError(f"--networks must be among {', '.join(NETWORKS)}; got {name!r}")
    if common.model != Settings().model:
        raise UserError(f"--model has no effect here; give --networks {common.model}")
    out = compared.out
    table_file = table_output(out / "table.md", _HEADER)
    runs_file = json_output(out / "runs.json", ("name", "seed", "records"))
    curves_file = picture(out / "curves.png")
    comparison = Comparison("model", compared.networks, compared.seeds, out, common)
    comparison.check(table_file, runs_file, curves_file)
    if not comparison.train():
        print("stopped; the same command goes on")
        return 130
    finished = comparison.finished()
    table = _table(finished)
    print(table)
    table_file.write(f"{table}\n".encode())
    runs = [dataclasses.asdict(run) for own in finished.values() for run in own]
    write_json(runs_file, runs)
    curves = {name: [run.records for run in own] for name, own in finished.items()}
    save_figure(draw_comparison(curves), curves_file, dpi=120)
    return None


def _table(finished: Mapping[str, Sequence[FinishedRun]]) -> str:
    """A Markdown table with a row for each network: mean and deviation over its seeds."""
    lines = [
        _HEADER,
        "|---|---|---|---|---|",
    ]
    for name, runs in finished.items():
        cells = [
            mean_and_deviation(runs, metric)
            for metric in ("mean_iou", "class_accuracy", "pixel_accuracy")
        ]
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)
