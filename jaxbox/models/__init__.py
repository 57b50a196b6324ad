"""The networks of the box convolution paper, by name.

:func:`create` builds one, :func:`save` and :func:`load` keep a trained one in a file. Submodules:
`blocks` (what the networks are made of), `cost` (parameters and multiply-adds), `inference` (the
form of a trained network for inference) and `pruning` (removing boxes).
"""

from jaxbox.models import blocks, cost, inference, pruning
from jaxbox.models.architecture import Architecture
from jaxbox.models.card import ModelCard
from jaxbox.models.catalogue import NETWORKS, Variant, create
from jaxbox.models.network import SegmentationNetwork
from jaxbox.models.weights import load, save

__all__ = [
    "NETWORKS",
    "Architecture",
    "ModelCard",
    "SegmentationNetwork",
    "Variant",
    "blocks",
    "cost",
    "create",
    "inference",
    "load",
    "pruning",
    "save",
]
