"""Compares variants of how boxes start and move in training, on one budget.

Each variant differs from the library's own, which is always among them, in one respect. Each run is
a directory VARIANT-SEED in --out. The same command continues where it was stopped, leaves finished
runs as they are, and writes a table of all runs in --out (table.md, runs.json), their learning
curves (curves.png) and how their boxes learnt (box_statistics.png in each run). Differences are of
runs with the same seed.

All arguments but --variants, --seeds and --out are those of cityscapes_boxenet.py and apply to
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
from experiments.segmentation.comparison import (
    Comparison,
    FinishedRun,
    mean_and_deviation,
    paired_difference,
)
from experiments.segmentation.drawing import draw_comparison
from experiments.segmentation.training.box_learning import BOX_LEARNING, LIBRARY
from experiments.segmentation.training.settings import Settings, parse

_HEADER = "| variant | what differs | seeds | mean IoU, % | difference | at minimum size, % |"


@dataclass(frozen=True)
class Variants:
    """The variants to compare, and how."""

    variants: tuple[str, ...] = tuple(BOX_LEARNING)
    """Names of the variants of how boxes start and move."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; the network is trained once with each, in each variant."""
    out: Path = Path("runs/boxes")
    """Directory of the runs and of the comparison."""


def main(arguments: Sequence[str] | None = None) -> int | None:
    """Runs the program; returns 130 if training was stopped by Ctrl-C."""
    compared, others = read_settings_and_rest(Variants, arguments, description=__doc__)
    keep_freed_memory()
    return _compare(compared, parse(Settings(track_boxes=True), __doc__ or "", others))


def _compare(compared: Variants, common: Settings) -> int | None:
    for name in compared.variants:
        if name not in BOX_LEARNING:
            raise UserError(f"--variants must be among {', '.join(BOX_LEARNING)}; got {name!r}")
    if common.box_learning != LIBRARY:
        raise UserError(f"--box-learning has no effect here; give --variants {common.box_learning}")
    if not common.track_boxes:
        raise UserError("--no-track-boxes has no effect here; the table needs what is tracked")
    out = compared.out
    table_file = table_output(out / "table.md", _HEADER)
    runs_file = json_output(out / "runs.json", ("name", "seed", "records"))
    curves_file = picture(out / "curves.png")
    variants = (LIBRARY, *(name for name in compared.variants if name != LIBRARY))
    comparison = Comparison("box_learning", variants, compared.seeds, out, common)
    comparison.check(table_file, runs_file, curves_file)
    if not comparison.train():
        print("stopped; the same command goes on")
        return 130
    finished = comparison.finished()
    text = table(finished)
    print(text)
    table_file.write(f"{text}\n".encode())
    write_json(runs_file, [dataclasses.asdict(run) for own in finished.values() for run in own])
    curves = {name: [run.records for run in own] for name, own in finished.items()}
    save_figure(draw_comparison(curves), curves_file, dpi=120)
    return None


def table(finished: Mapping[str, Sequence[FinishedRun]]) -> str:
    """A Markdown table with a row for each variant; differences are from the library's own."""
    lines = [_HEADER, "|---|---|---|---|---|---|"]
    base = finished[LIBRARY]
    ordered = {name: finished[name] for name in BOX_LEARNING if name in finished}
    for name, runs in ordered.items():
        cells = [
            name,
            BOX_LEARNING[name].summary,
            f"{len(runs)}",
            mean_and_deviation(runs, "mean_iou"),
            "" if name == LIBRARY else paired_difference(runs, base),
            f"{100 * _share_at_minimum(runs):.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _share_at_minimum(runs: Sequence[FinishedRun]) -> float:
    """The share of boxes at the minimum size at the end, the mean over layers and runs."""
    shares = [layer["at_minimum"] for run in runs for layer in run.records[-1]["boxes"].values()]
    return sum(shares) / len(shares)
