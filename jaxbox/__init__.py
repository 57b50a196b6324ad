"""Box convolution and its sister layers for JAX and Flax.

`jaxbox.box_conv` is the operation, `jaxbox.BoxConv` the Flax NNX layer. The sister layers are
`jaxbox.DclsConv`, `jaxbox.OctConv` (and `jaxbox.OctConvTranspose`) and `jaxbox.DOConv`, of the
operations `jaxbox.dcls_kernel`, `jaxbox.octave_conv` (and `jaxbox.octave_conv_transpose`) and
`jaxbox.doconv_kernel`. Submodules: `boxes` (boxes as data), `layers` and `linen` (the layers),
`optim` (what boxes and positions ask of an optimizer), `surgery` (other layers in place of
convolutions), `models` (the paper's networks), `analysis` and `plots` (what trained boxes are like,
in numbers and in pictures), `interop` (weights from and for PyTorch).
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxbox.ops.box_conv import box_conv
from jaxbox.ops.dcls import dcls_kernel
from jaxbox.ops.doconv import doconv_kernel

if TYPE_CHECKING:
    from jaxbox import analysis, boxes, interop, layers, linen, models, optim, plots, surgery
    from jaxbox.layers import BoxConv, DclsConv, DOConv, OctConv, OctConvTranspose
    from jaxbox.ops.octave import octave_conv, octave_conv_transpose

__all__ = [
    "BoxConv",
    "DOConv",
    "DclsConv",
    "OctConv",
    "OctConvTranspose",
    "analysis",
    "box_conv",
    "boxes",
    "dcls_kernel",
    "doconv_kernel",
    "interop",
    "layers",
    "linen",
    "models",
    "octave_conv",
    "octave_conv_transpose",
    "optim",
    "plots",
    "surgery",
]

_MODULES = {
    *("analysis", "boxes", "interop", "layers", "linen", "models", "optim", "plots", "surgery")
}


def __getattr__(name: str) -> Any:
    # Loaded on first use: who only wants the operation does not wait for Flax and optax.
    if name in _MODULES:
        return importlib.import_module(f"jaxbox.{name}")
    if name in __all__:
        home = "jaxbox.ops.octave" if name.startswith("octave") else "jaxbox.layers"
        return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'jaxbox' has no attribute {name!r}")
