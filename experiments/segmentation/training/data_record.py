"""What a run records of its data set, so that its network can be used without the data set."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.common.json_files import JsonError, dump_json, read_json
from experiments.common.outputs import replace
from experiments.common.program import UserError
from experiments.segmentation.data.classes import VOID, ClassSet
from experiments.segmentation.input.normalization import IMAGENET, Normalization

_DATA = "data.json"


@dataclass(frozen=True)
class DataRecord:
    """What a run needs to know of its data set.

    Attributes:
      classes: the classes, in the order of the network's logits, with their colours and their
        values in label files.
      normalization: how pixels become the network's input.
      train: the number of images to train on, without those that cannot be read.
      val: the number of held-out images, without those that cannot be read.
    """

    classes: ClassSet
    normalization: Normalization
    train: int
    val: int

    def difference(self, other: "DataRecord") -> str | None:
        """What two data sets differ in, as text; None if a run can go on with the other one."""
        if self.classes.names != other.classes.names:
            return f"the classes {_listed(self.classes)} (now {_listed(other.classes)})"
        for name in ("train", "val"):
            first, second = getattr(self, name), getattr(other, name)
            if first != second:
                return f"{first} images in {name} (now {second})"
        return None


def write_data_record(directory: Path, record: DataRecord) -> None:
    """Records the data set of the run in a directory."""
    replace(directory / _DATA, dump_json(dataclasses.asdict(record)))


def read_data_record(directory: Path) -> DataRecord | None:
    """The data set of the run in a directory, or None if an older program started it.

    Raises:
      UserError: the record is damaged.
    """
    file = directory / _DATA
    try:
        return _decode(read_json(file))
    except FileNotFoundError:
        return None
    except JsonError as error:
        raise UserError(
            f"{file} is damaged ({error}); mend it, or remove it and say --data NAME:DIR"
        ) from error


def _listed(classes: ClassSet) -> str:
    return ", ".join(classes.names)


def _decode(content: Any) -> DataRecord:
    """The record of a JSON value; raises `JsonError` if it is none."""
    fields = _fields(content, DataRecord)
    for name in ("train", "val"):
        if type(fields[name]) is not int or fields[name] < 0:
            raise JsonError(f"{name} is not a number of images")
    return DataRecord(
        decode_classes(fields["classes"]),
        decode_normalization(fields["normalization"]),
        fields["train"],
        fields["val"],
    )


def decode_classes(value: Any) -> ClassSet:
    """The classes of a JSON value that `dataclasses.asdict` made of them.

    Raises:
      JsonError: it is none.
    """
    return _checked_classes(_decode_dataclass(value, ClassSet))


def decode_normalization(value: Any) -> Normalization:
    """The normalisation of a JSON value that `dataclasses.asdict` made of it.

    Raises:
      JsonError: it is none.
    """
    return _decode_dataclass(value, Normalization)


def _decode_dataclass[Kind](value: Any, kind: type[Kind]) -> Kind:
    fields = _fields(value, kind)
    try:
        return kind(**{name: _tuples(inner) for name, inner in fields.items()})
    except (TypeError, ValueError) as error:
        raise JsonError(str(error)) from error


def _fields(value: Any, kind: type[Any]) -> dict[str, Any]:
    """The fields of a dataclass; those that have defaults may be missing."""
    if not isinstance(value, dict):
        raise JsonError(f"there is no object of {kind.__name__}")
    known = dataclasses.fields(kind)
    unknown = value.keys() - {field.name for field in known}
    missing = {f.name for f in known if f.default is dataclasses.MISSING} - value.keys()
    if unknown or missing:
        what = "unknown" if unknown else "missing"
        raise JsonError(f"{', '.join(sorted(unknown or missing))} is {what}")
    return value


def _checked_classes(classes: ClassSet) -> ClassSet:
    names, colors = classes.names, classes.colors
    if not _all_are(names, str) or not 1 <= len(names) < VOID or len(set(names)) < len(names):
        raise JsonError("the names of the classes are not different texts")
    bytes_ = range(VOID + 1)
    for listed in (colors, classes.void_colors):
        if not _all_are(listed, tuple) or any(
            len(color) != 3 or not _all_are(color, int) or not set(color) <= set(bytes_)
            for color in listed
        ):
            raise JsonError("a colour is not three numbers from 0 to 255")
    allowed = {None, VOID, *range(len(names))}
    if len(colors) != len(names) or not _all_are(classes.codes, int, type(None)):
        raise JsonError("there is not one colour for each class, or a code is no number")
    if len(classes.codes) > VOID + 1 or not set(classes.codes) <= allowed:
        raise JsonError("a code stands for no class")
    categories = classes.categories
    if categories is not None and (not _all_are(categories, str) or len(categories) != len(names)):
        raise JsonError("there is not one category for each class")
    return classes


def _all_are(values: Any, *kinds: type[Any]) -> bool:
    return isinstance(values, tuple) and all(type(value) in kinds for value in values)


def _tuples(value: Any) -> Any:
    """A JSON value with tuples in place of lists."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def data_record(classes: ClassSet, train: int, val: int) -> DataRecord:
    """The record of a data set, with the normalisation that this program trains with."""
    return DataRecord(classes, IMAGENET, train, val)
