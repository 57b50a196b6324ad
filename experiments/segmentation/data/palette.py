"""Reading `palette.json`, in which a folder of pictures names its classes."""

from pathlib import Path
from typing import Any

from experiments.common.json_files import JsonError, read_json
from experiments.segmentation.data.classes import VOID, ClassSet, Color
from experiments.segmentation.data.errors import DataError

_MOST_CLASSES = 254


def read_palette(path: Path) -> ClassSet:
    """Reads the classes of label files from JSON.

    For label files whose pixels are values (8-bit grey) it looks like this:

        {
          "classes": [
            {"name": "road", "color": [128, 64, 128], "value": 7},
            {"name": "car", "color": [0, 0, 142], "value": 26}
          ],
          "void": [0, 255]
        }

    `color` is RGB, and `void` lists the values of void. If no class has a `value`, label files are
    pictures in the colours of the classes, and `void` lists colours: `[[0, 0, 0]]`. Values and
    colours that are not listed must not occur; `void` may be left out.

    Args:
      path: the palette file.

    Raises:
      DataError: the file cannot be read or does not look like this.
    """
    try:
        content = read_json(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); see the README") from error
    except JsonError as error:
        raise DataError(f"{path}: is not JSON ({error}); mend it") from error
    try:
        return _classes(content)
    except _PaletteError as error:
        raise DataError(f"{path}: {error}") from error


class _PaletteError(Exception):
    """The content of the file is wrong; the message does not name the file yet."""


def _classes(content: Any) -> ClassSet:
    entries, void = _entries(content)
    names = tuple(entry["name"] for entry in entries)
    colors = tuple(_color(entry["color"]) for entry in entries)
    _check_distinct("name", names)
    lacking = sorted(entry["name"] for entry in entries if "value" not in entry)
    if len(lacking) == len(entries):
        void_colors = tuple(map(_color, void))
        _check_distinct("color", (*colors, *void_colors))
        return ClassSet(names, colors, codes=(), void_colors=void_colors)
    if lacking:
        raise _PaletteError(f"give every class a value or none; {', '.join(lacking)} lacks one")
    _check_distinct("color", colors)
    return ClassSet(names, colors, _codes(entries, void))


def _entries(content: Any) -> tuple[list[dict[str, Any]], list[Any]]:
    """The entries of the classes and of void."""
    classes = _fields(content, "the palette", {"classes"}, {"void"})["classes"]
    void = content.get("void", [])
    if not isinstance(classes, list) or not 1 <= len(classes) <= _MOST_CLASSES:
        raise _PaletteError(f"classes must be a list of 1 to {_MOST_CLASSES}")
    if not isinstance(void, list):
        raise _PaletteError(f"void must be a list, got {void!r}")
    for entry in classes:
        _fields(entry, "a class", {"name", "color"}, {"value"})
        if not isinstance(entry["name"], str) or not entry["name"]:
            raise _PaletteError(f"name must be a text, got {entry['name']!r}")
        if not entry["name"].isprintable():
            raise _PaletteError(f"name must have printable letters only, got {entry['name']!r}")
    return classes, void


def _codes(entries: list[dict[str, Any]], void: list[Any]) -> tuple[int | None, ...]:
    """The label of each value: see `ClassSet.codes`."""
    values = [_byte("value", entry["value"]) for entry in entries]
    void_values = [_byte("void", value) for value in void]
    _check_distinct("value", (*values, *void_values))
    codes: list[int | None] = [None] * (1 + max(values + void_values))
    for label, value in enumerate(values):
        codes[value] = label
    for value in void_values:
        codes[value] = VOID
    return tuple(codes)


def _fields(entry: Any, what: str, required: set[str], optional: set[str]) -> dict[str, Any]:
    """The entry itself if it is an object with the allowed fields; `what` names it in messages."""
    if not isinstance(entry, dict):
        raise _PaletteError(f"{what} must be an object, got {entry!r}")
    if missing := required - entry.keys():
        raise _PaletteError(f"{what} has no {', '.join(sorted(missing))}: {entry!r}")
    if unknown := entry.keys() - required - optional:
        raise _PaletteError(f"{what} has the unknown field {', '.join(sorted(unknown))}")
    return entry


def _byte(name: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value <= 255:
        raise _PaletteError(f"{name} must be a whole number from 0 to 255, got {value!r}")
    return value


def _color(value: Any) -> Color:
    if not isinstance(value, list) or len(value) != 3:
        raise _PaletteError(f"a color must be [red, green, blue], got {value!r}")
    red, green, blue = (_byte("a color", part) for part in value)
    return red, green, blue


def _check_distinct(what: str, entries: tuple[object, ...]) -> None:
    for index, entry in enumerate(entries):
        if entry in entries[:index]:
            raise _PaletteError(f"{what} {entry!r} is given twice")
