"""The JSON files of benchmarks, and what they say about the machine."""

import os
from collections.abc import Mapping
from pathlib import Path

import jax

from experiments.common.outputs import json_output, write_json

_MACHINE = ("jax", "device", "cores")


def make_writable(out: Path) -> None:
    """Checks a benchmark's file, and creates its directory, before hours of timing depend on them.

    Raises:
      UserError: the file cannot be written, or holds something that no benchmark wrote.
    """
    json_output(out, _MACHINE).check()


def write(out: Path, figures: Mapping[str, object], device: jax.Device | None = None) -> None:
    """Writes a benchmark's figures and the machine they were measured on, and prints the path.

    Args:
      out: the JSON file.
      figures: the content of the file.
      device: the device that was measured, by default JAX's default device.
    """
    used = device or jax.devices()[0]
    machine = dict(zip(_MACHINE, (jax.__version__, used.device_kind, cores()), strict=True))
    write_json(json_output(out, _MACHINE), {**machine, **figures})
    print(f"figures are in {out}")


def cores() -> int:
    """The number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
