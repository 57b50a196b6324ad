"""Recorded settings: those of this program, of older ones and of newer ones."""

import json
from pathlib import Path

import pytest

from experiments.common.program import UserError
from experiments.segmentation.input.augmentation import Augmentation
from experiments.segmentation.training.recipe import Recipe
from experiments.segmentation.training.settings import Settings, parse
from experiments.segmentation.training.settings_record import VERSION, from_record, to_record

OUT = Path("there")
# As the program wrote it before settings had a version and before there was `context`.
OLD_RECORD = """{
  "data": "synthetic",
  "model": "enet-minus",
  "size": "16x32",
  "recipe": "quick",
  "training": {
    "epochs": 3,
    "batch_size": 48,
    "learning_rate": 0.008,
    "schedule": "cosine",
    "decay_epochs": [],
    "decay_factor": 0.45,
    "weight_decay": 0.0002,
    "box_l2": 1e-07,
    "box_step_scale": 1.0,
    "dropout": 1.0,
    "augmentation": {
      "flip": 0.5,
      "rotation": 0.0,
      "scale": 0.0
    }
  },
  "steps": 13,
  "precision": "float32",
  "seed": 0,
  "on_bad": "stop"
}
"""


def test_a_record_gives_the_settings_back():
    settings = parse(Settings(), "", ["--recipe", "paper-enet", "--size", "16x32", "--seed", "5"])
    record = json.loads(json.dumps(to_record(settings)))
    assert record["version"] == VERSION
    assert from_record(record, OUT) == Settings(**{**vars(settings), "out": OUT})


def test_what_the_result_does_not_depend_on_is_not_recorded():
    settings = Settings(workers=3, resume=True, distributed="auto", out=Path("here"))
    assert to_record(settings) == to_record(Settings())


def test_settings_that_an_old_record_lacks_have_their_defaults():
    arguments = ["--model", "enet-minus", "--size", "16x32", "--batch-size", "48"]
    expected = parse(Settings(out=OUT), "", [*arguments, "--dropout", "1", "--steps", "13"])
    assert from_record(json.loads(OLD_RECORD), OUT) == expected
    without = json.loads(OLD_RECORD)
    del without["training"]["box_step_scale"], without["training"]["augmentation"]["scale"]
    assert from_record(without, OUT) == expected


def test_defaults_are_those_of_the_setting_and_not_of_the_recipe():
    """A setting that a recipe changes later did not hold for runs from before there was one."""
    record = to_record(parse(Settings(), "", ["--recipe", "paper-erfnet"]))
    del record["training"]["box_step_scale"], record["training"]["augmentation"]["rotation"]
    training = from_record(record, OUT).training
    assert training.box_step_scale == Recipe().box_step_scale == 1
    assert training.augmentation == Augmentation(rotation=0, scale=0.12)


def test_unknown_settings_of_a_newer_program_are_named():
    record = to_record(Settings()) | {"version": VERSION + 1, "teacher": "erfnet"}
    record["training"]["momentum"] = 0.9
    record["training"]["augmentation"]["hue"] = 0.1
    with pytest.raises(UserError) as caught:
        from_record(record, OUT)
    assert str(caught.value) == (
        "there holds a run of a newer version of this program, with the unknown settings teacher, "
        "momentum, hue"
    )


def test_a_newer_version_is_refused_even_with_known_settings():
    record = to_record(Settings()) | {"version": VERSION + 1}
    with pytest.raises(UserError, match=r"^there holds a run of a newer version of this program$"):
        from_record(record, OUT)
