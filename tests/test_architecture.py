"""Imports run one way, from programs down to kernels, as `docs/design.md` draws them."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("jaxbox", "jaxbox_kernels", "experiments")

# From the lowest layer to the highest: a module imports modules of its own layer or of lower ones.
LAYERS = (
    ("jaxbox_kernels.common",),
    ("jaxbox_kernels.backend",),
    ("jaxbox_kernels.non_finite", "jaxbox_kernels.strided_gradients"),
    ("jaxbox_kernels.xla",),
    ("jaxbox_kernels.mosaic_gpu",),
    ("jaxbox_kernels",),
    ("jaxbox.arguments",),
    ("jaxbox.boxes",),
    ("jaxbox.symmetric_boxes",),
    ("jaxbox.ops",),
    ("jaxbox.layers",),
    ("jaxbox.linen",),
    ("jaxbox.optim",),
    ("jaxbox.models",),
    ("jaxbox.analysis", "jaxbox.interop", "jaxbox.plots", "jaxbox.surgery"),
    ("jaxbox",),
    ("experiments.common",),
    ("experiments.segmentation.data",),
    ("experiments.segmentation.input",),
    ("experiments.segmentation.training",),
    ("experiments.segmentation",),
    ("experiments.benchmarks", "experiments.demos", "experiments.paper"),
    ("experiments",),
)
ARRAYS_ONLY = ("jaxbox_kernels", "jaxbox.arguments", "jaxbox.boxes", "jaxbox.ops")


def _modules():
    """Every module of the packages, by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path
    return found


MODULES = _modules()


def _imports(path):
    """Names of what a file imports, in functions too, but not for type checkers alone."""

    def visit(node):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from visit(child)

    return set(visit(ast.parse(path.read_text())))


def _module_of(name):
    """The module of ours that an imported name is, or is in; `None` for others' modules."""
    while name not in MODULES:
        name, _, _ = name.rpartition(".")
        if not name:
            return None
    return name


GRAPH = {
    name: {_module_of(imported) for imported in _imports(path)} - {None, name}
    for name, path in MODULES.items()
}


def _layer(module):
    """The number of the layer with the longest prefix of a module's name."""
    matches = [
        (len(prefix), number)
        for number, prefixes in enumerate(LAYERS)
        for prefix in prefixes
        if module == prefix or module.startswith(f"{prefix}.")
    ]
    return max(matches)[1]


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_to_lower_layers_only(package):
    upward = [
        f"{module} imports {imported}"
        for module in MODULES
        if module.partition(".")[0] == package
        for imported in GRAPH[module]
        if _layer(imported) > _layer(module)
    ]
    assert upward == []


def test_no_imports_form_a_cycle():
    graphlib.TopologicalSorter(GRAPH).prepare()  # Raises CycleError, which names the cycle.


def test_kernels_boxes_and_operations_know_arrays_only():
    libraries = {
        f"{module} imports {imported}"
        for module, path in MODULES.items()
        if module.startswith(ARRAYS_ONLY)
        for imported in _imports(path)
        if imported.partition(".")[0] in ("flax", "optax")
    }
    assert libraries == set()


def test_optimization_barriers_stand_in_one_file():
    files = [
        str(path.relative_to(ROOT))
        for name, path in MODULES.items()
        if not name.startswith("experiments") and "optimization_barrier" in path.read_text()
    ]
    assert files == ["jaxbox_kernels/common/xla_hints.py"]
