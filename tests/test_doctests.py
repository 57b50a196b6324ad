"""Every example in a docstring runs, under the strict promotion rules of `conftest.py`."""

import doctest
import importlib.util
import inspect
import pkgutil
import re

import pytest

PACKAGES = ("jaxbox", "jaxbox_kernels", "experiments.segmentation")


def _modules():
    names = []
    for package in map(importlib.import_module, PACKAGES):
        if package.__spec__.origin is not None:  # It has an `__init__.py`.
            names.append(package.__name__)
        prefix = f"{package.__name__}."
        names += [module.name for module in pkgutil.walk_packages(package.__path__, prefix)]
    # Libraries of native kernels are no modules, though their suffix may be that of one.
    return [name for name in names if importlib.util.find_spec(name).origin.endswith(".py")]


@pytest.mark.parametrize("name", _modules())
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Not by attribute: `jaxbox.box_conv` is the function, not its module.
    module = importlib.import_module(name)
    failed, attempted = doctest.testmod(module)
    assert failed == 0
    # doctest does not look into every object, and an example that never runs proves nothing.
    examples = re.findall(r"^\s*>>> ", inspect.getsource(module), re.MULTILINE)
    assert attempted == len(examples)
