"""Reading JSON that may be damaged or written by hand."""

import json
import os

import pytest

from experiments.common.json_files import JsonError, dump_json, is_json_with, parse_json, read_json

DAMAGED = {
    "binary": (b"\x89PNG\r\n\x1a\n\x00\xff", "not UTF-8"),
    "empty": (b"", "Expecting value"),
    "cut short": (b'{"a": 1', "Expecting"),
    "two values": (b"{} {}", "Extra data"),
    "the same name twice": (b'{"a": {"b": 1, "b": 2}}', "'b' is given twice"),
    "NaN": (b'{"a": NaN}', "NaN is not a number that JSON has"),
    "infinity": (b"[-Infinity]", "-Infinity is not"),
    "a float that is too large": (b"[1e999]", "too large"),
    "an integer that is too large": (b"[" + b"9" * 5000 + b"]", "too large"),
    "deep nesting": (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
    "nesting that Python can just read": (b'{"a":' * 200 + b"1" + b"}" * 200, "too deeply"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_wrong_with_a_file_is_said(tmp_path, name):
    data, message = DAMAGED[name]
    file = tmp_path / "file.json"
    file.write_bytes(data)
    with pytest.raises(JsonError, match=message):
        read_json(file)
    assert not is_json_with(data, [])


def test_a_pipe_is_not_waited_for(tmp_path):
    file = tmp_path / "file.json"
    os.mkfifo(file)
    with pytest.raises(OSError, match="it is a pipe or a device"):
        read_json(file)


def test_values_come_back():
    value = {"a": [1, -2.5, None, True, "ä", {}], "b": {"c": []}}
    assert parse_json(dump_json(value)) == value
    assert parse_json(json.dumps(value)) == value


def test_json_is_recognised_by_its_names():
    assert is_json_with(b'{"a": 1, "b": 2}', ["a", "b"])
    assert is_json_with(b'[{"a": 1}, {"a": 2}]', ["a"])
    assert not is_json_with(b'{"a": 1}', ["a", "b"])
    assert not is_json_with(b"[1]", ["a"])
