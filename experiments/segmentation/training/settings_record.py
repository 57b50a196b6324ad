"""The settings of a run as JSON values, which are recorded in the run's directory.

A setting that is added later needs a default that trains as before, since runs that were recorded
without it continue with its default. Increase `VERSION` with each new setting, so that an older
program can tell why it does not know it.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from experiments.common.program import UserError
from experiments.segmentation.input.augmentation import Augmentation
from experiments.segmentation.training.recipe import Recipe
from experiments.segmentation.training.settings import Settings

VERSION: Final = 1
"""The version of the settings. Records from before there were versions count as version 0."""

# These may change when a run is resumed, since its result does not depend on them.
_NOT_RECORDED = frozenset({"workers", "distributed", "out", "resume"})


def to_record(settings: Settings) -> dict[str, Any]:
    """All settings that the result of a run depends on, as JSON values, and their version."""
    values = dataclasses.asdict(settings)
    recorded = {name: value for name, value in values.items() if name not in _NOT_RECORDED}
    return {"version": VERSION, **json.loads(json.dumps(recorded))}


def from_record(record: Mapping[str, Any], out: Path) -> Settings:
    """The settings of a recorded run.

    Args:
      record: a result of `to_record`, perhaps of an older program. Settings that it lacks have
        their defaults.
      out: the run's directory.

    Raises:
      UserError: a newer program recorded the run.
    """
    values = {name: value for name, value in record.items() if name != "version"}
    training = dict(values.get("training", {}))
    augmentation = training.get("augmentation", {})
    unknown = [
        *_unknown(Settings, values),
        *_unknown(Recipe, training),
        *_unknown(Augmentation, augmentation),
    ]
    if unknown or record.get("version", 0) > VERSION:
        named = f", with the unknown settings {', '.join(unknown)}" if unknown else ""
        raise UserError(f"{out} holds a run of a newer version of this program{named}")
    training = {name: tuple(v) if isinstance(v, list) else v for name, v in training.items()}
    training["augmentation"] = Augmentation(**augmentation)
    return Settings(**{**values, "training": Recipe(**training)}, out=out)


def _unknown(kind: type[Any], values: Mapping[str, Any]) -> Iterator[str]:
    """The names of recorded values that a dataclass of settings does not have."""
    known = {field.name for field in dataclasses.fields(kind)} - _NOT_RECORDED
    return (name for name in values if name not in known)
