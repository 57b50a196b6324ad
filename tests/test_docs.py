"""The documentation site: pages for everything public, and code that the build executes."""

import importlib
import re
from pathlib import Path

import pytest

import jaxbox

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if not {"_build", "generated"} & set(path.parts))
MODULES = (
    *("analysis", "boxes", "interop", "layers", "linen", "models", "models.blocks", "models.cost"),
    *("models.inference", "models.pruning", "optim", "plots", "surgery", "symmetric_boxes"),
)
# Code that a test runs, because the build has not what it needs.
RUN_BY_TESTS = {"export.md": "import onnxruntime"}


def _listed(module):
    """The names that a module's page lists, of which each gets a page."""
    page = (DOCS / "api" / f"{module}.md").read_text()
    lists = re.findall(r":nosignatures:\n\n((?:   \w+\n)+)", page)
    return set("".join(lists).split())


def _has_page(name):
    return name in _listed("jaxbox") or (DOCS / "api" / f"jaxbox.{name}.md").exists()


@pytest.mark.parametrize("name", jaxbox.__all__)
def test_each_public_name_has_a_page(name):
    assert _has_page(name)


@pytest.mark.parametrize("module", MODULES)
def test_each_public_name_of_a_module_has_a_page(module):
    public = set(importlib.import_module(f"jaxbox.{module}").__all__)
    submodules = {name for name in public if (DOCS / "api" / f"jaxbox.{module}.{name}.md").exists()}
    # What the package has itself has its page there.
    elsewhere = {name for name in public if getattr(jaxbox, name, None) is _value(module, name)}
    assert public - submodules - elsewhere <= _listed(f"jaxbox.{module}") <= public


def _value(module, name):
    return getattr(importlib.import_module(f"jaxbox.{module}"), name)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_the_build_executes_all_python(page):
    text = page.read_text()
    cells = re.findall(r"^```\{code-cell\}", text, re.MULTILINE)
    if cells:
        # Without this Sphinx shows cells and does not run them.
        assert text.startswith("---\nfile_format: mystnb\n")
    plain = re.findall(r"^```(?:python|py|ipython3?)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    by_tests = RUN_BY_TESTS.get(page.name)
    assert [block for block in plain if by_tests is None or by_tests not in block] == []


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES])
def test_programs_that_pages_name_exist(page):
    named = re.findall(
        r"\b((?:experiments|tests|jaxbox|jaxbox_kernels)/[\w/]+\.\w+)", page.read_text()
    )
    missing = [name for name in named if "NAME" not in name and not (ROOT / name).exists()]
    assert missing == []
