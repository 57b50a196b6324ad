"""A run's network as a file of weights, which `predict` and `jaxbox.models.load` take anywhere.

The card in it has what predicting needs, and beside it how label files name the classes and how the
network was trained. It names the data set, and neither its directory nor the run's.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jaxbox
from experiments.common.files import read_file
from experiments.common.json_files import JsonError
from experiments.common.outputs import OutputFile
from experiments.common.program import first_line
from experiments.segmentation.artefact import ArtefactError, unusable
from experiments.segmentation.data.classes import ClassSet
from experiments.segmentation.data.datasets import DATA_SETS
from experiments.segmentation.data.source import Size
from experiments.segmentation.input.normalization import Normalization
from experiments.segmentation.training.box_learning import BOX_LEARNING
from experiments.segmentation.training.data_record import decode_classes
from experiments.segmentation.training.metrics_log import read_metrics
from experiments.segmentation.training.network import build_network
from experiments.segmentation.training.settings import CONTEXTS, Settings
from experiments.segmentation.training.settings_record import data_set_name
from jaxbox import models
from jaxbox.models import ModelCard, SegmentationNetwork, weights
from jaxbox.models.card import DTypeName

NAME: Final = "weights.safetensors"
"""The name of the file in a run's directory."""

_START = 256  # bytes of a file that hold the name of its card
_DTYPES: Final[Mapping[str, DTypeName]] = {"float32": "float32", "bf16": "bfloat16"}
# The names in the card's own part: how label files name the classes, and what was trained.
_LABEL_FILES, _RUN = "label_files", "run"
_SETTINGS: Final = ("context", "box_learning", "precision")


@dataclass(frozen=True)
class Weights:
    """A network that a file of weights holds, with what predicting needs.

    Attributes:
      model: the network, in evaluation mode.
      classes: the classes, in the order of the logits.
      normalization: how pixels become the network's input.
      size: `(H, W)` of the images in pixels.
    """

    model: SegmentationNetwork
    classes: ClassSet
    normalization: Normalization
    size: Size


def weights_output(path: Path, option: str | None = "--out") -> OutputFile:
    """A file of weights, which replaces no other file than one."""
    return OutputFile(path, _has_card, option)


def is_weights(path: Path) -> bool:
    """Whether a file is one of weights, by how it begins."""
    return _has_card(read_file(path))


def encode_weights(
    model: SegmentationNetwork,
    settings: Settings,
    classes: ClassSet,
    normalization: Normalization,
    size: Size,
) -> bytes:
    """The content of the file of a run's network.

    Args:
      model: the network as it was trained.
      settings: the settings of the run; the scores in its directory go into the card.
      classes: the classes, in the order of the logits.
      normalization: how pixels become the network's input.
      size: `(H, W)` of the images in pixels.
    """
    names = dataclasses.asdict(classes)
    data = data_set_name(settings)
    card = ModelCard(
        settings.model,
        size,
        classes=names.pop("names"),
        colors=names.pop("colors"),
        mean=normalization.mean,
        std=normalization.std,
        dtype=_DTYPES[settings.precision],
        license=DATA_SETS[data].license,
        more={
            _LABEL_FILES: names,
            _RUN: {
                "data": data,
                **{name: getattr(settings, name) for name in _SETTINGS},
                "recipe": settings.recipe,
                "seed": settings.seed,
                "scores": next(iter(read_metrics(settings.out)[-1:]), None),
                "jaxbox": jaxbox.__version__,
            },
        },
    )
    return weights.to_bytes(model, card, make=_make)


def read_weights(path: Path) -> Weights:
    """Reads a file of weights, whether this program wrote it or `jaxbox.models.save`.

    Raises:
      OSError: the file cannot be read.
      UserError: the file is damaged, or its card does not say what predicting needs.
    """
    try:
        model, card = models.load(path, make=_make)
        return Weights(model, _classes(card), Normalization(card.mean, card.std), card.image_size)
    except ValueError as error:
        # The cause of what `load` raises does not name the file, which `unusable` does.
        reason = ArtefactError(first_line(error.__cause__ or error))
        raise unusable(path, reason) from error


def _has_card(data: bytes) -> bool:
    return f'"{weights.CARD}"'.encode() in data[:_START]


def _make(card: ModelCard) -> SegmentationNetwork:
    """Builds the network of a card, with what a run put in the place of its layers."""
    run = card.more.get(_RUN)
    if run is None:
        return weights.create_from_card(card)
    allowed = (CONTEXTS, tuple(BOX_LEARNING), tuple(_DTYPES))
    recorded: Mapping[str, Any] = run if isinstance(run, dict) else {}
    values: dict[str, Any] = {name: recorded.get(name) for name in _SETTINGS}
    for (name, value), choices in zip(values.items(), allowed, strict=True):
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    settings = dataclasses.replace(Settings(model=card.architecture), **values)
    return build_network(settings, len(card.classes), card.image_size)


def _classes(card: ModelCard) -> ClassSet:
    """The classes of a card; raises `JsonError` if it has no colours, or they are no classes."""
    if card.colors is None:
        raise JsonError("its card has no colours of the classes")
    label_files: Any = card.more.get(_LABEL_FILES, {"codes": []})
    if not isinstance(label_files, dict):
        raise JsonError(f"{_LABEL_FILES} is no object")
    colors = [list(color) for color in card.colors]
    return decode_classes({**label_files, "names": list(card.classes), "colors": colors})
