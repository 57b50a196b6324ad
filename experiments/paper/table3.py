"""Table 3 of the box convolution paper: the cost of the networks, counted and timed.

Counts are for one image and need no run. Times are for one image on this machine's CPU, and on its
GPU if there is one. The networks are prepared for inference: BatchNorm folded, no dropout, and
boxes rounded to whole pixels or exact. Times are medians of rounds in which each network runs once;
only their ratios to the base network carry over to other machines. Prints two tables and writes
JSON.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import jax
from flax import nnx

from experiments.common import report
from experiments.common.command_line import MOST_ROUNDS, check_whole, read_settings
from experiments.common.timing import median_milliseconds, predictor
from jaxbox import models
from jaxbox.layers import BoxConv
from jaxbox.models.cost import Cost, cost
from jaxbox.models.inference import for_inference, round_boxes

_CLASSES = 19
_SIZE = (512, 1024)


@dataclass(frozen=True)
class Published:
    """The paper's figures for a network, a column of Table 3.

    Attributes:
      base: the base network, to which ratios are computed.
      parameters: the number of parameters in millions.
      multiply_adds: the number of multiply-adds in billions.
      cpu: the time in milliseconds on one core of an Intel i7-7700HQ.
      gpu: the time in milliseconds on an NVIDIA GTX 1050.
    """

    base: str
    parameters: float
    multiply_adds: float
    cpu: float
    gpu: float


PUBLISHED = {
    "enet": Published("enet", 0.356, 4.60, 558, 32.8),
    "boxenet": Published("enet", 0.243, 3.47, 478, 33.1),
    "enet-minus": Published("enet", 0.201, 2.95, 338, 21.2),
    "boxonlyenet": Published("enet", 0.124, 2.29, 414, 33.6),
    "erfnet": Published("erfnet", 2.06, 30.9, 1682, 78.4),
    "boxerfnet": Published("erfnet", 1.04, 16.0, 822, 44.0),
    "erfnet-minus": Published("erfnet", 1.02, 15.8, 772, 39.7),
}


@dataclass(frozen=True)
class Settings:
    """Counts and times the networks of the paper's Table 3."""

    rounds: int = 9
    """Number of times that each network is timed; 0 leaves the times out."""
    out: Path = Path("runs/paper_table3.json")
    """JSON file for the figures."""


class Timed(NamedTuple):
    """A network and the form of its boxes in which it is timed."""

    name: str
    form: Literal["no boxes", "rounded", "exact"]


type Milliseconds = dict[Timed, float]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program."""
    settings = read_settings(Settings, arguments, description=__doc__)
    check_whole("--rounds", settings.rounds, 0, MOST_ROUNDS)
    report.make_writable(settings.out)
    costs = {name: _count(name) for name in PUBLISHED}
    print(_count_table(costs))
    times = {}
    if settings.rounds:
        for platform, device in _devices().items():
            times[platform] = _time(device, settings.rounds)
            print(f"\n{_time_table(platform, device, times[platform])}")
    print()
    report.write(settings.out, _figures(costs, times))


def _devices() -> dict[str, jax.Device]:
    """The CPU, and the GPU if there is one."""
    devices = {"cpu": jax.devices("cpu")[0]}
    if jax.default_backend() == "gpu":
        devices["gpu"] = jax.devices()[0]
    return devices


def _create(name: str) -> models.SegmentationNetwork:
    return models.create(name, _CLASSES, _SIZE, rngs=nnx.Rngs(jax.random.key(0, impl="rbg")))


def _count(name: str) -> Cost:
    return cost(nnx.eval_shape(lambda: _create(name)), _SIZE)


def _time(device: jax.Device, rounds: int) -> Milliseconds:
    """The median time of each network and form on a device."""
    with jax.default_device(device):
        images = jax.random.normal(jax.random.key(1, impl="rbg"), (1, *_SIZE, 3))
        runs = {timed: run for name in PUBLISHED for timed, run in _compile(name, images)}
        return median_milliseconds(runs, rounds)


def _compile(name: str, images: jax.Array) -> Iterator[tuple[Timed, Callable[[], jax.Array]]]:
    """A network compiled in each of its forms."""
    model = for_inference(_create(name))
    if not any(isinstance(module, BoxConv) for _, module in nnx.iter_modules(model)):
        yield Timed(name, "no boxes"), predictor(model, images)
        return
    yield Timed(name, "rounded"), predictor(round_boxes(model), images)
    yield Timed(name, "exact"), predictor(model, images)


def _count_table(costs: dict[str, Cost]) -> str:
    """A table of counts beside the paper's, with ratios to the base network."""
    lines = [
        "for one image of {}x{} and {} classes; in brackets: the paper".format(*_SIZE, _CLASSES),
        f"{'':14}{'parameters':>23}{'multiply-adds':>27}{'ratio':>7}{'truly':>17}{'ratio':>7}",
    ]
    for name, published in PUBLISHED.items():
        counted, base = costs[name], costs[published.base]
        lines.append(
            f"{name:14}{counted.parameters:>12,} ({published.parameters:5.3f} M)"
            f"{counted.multiply_adds:>17,} ({published.multiply_adds:4.1f} G)"
            f"{counted.multiply_adds / base.multiply_adds:>7.3f}{counted.true_multiply_adds:>17,}"
            f"{counted.true_multiply_adds / base.true_multiply_adds:>7.3f}"
        )
    return "\n".join(lines)


def _time_table(platform: str, device: jax.Device, times: Milliseconds) -> str:
    """A table of times and ratios to the base network, beside the paper's."""
    lines = [
        f"{platform.upper()} ({device.device_kind}); BatchNorm folded, no dropout, one image",
        f"{'':14}{'boxes':10}{'ms':>9}{'ratio':>8}{'paper: ms':>12}{'ratio':>8}",
    ]
    for timed, milliseconds in times.items():
        published = PUBLISHED[timed.name]
        paper, paper_base = (asdict(p)[platform] for p in (published, PUBLISHED[published.base]))
        ratio = milliseconds / times[Timed(published.base, "no boxes")]
        lines.append(
            f"{timed.name:14}{timed.form:10}{milliseconds:>9.1f}{ratio:>8.3f}"
            f"{paper:>12.1f}{paper / paper_base:>8.3f}"
        )
    return "\n".join(lines)


def _figures(costs: dict[str, Cost], times: dict[str, Milliseconds]) -> dict[str, object]:
    return {
        "image_size": _SIZE,
        "classes": _CLASSES,
        "form": "BatchNorm folded, no dropout",
        "networks": {
            name: {**costs[name]._asdict(), "paper": asdict(published)}
            for name, published in PUBLISHED.items()
        },
        "times": [
            {**timed._asdict(), "platform": platform, "milliseconds": milliseconds}
            for platform, measured in times.items()
            for timed, milliseconds in measured.items()
        ],
    }
