"""Reading JSON files that may be damaged or written by hand, and writing JSON."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.common.files import read_file

_MOST_LEVELS = 50
_MOST_DIGITS = 300  # more than any float64 has; Python refuses to read more than 4300


class JsonError(ValueError):
    """A text is not JSON as programs write it; the message says where, without the file's name."""


def parse_json(text: str | bytes) -> Any:
    """Reads a JSON value, more strictly than Python does.

    Raises:
      JsonError: the text is not UTF-8 or not JSON, is nested too deeply, gives a name twice in one
        object, or has a number that is not finite.

    Example:
      >>> parse_json('{"a": [1, 2.5, null]}')
      {'a': [1, 2.5, None]}
      >>> parse_json('{"a": 1, "a": 2}')
      Traceback (most recent call last):
      ...
      experiments.common.json_files.JsonError: 'a' is given twice
    """
    try:
        value = json.loads(
            text if isinstance(text, str) else text.decode("utf-8"),
            object_pairs_hook=_distinct,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_whole,
        )
        _check_depth(value)
    except JsonError:
        raise
    except UnicodeDecodeError as error:
        raise JsonError(f"byte {error.start} is not UTF-8") from error
    except RecursionError as error:
        raise JsonError("it is nested too deeply") from error
    except ValueError as error:
        raise JsonError(str(error)) from error
    return value


def dump_json(content: object) -> bytes:
    """A value as indented JSON with a newline at its end; see `finite_or_null` for its numbers."""
    return (json.dumps(finite_or_null(content), indent=2, allow_nan=False) + "\n").encode()


def finite_or_null(value: Any) -> Any:
    """A value with None for numbers in it that are not finite, since JSON has no others.

    Example:
      >>> finite_or_null({"iou": [0.5, float("nan")]})
      {'iou': [0.5, None]}
    """
    if isinstance(value, dict):
        return {key: finite_or_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_null(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_json(file: Path) -> Any:
    """Reads a JSON file.

    Raises:
      JsonError: see `parse_json`.
      OSError: the file cannot be read.
    """
    return parse_json(read_file(file))


def is_json_with(data: bytes, names: Sequence[str]) -> bool:
    """Whether a text is a JSON object with these names, or a list of such objects."""
    try:
        content = parse_json(data)
    except JsonError:
        return False
    objects = content if isinstance(content, list) else [content]
    return all(isinstance(each, dict) and set(names) <= each.keys() for each in objects)


def _check_depth(value: Any) -> None:
    """Raises `JsonError` for a value so deep that functions that walk it could fail."""
    level, depth = [value], 0
    while level:
        level = [
            inner
            for outer in level
            if isinstance(outer, list | dict)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        depth += 1
        if depth > _MOST_LEVELS:
            raise JsonError("it is nested too deeply")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise JsonError(f"{name!r} is given twice")
        found[name] = value
    return found


def _refuse_constant(text: str) -> Any:
    raise JsonError(f"{text} is not a number that JSON has")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), -float("inf")):
        raise JsonError(f"the number {text[:20]} is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise JsonError(f"the number {text[:20]}... is too large")
    return int(text)
