"""What `import jaxbox` does, and what it leaves for later."""

import importlib
import importlib.metadata
import importlib.resources
import inspect
import subprocess
import sys

import pytest

import jaxbox
from jaxbox import layers


def _run(program):
    subprocess.run([sys.executable, "-P", "-c", program], check=True)


def test_it_initialises_no_backend():
    _run(
        "import jaxbox, jaxbox_kernels, jax\n"
        "from jax._src import xla_bridge\n"  # Nothing public tells.
        "assert not xla_bridge.backends_are_initialized()\n"
        "for name in jaxbox.__all__:\n"
        "    getattr(jaxbox, name)\n"
        "assert not xla_bridge.backends_are_initialized()\n"
        "jax.devices()\n"
        "assert xla_bridge.backends_are_initialized()"
    )


def test_it_loads_only_what_the_operations_need():
    _run(
        "import sys, jaxbox\n"
        "assert callable(jaxbox.box_conv)\n"
        "assert callable(jaxbox.dcls_kernel)\n"
        "assert callable(jaxbox.doconv_kernel)\n"
        "assert callable(jaxbox.octave_conv)\n"
        "assert callable(jaxbox.octave_conv_transpose)\n"
        "heavy = {'flax', 'optax', 'matplotlib', 'cv2', 'grain', 'orbax', 'torch'}\n"
        "assert not heavy & set(sys.modules)\n"
        "kernels = {'jaxbox_kernels.mosaic_gpu.backend', 'jax.experimental.pallas'}\n"
        "assert not kernels & set(sys.modules)\n"
        "layer = jaxbox.BoxConv\n"
        "assert 'flax' in sys.modules\n"
        "from jaxbox.layers import BoxConv\n"
        "assert layer is BoxConv"
    )


@pytest.mark.parametrize("name", jaxbox.__all__)
def test_every_public_name_is_there(name):
    assert getattr(jaxbox, name) is not None


@pytest.mark.parametrize("name", layers.__all__)
def test_every_layer_is_there(name):
    assert getattr(layers, name) is not None


def test_names_are_listed_before_they_are_loaded():
    _run("import jaxbox; assert set(jaxbox.__all__) <= set(dir(jaxbox))")


def test_each_name_is_loaded_from_its_module():
    assert set(jaxbox._LAZY) <= set(jaxbox.__all__)
    for name, module in jaxbox._LAZY.items():
        value = getattr(jaxbox, name)
        home = value if inspect.ismodule(value) else importlib.import_module(module)
        assert home.__name__ == module
        assert value is home or value is getattr(home, name)


def test_the_version_is_that_of_the_distribution():
    assert jaxbox.__version__ == importlib.metadata.version("jaxbox")


@pytest.mark.parametrize("package", ["jaxbox", "jaxbox_kernels"])
def test_type_checkers_are_told_to_read_the_annotations(package):
    assert importlib.resources.files(package).joinpath("py.typed").is_file()


def test_the_op_hides_the_module_of_its_name():
    # Importing a submodule sets it as an attribute of its package.
    importlib.import_module("jaxbox.ops.box_conv")
    assert inspect.isfunction(jaxbox.box_conv)


def test_unknown_names():
    with pytest.raises(AttributeError, match="module 'jaxbox' has no attribute 'nothing'"):
        _ = jaxbox.nothing
