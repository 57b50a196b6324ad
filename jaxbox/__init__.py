"""Box convolution and its sister layers for JAX and Flax.

`jaxbox.box_conv` is the operation, `jaxbox.BoxConv` the Flax NNX layer. Submodules: `boxes` (boxes
as data), `layers` and `linen` (the layers), `optim` (what boxes ask of an optimizer), `models` (the
paper's networks), `analysis` and `plots` (what trained boxes are like, in numbers and in pictures),
`interop` (weights from and for PyTorch).
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxbox.box_conv import box_conv

if TYPE_CHECKING:
    from jaxbox import analysis, boxes, interop, layers, linen, models, optim, plots
    from jaxbox.layers import BoxConv

__all__ = [
    "BoxConv",
    "analysis",
    "box_conv",
    "boxes",
    "interop",
    "layers",
    "linen",
    "models",
    "optim",
    "plots",
]


def __getattr__(name: str) -> Any:
    # Loaded on first use: who only wants the operation does not wait for Flax and optax.
    if name == "BoxConv":
        return importlib.import_module("jaxbox.layers").BoxConv
    if name in __all__:
        return importlib.import_module(f"jaxbox.{name}")
    raise AttributeError(f"module 'jaxbox' has no attribute {name!r}")
