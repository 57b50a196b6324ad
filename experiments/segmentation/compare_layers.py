"""Compares six kinds of context blocks in the same ENet: their cost and their scores.

The dilated convolutions of ENet's eight dilated bottlenecks stay as they are, or are replaced by
`jaxbox.surgery.replace_convs`: by boxes (the paper's box block), weighted boxes, DCLS, octave
convolution or DO-Conv. Everything else is the same, and so is the budget. Each run is a directory
CONTEXT-SEED in --out. The same command continues where it was stopped, leaves finished runs as they
are, and prints and writes a table of all runs of --contexts (table.md).

All arguments but --contexts, --seeds, --rounds and --out are those of cityscapes_boxenet.py and
apply to every run.

Parameters and multiply-adds are counted for one image. Times are for one image and a network
prepared for inference: medians of rounds in which each network runs once. Only their ratios carry
over to other machines.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax

from experiments.common.command_line import (
    MOST_ROUNDS,
    check_whole,
    read_settings_and_rest,
)
from experiments.common.memory import keep_freed_memory
from experiments.common.outputs import table_output
from experiments.common.program import UserError
from experiments.common.timing import median_milliseconds, predictor
from experiments.segmentation.comparison import Comparison, FinishedRun, mean_and_deviation
from experiments.segmentation.data.datasets import open_dataset
from experiments.segmentation.data.source import Size
from experiments.segmentation.training.network import build_network
from experiments.segmentation.training.settings import (
    CONTEXTS,
    Context,
    Settings,
    image_size,
    parse,
)
from jaxbox import models
from jaxbox.models.cost import Cost, cost
from jaxbox.models.inference import for_inference

_HEADER = "| context block | parameters | multiply-adds (M) | ms | ratio | seeds | mean IoU, % |"


@dataclass(frozen=True)
class Layers:
    """The context blocks to compare, and how."""

    contexts: tuple[Context, ...] = CONTEXTS
    """Kinds of context blocks; the ratios of times are to the first."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; each network is trained once with each."""
    rounds: int = 9
    """Number of times that each network is timed; 0 leaves the times out."""
    out: Path = Path("runs/layers")
    """Directory of the runs and of the table."""


class Row(NamedTuple):
    """A row of the table.

    Attributes:
      cost: the network's parameters and multiply-adds for one image.
      milliseconds: the median time for one image, or None if it was not timed.
      runs: the finished runs of the network.
    """

    cost: Cost
    milliseconds: float | None
    runs: Sequence[FinishedRun]


def main(arguments: Sequence[str] | None = None) -> int | None:
    """Runs the program; returns 130 if training was stopped by Ctrl-C."""
    compared, others = read_settings_and_rest(Layers, arguments, description=__doc__)
    keep_freed_memory()
    return _compare(compared, parse(Settings(model="enet"), __doc__ or "", others))


def _compare(compared: Layers, common: Settings) -> int | None:
    if compared.rounds < 0:
        raise UserError(f"--rounds must be 0 or greater; got {compared.rounds}")
    check_whole("--rounds", compared.rounds, 0, MOST_ROUNDS)
    if common.context != Settings().context:
        raise UserError(f"--context has no effect here; give --contexts {common.context}")
    table_file = table_output(compared.out / "table.md", _HEADER)
    comparison = Comparison("context", compared.contexts, compared.seeds, compared.out, common)
    comparison.check(table_file)
    if not comparison.train():
        print("stopped; the same command goes on")
        return 130
    text = table(_rows(compared, comparison))
    print(text)
    table_file.write(f"{text}\n".encode())
    return None


def _rows(compared: Layers, comparison: Comparison) -> dict[str, Row]:
    common = comparison.common
    dataset = open_dataset(common.data, image_size(common), common.seed)
    networks = {
        name: build_network(
            dataclasses.replace(common, context=name), len(dataset.train.classes), dataset.size
        )
        for name in compared.contexts
    }
    times = _time(networks, dataset.size, compared.rounds)
    finished = comparison.finished()
    return {
        name: Row(cost(network, dataset.size), times.get(name), finished[name])
        for name, network in networks.items()
    }


def table(rows: Mapping[str, Row]) -> str:
    """A Markdown table with a row for each kind of block; ratios of times are to the first."""
    lines = [
        _HEADER,
        "|---|---|---|---|---|---|---|",
    ]
    base = next(iter(rows.values())).milliseconds
    for name, row in rows.items():
        figures = [f"{row.cost.parameters:,}", f"{row.cost.true_multiply_adds / 1e6:,.1f}"]
        if row.milliseconds is None or base is None:
            figures += ["", ""]
        else:
            figures += [f"{row.milliseconds:.1f}", f"{row.milliseconds / base:.2f}"]
        figures += [f"{len(row.runs)}", mean_and_deviation(row.runs, "mean_iou")]
        lines.append(f"| {name} | {' | '.join(figures)} |")
    return "\n".join(lines)


def _time(
    networks: Mapping[Context, models.SegmentationNetwork], size: Size, rounds: int
) -> dict[Context, float]:
    """The median time of each network for one image in milliseconds; empty without rounds."""
    if not rounds:
        return {}
    image = jax.random.normal(jax.random.key(1, impl="rbg"), (1, *size, 3))
    runs = {name: predictor(for_inference(network), image) for name, network in networks.items()}
    return median_milliseconds(runs, rounds)
