"""What `pyproject.toml` says twice, and what a file pattern must not miss."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

_ROOT = Path(__file__).parents[1]


@pytest.fixture
def pyproject():
    return tomllib.loads((_ROOT / "pyproject.toml").read_text())


def test_the_kernels_are_compiled_for_the_oldest_jaxlib(pyproject):
    # A newer one's headers make a library that the oldest refuses.
    lists = pyproject["build-system"]["requires"], pyproject["project"]["dependencies"]
    build, use = ({r.name: r.specifier for r in map(Requirement, names)} for names in lists)
    (pinned,) = build["jaxlib"]
    assert pinned.operator == "=="
    assert f">={pinned.version}" in map(str, use["jaxlib"])


def test_uv_rebuilds_when_a_source_of_the_kernels_changes(pyproject):
    keys = [key["file"] for key in pyproject["tool"]["uv"]["cache-keys"]]
    watched = {path for key in keys if not key.startswith("/") for path in _ROOT.glob(key)}
    sources = [path for path in (_ROOT / "jaxbox_kernels" / "cpu").iterdir() if path.is_file()]
    kinds = {".cc", ".h", ".py", ".txt"}
    assert sources
    assert {path for path in sources if path.suffix in kinds} <= watched
