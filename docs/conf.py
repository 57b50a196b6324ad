"""How Sphinx builds this site: `sphinx-build -n -W --keep-going docs docs/_build`."""

import os
import re
import sys
import tempfile
from pathlib import Path

_ROOT = Path(__file__).parents[1]
# Code blocks run in processes of their own and use `experiments` too, which is no part of the
# installed package. The whole checkout on their path would hide that package.
_PROGRAMS = tempfile.TemporaryDirectory()
Path(_PROGRAMS.name, "experiments").symlink_to(_ROOT / "experiments")
_PATHS = (os.environ.get("PYTHONPATH"), _PROGRAMS.name)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, _PATHS))
# The site is the same wherever it is built.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["KERAS_BACKEND"] = "jax"
os.environ["MATPLOTLIBRC"] = str(Path(__file__).parent / "matplotlibrc")

from sphinx.util import inspect  # noqa: E402
from sphinx.util.nodes import make_refnode  # noqa: E402

import jaxbox  # noqa: E402

project = "jaxbox"
author = "the authors of jaxbox"
version = release = jaxbox.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

# Pages and notebooks.
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_timeout = 180
nb_execution_raise_on_error = True
# Messages of compilers and progress bars depend on the machine.
nb_output_stderr = "remove"
nb_number_source_lines = False

# The API reference.
default_role = "code"
autosummary_ignore_module_all = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
maximum_signature_line_length = 60
# Of types in signatures: those of other libraries, which have sites of their own, and names of ours
# that stand for a type or are a base class and are not public.
_UNDOCUMENTED = (
    "BatchNorm|BlockFactory|BottleneckBranch|BoxBranch|Boxes|ClassifierFactory|Color|Features|"
    "FoldableConv|Layer|Levels|Limits|NetworkFactory|Positions|StateDict|Window|_[A-Za-z]+"
)
nitpick_ignore_regex = [
    ("py:(class|obj|data|exc|type)", r"(?!jaxbox\.).*"),
    ("py:(class|obj|data|type)", rf"jaxbox\.(.*\.)?({_UNDOCUMENTED})"),
]

html_theme = "sphinx_book_theme"
html_title = "jaxbox"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": True,
    "use_fullscreen_button": False,
    # The sidebar has a field for searching already.
    "navbar_persistent": [],
}

# Pages whose text is elsewhere in the repository, by how other pages refer to it.
_INCLUDED = {"../experiments/README.md": "programs.md", "../README.md": "training_programs.md"}


def _link_to_pages(app, docname, source):
    """Points links to files outside of this folder to the pages that include them."""
    del app, docname
    for path, page in _INCLUDED.items():
        source[0] = source[0].replace(f"]({path}", f"]({page}")


def _skip_fields(app, what, name, member, skip, options):
    """Leaves out fields of named tuples and of Linen's layers, which are in docstrings."""
    del app, what, options
    is_field = type(member).__name__ == "_tuplegetter" or name in ("nnx_layer", "param_dtype")
    return True if is_field else skip


def _resolve_public_name(app, env, node, contnode):
    """Finds the page of an object that is public under several names, of which one has a page."""
    module, _, name = node.get("reftarget", "").rpartition(".")
    if node.get("refdomain") != "py" or not module.startswith("jaxbox"):
        return None
    found = getattr(sys.modules.get(module), name, None)
    canonical = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    objects = env.domains["py"].objects
    if canonical not in objects:
        return None
    entry = objects[canonical]
    fromdoc = node.get("refdoc", "")
    return make_refnode(app.builder, fromdoc, entry.docname, entry.node_id, contnode)


def _show_arguments(app, what, name, obj, options, signature, returns):
    """Shows arguments as they are written in the source.

    The metaclass of Flax's modules hides those of their constructors, and classes and functions
    that are defaults would be shown as `<class ...>` and `<function ...>`.
    """
    del app, name, options
    if what == "class" and "**kwargs" in (signature or ""):
        signature = inspect.stringify_signature(
            inspect.signature(obj.__init__, bound_method=True),
            show_return_annotation=False,
            unqualified_typehints=True,
        )
    if signature is None:
        return None
    # Flax gives every Linen layer these two.
    signature = re.sub(r", parent: .*_Sentinel object.*?>, name: .*? = None", "", signature)
    return re.sub(
        r"<(?:class|function) '?(?:\w+\.)*(\w+).*?(?: at 0x\w+|')>", r"\1", signature
    ), returns


def setup(app):
    """Connects the functions above to Sphinx."""
    app.connect("autodoc-process-signature", _show_arguments)
    app.connect("missing-reference", _resolve_public_name)
    app.connect("source-read", _link_to_pages)
    app.connect("autodoc-skip-member", _skip_fields)
