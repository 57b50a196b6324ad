"""Box convolution and its sister layers for JAX and Flax.

`jaxbox.box_conv` is the operation, `jaxbox.BoxConv` the Flax NNX layer; `jaxbox.weighted_box_conv`
and `jaxbox.WeightedBoxConv` are large convolutions made of boxes. The sister layers are
`jaxbox.DclsConv`, `jaxbox.OctConv` (with `jaxbox.OctConvTranspose`) and `jaxbox.DOConv`; their
operations are `jaxbox.dcls_kernel`, `jaxbox.octave_conv` (with `jaxbox.octave_conv_transpose`) and
`jaxbox.doconv_kernel`. `jaxbox.halo_box_conv` is the operation on images whose rows are divided
among devices. `jaxbox.backends` tells what can compute the box convolution here, and
`jaxbox.default_implementation` sets it for a block of code. The modules are `boxes` and
`symmetric_boxes` (boxes as data), `layers` (Flax NNX) and `linen` (Flax Linen), `optim` (boxes and
positions in an optimizer), `models` (the paper's networks), `surgery` (other layers in place of a
model's convolutions), `analysis` and `plots` (what trained boxes are like, in numbers and in
pictures) and `interop` (weights from and for PyTorch).

The operations are loaded with the package. Layers and modules, which need Flax and optax, are
loaded when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxbox import boxes, symmetric_boxes
from jaxbox.ops.box_conv import box_conv
from jaxbox.ops.dcls import dcls_kernel
from jaxbox.ops.doconv import doconv_kernel
from jaxbox.ops.halo_box_conv import halo_box_conv
from jaxbox.ops.octave import OctaveBias, OctaveKernels, octave_conv, octave_conv_transpose
from jaxbox.ops.octave_features import Octaves
from jaxbox.ops.weighted_box_conv import weighted_box_conv
from jaxbox_kernels.registry import backends, default_implementation

if TYPE_CHECKING:
    from jaxbox import analysis, interop, layers, linen, models, optim, plots, surgery
    from jaxbox.layers import (
        BoxConv,
        DclsConv,
        DOConv,
        FrozenBoxes,
        OctConv,
        OctConvTranspose,
        PerOctave,
        WeightedBoxConv,
        map_octaves,
        repulsive_loss,
    )

__all__ = [
    "BoxConv",
    "DOConv",
    "DclsConv",
    "FrozenBoxes",
    "OctConv",
    "OctConvTranspose",
    "OctaveBias",
    "OctaveKernels",
    "Octaves",
    "PerOctave",
    "WeightedBoxConv",
    "analysis",
    "backends",
    "box_conv",
    "boxes",
    "dcls_kernel",
    "default_implementation",
    "doconv_kernel",
    "halo_box_conv",
    "interop",
    "layers",
    "linen",
    "map_octaves",
    "models",
    "octave_conv",
    "octave_conv_transpose",
    "optim",
    "plots",
    "repulsive_loss",
    "surgery",
    "symmetric_boxes",
    "weighted_box_conv",
]

__version__ = "0.1.0"

# The module that a name is loaded from when it is first used.
_LAZY = {
    "BoxConv": "jaxbox.layers",
    "DOConv": "jaxbox.layers",
    "DclsConv": "jaxbox.layers",
    "FrozenBoxes": "jaxbox.layers",
    "OctConv": "jaxbox.layers",
    "OctConvTranspose": "jaxbox.layers",
    "PerOctave": "jaxbox.layers",
    "WeightedBoxConv": "jaxbox.layers",
    "analysis": "jaxbox.analysis",
    "interop": "jaxbox.interop",
    "layers": "jaxbox.layers",
    "linen": "jaxbox.linen",
    "map_octaves": "jaxbox.layers",
    "models": "jaxbox.models",
    "optim": "jaxbox.optim",
    "plots": "jaxbox.plots",
    "repulsive_loss": "jaxbox.layers",
    "surgery": "jaxbox.surgery",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'jaxbox' has no attribute {name!r}")
    module = importlib.import_module(_LAZY[name])
    value = module if module.__name__ == f"jaxbox.{name}" else getattr(module, name)
    globals()[name] = value  # Found without this function from now on.
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
