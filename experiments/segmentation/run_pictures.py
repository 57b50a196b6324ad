"""The pictures in a run's directory."""

from pathlib import Path
from typing import Final

from experiments.common.outputs import OutputFile, is_marked

PICTURES: Final = ("predictions", "curves", "boxes", "box_statistics")
"""The pictures that training writes."""


def run_picture(run: Path, name: str) -> OutputFile:
    """A picture `NAME.png` in a run's directory, which an older program may have written."""
    return OutputFile(run / f"{name}.png", _is_own, None)


def check_pictures(run: Path) -> None:
    """Checks the pictures that training writes, before any work; see `OutputFile.check`."""
    for name in PICTURES:
        run_picture(run, name).check()


def _is_own(data: bytes) -> bool:
    """Whether a picture is this project's; older programs left it to Matplotlib to mark it."""
    return is_marked(data) or (data.startswith(b"\x89PNG") and b"Software\0Matplotlib" in data)
