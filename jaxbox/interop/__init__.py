"""Weights from and for the PyTorch code of the layers' authors, one file for each."""

from jaxbox.interop.dcls import dcls_from_pytorch
from jaxbox.interop.doconv import doconv_from_pytorch
from jaxbox.interop.networks import from_pytorch, to_pytorch
from jaxbox.interop.octave import octave_from_pytorch

__all__ = [
    "dcls_from_pytorch",
    "doconv_from_pytorch",
    "from_pytorch",
    "octave_from_pytorch",
    "to_pytorch",
]
