"""Measurements and summaries as text."""

from collections.abc import Mapping

from experiments.benchmarks.box_conv.contestants import NHWC, PLANES
from experiments.benchmarks.box_conv.measurements import Block, Measurement, Summary
from experiments.benchmarks.box_conv.shapes import FULL, Direction

_WIDTH = 51  # of all columns of one direction together


def table(block: Block, rounds: int) -> str:
    """A table with one line for each contestant: forward, and forward with backward."""
    rows: dict[str, dict[bool, Measurement]] = {}
    for measurement in block.measurements:
        row = rows.setdefault(_row_name(measurement), {})
        row[measurement.direction == "forward"] = measurement
    floors = " and ".join(f"{block.floor(d):.4f} ms {d}" for d in FULL)
    columns = f"{'ms':>9} {block.baseline:>9}{'floor':>8}{'GB/s':>8}{'MB':>8}{'compile':>8}"
    return "\n".join(
        [
            f"B,C,H,W,F = {block.shape}, {block.dtype}; medians of {rounds} rounds (* of fewer)",
            f"memory floor: {floors}, at the {block.bytes_per_second / 1e9:.1f} GB/s of copies",
            f"{block.baseline}: times faster than it; floor: times the memory floor; GB/s: of the"
            " bytes that have to be moved; MB: temporaries at their peak; compile: seconds",
            f"{'':40}{'forward':^{_WIDTH}}{'forward+backward':^{_WIDTH}}".rstrip(),
            f"{'':40}{columns}{columns}",
            *(
                f"{name:40}{_cells(row.get(True), rounds)}{_cells(row.get(False), rounds)}".rstrip()
                for name, row in rows.items()
            ),
        ]
    )


def _row_name(measurement: Measurement) -> str:
    """The name of a line; a direction with only one gradient has a line of its own."""
    if measurement.direction in FULL:
        return measurement.name
    return f"{measurement.name}, {measurement.direction.removeprefix('forward+')} only"


def _cells(measurement: Measurement | None, rounds: int) -> str:
    if measurement is None:
        return f"{'':{_WIDTH}}"
    mark = "*" if measurement.rounds < rounds else " "
    digits = 2 if measurement.milliseconds >= 1 else 4
    return (
        f"{measurement.milliseconds:>9.{digits}f}{mark}"
        f"{measurement.times_faster_than_baseline:>9.2f}{measurement.times_floor:>8.1f}"
        f"{measurement.bytes_per_second / 1e9:>8.1f}{measurement.temporary_bytes / 1e6:>8.1f}"
        f"{measurement.compile_seconds:>8.2f}"
    )


def summary_text(summary: Summary) -> str:
    """A sentence for a summary."""

    def both(ratios: Mapping[Direction, float]) -> str:
        return " and ".join(f"{ratios[direction]:.2f} ({direction})" for direction in FULL)

    return (
        f"{summary.dtype}, geometric means over shapes: {PLANES} is"
        f" {both(summary.planes_times_faster_than_baseline)} times faster than"
        f" {summary.baseline},\nat {both(summary.planes_times_floor)} times the memory floor;"
        f" {NHWC} takes at most {summary.largest_nhwc_to_planes:.2f} times as long"
        f" ({summary.largest_at})\n"
    )
