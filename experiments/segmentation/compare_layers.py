"""Five kinds of context blocks in the same ENet: what they cost and how well they segment.

The dilated convolutions of ENet's eight dilated bottlenecks are as they are, or replaced by
`jaxbox.surgery.replace_convs`: boxes (the paper's box block), DCLS, octave convolution or DO-Conv.
Everything else is the same, and so is the budget. Each run is a directory CONTEXT-SEED in --out;
the same command again goes on where it was stopped, leaves finished runs as they are, and prints
and writes the table of all runs of --contexts (table.md).

All arguments but --contexts, --seeds, --rounds and --out are those of cityscapes_boxenet.py and
hold for every run.

Parameters and multiply-adds are counted for one image. Times are of one image in the form for
inference, medians of rounds in which each network runs once; only their ratios mean much.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import tyro

from experiments.common.timing import median_milliseconds, predictor
from experiments.segmentation.comparison import Comparison, FinishedRun, mean_and_deviation
from experiments.segmentation.data.datasets import open_dataset
from experiments.segmentation.data.errors import DataError
from experiments.segmentation.training.checkpoints import RunError
from experiments.segmentation.training.memory import keep_freed_memory
from experiments.segmentation.training.network import build_network
from experiments.segmentation.training.settings import (
    CONTEXTS,
    Context,
    Settings,
    UsageError,
    image_size,
    parse,
)
from jaxbox import models
from jaxbox.models.cost import Cost, cost
from jaxbox.models.inference import for_inference


@dataclass(frozen=True)
class Layers:
    """What to compare."""

    contexts: tuple[Context, ...] = CONTEXTS
    """Kinds of context blocks; times are to the first's."""
    seeds: tuple[int, ...] = (0,)
    """Each network is trained once with each."""
    rounds: int = 9
    """How often each network is timed; 0 leaves the times out."""
    out: Path = Path("runs/layers")
    """Directory of the runs and of the table."""


class Row(NamedTuple):
    """What is known of a network; no time where none was taken."""

    cost: Cost
    milliseconds: float | None
    runs: Sequence[FinishedRun]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns the exit code: 0 done, 130 stopped by Ctrl-C, 2 a user's error."""
    compared, others = tyro.cli(
        Layers, args=arguments, description=__doc__, return_unknown_args=True
    )
    keep_freed_memory()
    try:
        return _compare(compared, parse(Settings(model="enet"), __doc__ or "", others))
    except (UsageError, DataError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _compare(compared: Layers, common: Settings) -> int:
    if compared.rounds < 0:
        raise UsageError(f"--rounds must be 0 or greater; got {compared.rounds}")
    comparison = Comparison("context", compared.contexts, compared.seeds, compared.out, common)
    if not comparison.train():
        print("stopped; the same command goes on")
        return 130
    text = table(_rows(compared, comparison))
    print(text)
    (compared.out / "table.md").write_text(text + "\n")
    return 0


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
    """A line for each kind of block; times are to the first's."""
    lines = [
        "| context block | parameters | multiply-adds (M) | ms | ratio | seeds | mean IoU, % |",
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
    networks: Mapping[Context, models.SegmentationNetwork], size: tuple[int, int], rounds: int
) -> dict[Context, float]:
    """Median milliseconds of each network for one image; nothing without rounds."""
    if not rounds:
        return {}
    image = jax.random.normal(jax.random.key(1, impl="rbg"), (1, *size, 3))
    runs = {name: predictor(for_inference(network), image) for name, network in networks.items()}
    return median_milliseconds(runs, rounds)
