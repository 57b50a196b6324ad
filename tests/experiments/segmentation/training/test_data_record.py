"""What a run records of its data set."""

import dataclasses
import json

import pytest

from experiments.common.program import UserError
from experiments.segmentation.data.cityscapes import CITYSCAPES
from experiments.segmentation.data.classes import ClassSet
from experiments.segmentation.data.sunrgbd import SUN_RGBD
from experiments.segmentation.training.data_record import (
    data_record,
    read_data_record,
    write_data_record,
)

COLORED = ClassSet(("a", "b"), ((0, 0, 1), (2, 3, 4)), codes=(), void_colors=((0, 0, 0),))


@pytest.mark.parametrize("classes", [CITYSCAPES, SUN_RGBD, COLORED])
def test_the_record_comes_back(tmp_path, classes):
    assert read_data_record(tmp_path) is None
    record = data_record(classes, 3, 2)
    write_data_record(tmp_path, record)
    assert read_data_record(tmp_path) == record
    assert record.difference(record) is None


def test_another_data_set_is_told_by_classes_and_numbers():
    record = data_record(COLORED, 3, 2)
    fewer = record.difference(dataclasses.replace(record, train=2))
    assert fewer == "3 images in train (now 2)"
    other = dataclasses.replace(COLORED, names=("a", "c"))
    assert record.difference(data_record(other, 3, 2)) == "the classes a, b (now a, c)"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ([], None),
        ([], []),
        (["classes"], None),
        (["train"], -1),
        (["val"], True),
        (["extra"], 1),
        (["classes", "extra"], 1),
        (["classes", "names"], ["a", "a"]),
        (["classes", "names"], ["a", 2]),
        (["classes", "names"], "ab"),
        (["classes", "names"], []),
        (["classes", "colors"], [[0, 0, 1]]),
        (["classes", "colors"], [[0, 0, 1], [0, 0, 256]]),
        (["classes", "colors"], [[0, 0, 1], None]),
        (["classes", "codes"], [2]),
        (["classes", "codes"], None),
        (["classes", "void_colors"], [1]),
        (["classes", "categories"], ["one"]),
        (["normalization", "mean"], [0, 0]),
        (["normalization", "std"], [1, 1, 0]),
        (["normalization", "std"], ["1", 1, 1]),
    ],
)
def test_a_damaged_record_is_named(tmp_path, path, value):
    write_data_record(tmp_path, data_record(COLORED, 3, 2))
    content = json.loads((tmp_path / "data.json").read_text())
    if path:
        (content[path[0]] if path[1:] else content)[path[-1]] = value
    else:
        content = value
    (tmp_path / "data.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"data\.json is damaged \(.+\); mend it"):
        read_data_record(tmp_path)
