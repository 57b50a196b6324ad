"""A network ready for use, in one file: a zip archive of the program and what predicting needs.

`model.json` holds the classes, the normalisation and the size of the images. Beside it is the
network, `model.jax` or `model.onnx`, which needs nothing of this project to run.
"""

import dataclasses
import io
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from experiments.common.files import read_file
from experiments.common.image_size import MOST_PIXELS
from experiments.common.json_files import JsonError, dump_json, parse_json
from experiments.common.outputs import OutputFile
from experiments.common.program import UserError, first_line
from experiments.segmentation.data.classes import ClassSet
from experiments.segmentation.data.source import Size
from experiments.segmentation.input.normalization import Normalization
from experiments.segmentation.training.data_record import decode_classes, decode_normalization
from experiments.segmentation.training.settings import SIZE_MULTIPLE

Format = Literal["jax", "onnx"]
"""The formats of programs: what `jax.export` serialises, and ONNX."""

type Logits = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""A network that can be called: normalised images `(N, H, W, 3)` to `(N, H, W, classes)`."""

_JSON = "model.json"
_MARK: Final = "jaxbox_artefact"  # the first name in the JSON; its value is the version
_VERSION = 1
_START = 256  # bytes of an artefact that hold the mark
# What the module `zipfile` raises for archives that are damaged, or made in other ways than ours.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    EOFError,
    OverflowError,
    RuntimeError,
    ValueError,
    struct.error,
)


class ArtefactError(ValueError):
    """A file is no artefact, or cannot be used here; the message says why, without its name."""


@dataclass(frozen=True)
class Artefact:
    """A network ready for use.

    Attributes:
      format: the format of the program.
      program: the network, from float32 images `(N, H, W, 3)`, normalised, to float32 logits
        `(N, H, W, classes)`, for any `N`.
      classes: the classes, in the order of the logits.
      normalization: how pixels become the network's input.
      size: `(H, W)` of the images in pixels.
    """

    format: Format
    program: bytes
    classes: ClassSet
    normalization: Normalization
    size: Size


def artefact_output(path: Path) -> OutputFile:
    """The file of an artefact, which replaces no other file than an artefact."""
    return OutputFile(path, lambda data: f'"{_MARK}"'.encode() in data[:_START])


def encode_artefact(artefact: Artefact) -> bytes:
    """The content of an artefact's file. It depends on the artefact only, and not on the time."""
    facts = {
        _MARK: _VERSION,
        "format": artefact.format,
        "image_size": artefact.size,
        "size_multiple": SIZE_MULTIPLE,
        "normalization": dataclasses.asdict(artefact.normalization),
        "classes": dataclasses.asdict(artefact.classes),
    }
    file = io.BytesIO()
    # Nothing is compressed: parameters hardly get smaller, and the JSON marks the file.
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(_JSON), dump_json(facts))
        archive.writestr(zipfile.ZipInfo(_program_name(artefact.format)), artefact.program)
    return file.getvalue()


def read_artefact(path: Path) -> Artefact:
    """Reads the file of an artefact.

    Raises:
      OSError: the file cannot be read.
      UserError: the file is no artefact, is damaged, or a newer program wrote it.
    """
    try:
        return decode_artefact(read_file(path))
    except ArtefactError as error:
        raise unusable(path, error) from error


def unusable(path: Path, reason: ArtefactError) -> UserError:
    """The error for the command line's argument RUN, which is a file that cannot be used."""
    return UserError(
        "RUN must be a run's directory or a file that training or experiments/export.py wrote; "
        f"got '{path}' ({first_line(reason)})"
    )


def decode_artefact(data: bytes) -> Artefact:
    """The artefact that a file holds.

    Raises:
      ArtefactError: it holds none, or one that is damaged.
    """
    members = _members(data)
    if _JSON not in members:
        raise ArtefactError(f"it has no {_JSON}")
    try:
        facts = _decode_facts(members.pop(_JSON))
    except JsonError as error:
        raise ArtefactError(f"{_JSON} is damaged: {error}") from error
    name = _program_name(facts["format"])
    if members.keys() != {name}:
        raise ArtefactError(f"beside {_JSON} it must have {name} and nothing else")
    return Artefact(program=members[name], **facts)


def _program_name(format_: Format) -> str:
    return f"model.{format_}"


def _members(data: bytes) -> dict[str, bytes]:
    """The members of an archive by their names; their checksums are compared."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ArtefactError("its members are compressed")
            contents = {member.filename: archive.read(member) for member in members}
    except ArtefactError:
        raise
    except _ZIP_ERRORS as error:
        raise ArtefactError(f"it is no whole zip archive: {first_line(error)}") from error
    if len(contents) < len(members):
        raise ArtefactError("it has two members of one name")
    return contents


def _decode_facts(text: bytes) -> dict[str, Any]:
    """The fields of an `Artefact` other than its program; raises `JsonError` if they are wrong."""
    facts = parse_json(text)
    names = {_MARK, "format", "image_size", "size_multiple", "normalization", "classes"}
    if not isinstance(facts, dict) or _MARK not in facts:
        raise JsonError(f"there is no {_MARK!r}")
    if facts[_MARK] != _VERSION:
        raise JsonError(f"it has the version {facts[_MARK]!r}, and this program knows {_VERSION}")
    if facts.keys() != names:
        raise JsonError(f"{', '.join(sorted(facts.keys() ^ names))} is unknown or missing")
    if facts["format"] not in get_args(Format):
        raise JsonError(f"the format {facts['format']!r} is none of {', '.join(get_args(Format))}")
    return {
        "format": facts["format"],
        "size": _decode_size(facts["image_size"], facts["size_multiple"]),
        "normalization": decode_normalization(facts["normalization"]),
        "classes": decode_classes(facts["classes"]),
    }


def _decode_size(size: Any, multiple: Any) -> Size:
    if type(multiple) is not int or not 1 <= multiple <= MOST_PIXELS:
        raise JsonError(f"size_multiple is not a number of pixels: {multiple!r}")
    if not isinstance(size, list) or len(size) != 2 or {type(side) for side in size} != {int}:
        raise JsonError("image_size is not a height and a width")
    height, width = size
    if any(not 1 <= side <= MOST_PIXELS or side % multiple for side in size):
        raise JsonError(f"image_size is not two multiples of {multiple}: {size}")
    return height, width
