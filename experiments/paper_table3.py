"""Table 3 of the box convolution paper: what the networks cost, counted and timed.

Counts are for one image and need no run. Times are of one image on this machine's default device,
the networks in their form for use (BatchNorm folded, no dropout, boxes on whole pixels), medians of
rounds in which each network runs once: only the ratios mean much. Prints a table and writes JSON.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import tyro
from flax import nnx

from jaxbox import models
from jaxbox.models.cost import Cost, cost
from jaxbox.models.inference import for_inference, round_boxes

_CLASSES = 19
_SIZE = (512, 1024)


@dataclass(frozen=True)
class Published:
    """A column of Table 3.

    Attributes:
      base: the network that its ratios are to.
      parameters: in millions.
      multiply_adds: in billions.
      cpu: milliseconds on one core of a laptop of 2018.
      gpu: milliseconds on a GTX 1050.
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
    """How often each network is timed; 0 leaves the times out."""
    out: Path = Path("runs/paper_table3.json")
    """Where the figures go."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns the exit code."""
    settings = tyro.cli(
        Annotated[Settings, tyro.conf.arg(name="")], args=arguments, description=__doc__
    )
    if settings.rounds < 0:
        print(f"error: --rounds must be 0 or more; got {settings.rounds}", file=sys.stderr)
        return 2
    costs = {name: _count(name) for name in PUBLISHED}
    times = _time(settings.rounds) if settings.rounds else {}
    print(_table(costs, times))
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    settings.out.write_text(json.dumps(_report(costs, times), indent=2) + "\n")
    print(f"figures are in {settings.out}")
    return 0


def _create(name: str) -> models.SegmentationNetwork:
    return models.create(name, _CLASSES, _SIZE, rngs=nnx.Rngs(jax.random.key(0, impl="rbg")))


def _count(name: str) -> Cost:
    return cost(nnx.eval_shape(lambda: _create(name)), _SIZE)


def _time(rounds: int) -> dict[str, float]:
    """Median milliseconds of each network."""
    images = jax.random.normal(jax.random.key(1, impl="rbg"), (1, *_SIZE, 3))
    runs = {name: _compile(name, images) for name in PUBLISHED}
    milliseconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            milliseconds[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(times) for name, times in milliseconds.items()}


def _compile(name: str, images: jax.Array) -> Callable[[], jax.Array]:
    graph, state = nnx.split(for_inference(round_boxes(_create(name))))

    def predict(state: nnx.State, images: jax.Array) -> jax.Array:
        return jnp.argmax(nnx.merge(graph, state)(images), axis=-1)

    compiled = jax.jit(predict)
    jax.block_until_ready(compiled(state, images))
    return lambda: compiled(state, images)


def _device() -> str:
    device = jax.devices()[0]
    return f"{device.platform} ({device.device_kind})"


def _table(costs: dict[str, Cost], times: dict[str, float]) -> str:
    """One line a network; each figure beside the paper's, ratios to the base network's."""
    lines = [
        f"{'':14}{'parameters':>24}{'multiply-adds':>26}{'truly':>17}{'ratio':>7}"
        f"{'time ms':>10}{'ratio':>7}{'paper CPU':>11}{'GPU':>7}"
    ]
    for name, published in PUBLISHED.items():
        counted, base = costs[name], costs[published.base]
        original = PUBLISHED[published.base]
        line = (
            f"{name:14}{counted.parameters:>13,} ({published.parameters:5.3f} M)"
            f"{counted.multiply_adds:>16,} ({published.multiply_adds:4.1f} G)"
            f"{counted.true_multiply_adds:>17,}{counted.multiply_adds / base.multiply_adds:>7.3f}"
        )
        if times:
            line += f"{times[name]:>10.1f}{times[name] / times[published.base]:>7.3f}"
        else:
            line += f"{'-':>10}{'-':>7}"
        cpu, gpu = published.cpu / original.cpu, published.gpu / original.gpu
        lines.append(line + f"{cpu:>11.3f}{gpu:>7.3f}")
    lines.append(
        f"in brackets and in the last two columns (ratios): the paper; device: {_device()}"
    )
    return "\n".join(lines)


def _report(costs: dict[str, Cost], times: dict[str, float]) -> dict[str, object]:
    return {
        "image_size": _SIZE,
        "classes": _CLASSES,
        "device": _device(),
        "form": "BatchNorm folded, no dropout, boxes rounded to whole pixels",
        "networks": {
            name: {
                **costs[name]._asdict(),
                "milliseconds": times.get(name),
                "paper": asdict(published),
            }
            for name, published in PUBLISHED.items()
        },
    }


if __name__ == "__main__":
    sys.exit(main())
