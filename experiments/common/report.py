"""The file of figures that a benchmark leaves, and what every such file says of the machine."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import jax


class ReportError(Exception):
    """The file cannot be written; the message says why."""


def make_writable(out: Path) -> None:
    """Makes the file and its directory, so that hours of timing are not lost at the end.

    Raises:
      ReportError: that is not possible.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.open("a").close()
    except OSError as error:
        raise ReportError(f"--out must be a file that can be written; got {error}") from error


def write(out: Path, figures: Mapping[str, object], device: jax.Device | None = None) -> None:
    """Writes figures as JSON, with the device that they are of (JAX's default), and says where."""
    of_machine = {
        "jax": jax.__version__,
        "device": (device or jax.devices()[0]).device_kind,
        "cores": cores(),
    }
    out.write_text(json.dumps({**of_machine, **figures}, indent=2) + "\n")
    print(f"figures are in {out}")


def cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
