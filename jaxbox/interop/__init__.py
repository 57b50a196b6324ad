"""Conversion of weights from and to the PyTorch code of the networks' and layers' authors."""

from jaxbox.interop.box import box_from_pytorch, box_to_pytorch
from jaxbox.interop.dcls import dcls_from_pytorch, dcls_to_pytorch
from jaxbox.interop.doconv import doconv_from_pytorch, doconv_to_pytorch
from jaxbox.interop.networks import from_pytorch, to_pytorch
from jaxbox.interop.octave import octave_from_pytorch, octave_to_pytorch

__all__ = [
    "box_from_pytorch",
    "box_to_pytorch",
    "dcls_from_pytorch",
    "dcls_to_pytorch",
    "doconv_from_pytorch",
    "doconv_to_pytorch",
    "from_pytorch",
    "octave_from_pytorch",
    "octave_to_pytorch",
    "to_pytorch",
]
