"""The JSON files that programs write, and what a benchmark's file says about the machine."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import jax

from experiments.common.program import UserError


def write_json(file: Path, content: object) -> None:
    """Writes a value as indented JSON."""
    file.write_text(json.dumps(content, indent=2) + "\n")


def make_writable(out: Path) -> None:
    """Creates a benchmark's file and its directory before hours of timing depend on them.

    Raises:
      UserError: that is not possible.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.open("a").close()
    except OSError as error:
        raise UserError(f"--out must be a file that can be written; got {error}") from error


def write(out: Path, figures: Mapping[str, object], device: jax.Device | None = None) -> None:
    """Writes a benchmark's figures and the machine they were measured on, and prints the path.

    Args:
      out: the JSON file.
      figures: the content of the file.
      device: the device that was measured, by default JAX's default device.
    """
    machine = {
        "jax": jax.__version__,
        "device": (device or jax.devices()[0]).device_kind,
        "cores": cores(),
    }
    write_json(out, {**machine, **figures})
    print(f"figures are in {out}")


def cores() -> int:
    """The number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
