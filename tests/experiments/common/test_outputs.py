"""Outputs: checked before any work, written whole, and never in place of somebody else's file."""

import errno
import os
import stat
from pathlib import Path

import cv2
import numpy as np
import pytest

from experiments.common import outputs
from experiments.common.outputs import (
    is_marked,
    json_output,
    make_directory,
    mark,
    picture,
    table_output,
    write_json,
)
from experiments.common.program import UserError


def encoded(rng, suffix=".png"):
    pixels = rng.integers(0, 256, (5, 7, 3)).astype(np.uint8)
    return pixels, cv2.imencode(suffix, pixels)[1].tobytes()


def test_a_marked_picture_is_the_same_picture(rng):
    pixels, data = encoded(rng)
    assert not is_marked(data)
    marked = mark(data)
    assert is_marked(marked)
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(marked, np.uint8), 1), pixels)


def test_outputs_replace_what_was_written_before_and_nothing_else(tmp_path, rng):
    _, data = encoded(rng)
    own = {
        picture(tmp_path / "a.png"): mark(data),
        json_output(tmp_path / "a.json", ["step"]): b'{"step": 1}',
        table_output(tmp_path / "a.md", "| network |"): b"| network |\n|---|\n",
    }
    for file, content in own.items():
        file.check()
        assert not file.path.exists()
        for _ in range(2):
            file.write(content)
            file.check()
            assert file.path.read_bytes() == content
        for foreign in (data, b"mine", b"\x00", b'{"mine": 1}', b"| network | mine\n"):
            file.path.write_bytes(foreign)
            for use in (file.check, lambda file=file, content=content: file.write(content)):
                with pytest.raises(UserError, match=r"was not written by this program and is left"):
                    use()
            assert file.path.read_bytes() == foreign
        file.path.write_bytes(b"")
        file.write(content)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.json", "a.md", "a.png"]
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) & 0o444 == 0o444


def bad_files(directory):
    """Places where no file can be written, for whoever runs this, root too."""
    (directory / "file").write_text("")
    os.mkfifo(directory / "pipe")
    return [
        directory,
        directory / "file" / "below",
        directory / ("n" * 300),
        directory / "n" / ("n" * 300) / "n",
        directory / "pipe",
        directory / "nul\0",
        *map(directory.joinpath, ("/proc/none/file", "/dev/full", "/sys/file")),
    ]


def test_places_where_nothing_can_be_written_are_named(tmp_path):
    for place in bad_files(tmp_path):
        with pytest.raises(UserError, match=r"^--out must be a file that can be written; got '"):
            json_output(place, []).check()
        if place not in (tmp_path, tmp_path / "n" / ("n" * 300) / "n"):
            with pytest.raises(UserError, match=r"^--out must be a directory that can be written"):
                make_directory(place)
    assert not list(tmp_path.glob(".writing*"))


def test_a_write_that_fails_leaves_the_old_file_and_names_it(tmp_path, monkeypatch):
    file = json_output(tmp_path / "a.json", ["step"])
    write_json(file, {"step": 1})
    monkeypatch.setattr(outputs, "_temporary", lambda _: Path("/dev/full"))
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)  # of /dev/full
    with pytest.raises(OSError, match="No space left") as caught:
        write_json(file, {"step": 2})
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(file.path))
    assert file.path.read_text() == '{\n  "step": 1\n}\n'


def test_a_link_stays_one_and_its_file_is_written(tmp_path):
    (tmp_path / "link.json").symlink_to(tmp_path / "file.json")
    write_json(json_output(tmp_path / "link.json", ["step"]), {"step": 1})
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "file.json").exists()
