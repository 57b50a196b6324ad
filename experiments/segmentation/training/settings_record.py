"""The settings of a run as JSON values, which are recorded in the run's directory.

A setting that is added later needs a default that trains as before, since runs that were recorded
without it continue with its default. Increase `VERSION` with each new setting, so that an older
program can tell why it does not know it.
"""

import dataclasses
import json
import math
import reprlib
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from experiments.common.program import UserError
from experiments.segmentation.input.augmentation import Augmentation
from experiments.segmentation.training.recipe import RECIPES, Recipe
from experiments.segmentation.training.settings import Settings, check

VERSION: Final = 2
"""The version of the settings. Records from before there were versions count as version 0."""

# These may change when a run is resumed, since its result does not depend on them.
_NOT_RECORDED = frozenset({"workers", "distributed", "out", "resume"})

type Record = Mapping[str, Any]


class RecordError(Exception):
    """A record is not one of settings; the message says why, without the file's name."""


def to_record(settings: Settings) -> dict[str, Any]:
    """All settings that the result of a run depends on, as JSON values, and their version."""
    values = dataclasses.asdict(settings)
    recorded = {name: value for name, value in values.items() if name not in _NOT_RECORDED}
    return {"version": VERSION, **json.loads(json.dumps(recorded))}


def from_record(record: Any, out: Path) -> Settings:
    """The settings of a recorded run.

    Args:
      record: a JSON value, which should be a result of `to_record`, perhaps of an older program.
        Settings that it lacks have their defaults.
      out: the run's directory.

    Raises:
      RecordError: the value is not a record of settings.
      UserError: a newer program recorded the run.
    """
    training = _object(_object(record, "the record").get("training", {}), "training")
    augmentation = _object(training.get("augmentation", {}), "augmentation")
    version = _decode(int, record.get("version", 0), "version")
    unknown = [
        *_unknown(Settings, {name: v for name, v in record.items() if name != "version"}),
        *_unknown(Recipe, training),
        *_unknown(Augmentation, augmentation),
    ]
    if unknown or version > VERSION:
        named = f", with the unknown settings {', '.join(unknown)}" if unknown else ""
        raise UserError(f"{out} holds a run of a newer version of this program{named}")
    values = {name: value for name, value in record.items() if name != "version"}
    try:
        settings = _decode(Settings, {"training": {}, **values}, "the record")
        settings = dataclasses.replace(settings, out=out)
        check(settings)
    except (UserError, ValueError) as error:
        raise RecordError(str(error)) from error
    checked: Settings = settings
    return checked


def with_recorded_defaults(wanted: Settings, record: Record) -> tuple[Settings, dict[str, Any]]:
    """Settings with which a run goes on that was recorded before some of them existed.

    The run was trained with the default of each setting that its record lacks. Where the command
    line leaves such a setting to the recipe, which may say something else by now, it stays so.

    Args:
      wanted: the settings of the command line.
      record: the record of the run.

    Returns:
      The settings, and those that differ from the command line's by name.
    """
    recipe = RECIPES.get(wanted.recipe, Recipe())
    changed: dict[str, Any] = {}

    def defaults_of(kind: type[Any], recorded: Record, own: Any, usual: Any) -> dict[str, Any]:
        return {
            field.name: field.default
            for field in dataclasses.fields(kind)
            if field.name not in (*recorded, "augmentation")
            and getattr(own, field.name) == getattr(usual, field.name) != field.default
        }

    training = record.get("training", {})
    augmentation = training.get("augmentation", {})
    own = wanted.training
    for_augmentation = defaults_of(
        Augmentation, augmentation, own.augmentation, recipe.augmentation
    )
    for_training = defaults_of(Recipe, training, own, recipe)
    changed = {**for_training, **for_augmentation}
    own = dataclasses.replace(
        own,
        augmentation=dataclasses.replace(own.augmentation, **for_augmentation),
        **for_training,
    )
    return dataclasses.replace(wanted, training=own), changed


def differences(saved: Settings, wanted: Settings) -> dict[str, tuple[Any, Any]]:
    """The recorded settings in which two runs differ, each with both values.

    The directory of the data set is none of them, since a data set may be moved. The size and the
    number of steps are compared only if both have them, since the data set completes them.
    """
    first, second = to_record(saved), to_record(wanted)
    pairs = {name: (value, second[name]) for name, value in first.items()}
    pairs["data"] = data_set_name(saved), data_set_name(wanted)
    pairs["training"] = _differing(first["training"], second["training"])
    return {
        name: pair
        for name, pair in pairs.items()
        if pair[0] != pair[1] and not (name in ("size", "steps") and None in pair)
    }


def _differing(first: Record, second: Record) -> tuple[Record, Record]:
    """The values in which two records with the same names differ, of each of them."""
    names = [name for name, value in first.items() if value != second[name]]
    return {name: first[name] for name in names}, {name: second[name] for name in names}


def data_set_name(settings: Settings) -> str:
    """The name of the data set, without its directory."""
    return settings.data.partition(":")[0]


def _unknown(kind: type[Any], values: Record) -> Iterator[str]:
    """The names of recorded values that a dataclass of settings does not have."""
    known = {field.name for field in dataclasses.fields(kind)} - _NOT_RECORDED
    return (name for name in values if name not in known)


def _object(value: Any, name: str) -> Record:
    if not isinstance(value, dict):
        raise RecordError(f"{name} is not an object")
    return value


def _decode(kind: Any, value: Any, name: str) -> Any:
    """A JSON value as a value of a setting's type; raises `RecordError` if it is none."""
    origin, parts = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        fields = _object(value, name)
        return kind(**{key: _decode(hints[key], fields[key], key) for key in fields})  # type: ignore[operator]
    if origin in (Union, types.UnionType):
        if value is None and type(None) in parts:
            return None
        return _decode(next(part for part in parts if part is not type(None)), value, name)
    if origin is tuple and isinstance(value, list):
        return tuple(_decode(parts[0], each, name) for each in value)
    if origin is Literal and value in parts and isinstance(value, str):
        return value
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind in (bool, int, str) and type(value) is kind:
        return value
    raise RecordError(f"{name} has the value {reprlib.repr(value)}")
