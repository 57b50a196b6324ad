"""What `pyproject.toml` says twice, what a file pattern must not miss, and what an index shows."""

import importlib.metadata
import re
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


def test_every_python_version_that_is_promised_is_tested(pyproject):
    named = [
        classifier.rpartition(" ")[2]
        for classifier in pyproject["project"]["classifiers"]
        if classifier.startswith("Programming Language :: Python :: ")
    ]
    for workflow in ("ci.yml", "release.yml"):
        text = (_ROOT / ".github" / "workflows" / workflow).read_text()
        (matrix,) = re.findall(r"python: (\[.*\])", text)
        assert re.findall(r'"(.*?)"', matrix) == named
    assert pyproject["project"]["requires-python"] == f">={named[0]}"


def test_the_repository_is_the_same_everywhere(pyproject):
    repository = pyproject["project"]["urls"]["Repository"]
    assert all(url.startswith(repository) for url in pyproject["project"]["urls"].values())
    for substitution in pyproject["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"][
        "substitutions"
    ]:
        assert f"({repository}/" in substitution["replacement"]
    assert f"repository-code: {repository}\n" in (_ROOT / "CITATION.cff").read_text()


def test_links_that_an_index_shows_lead_to_files_of_the_release(pyproject):
    description = importlib.metadata.metadata("jaxbox")["Description"]
    links = re.findall(r"\]\(([^)#][^)]*)\)", description)
    assert all(link.startswith("https://") for link in links)
    version = importlib.metadata.version("jaxbox")
    repository = re.escape(pyproject["project"]["urls"]["Repository"])
    form = re.compile(rf"{repository}/(?:raw|blob)/v{re.escape(version)}/([^#]*)")
    files = [match[1] for match in map(form.match, links) if match]
    assert "docs/predictions.png" in files
    assert all((_ROOT / file).is_file() for file in files)
