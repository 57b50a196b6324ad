"""Recorded settings: those of this program, of older ones and of newer ones."""

import json
from pathlib import Path

import pytest

from experiments.common.program import UserError
from experiments.segmentation.input.augmentation import Augmentation
from experiments.segmentation.training.recipe import Recipe
from experiments.segmentation.training.settings import Settings, parse
from experiments.segmentation.training.settings_record import (
    VERSION,
    RecordError,
    differences,
    from_record,
    to_record,
    with_recorded_defaults,
)

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


def changed(path, value):
    """A record in which the setting at a path has another value."""
    record = to_record(parse(Settings(), "", ["--size", "16x32", "--steps", "3"]))
    target = record
    for name in path[:-1]:
        target = target[name]
    target[path[-1]] = value
    return record


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (None, "the record is not an object"),
        ([], "the record is not an object"),
        (changed(["training"], None), "training is not an object"),
        (changed(["training", "augmentation"], [1]), "augmentation is not an object"),
        (changed(["version"], "1"), "version has the value '1'"),
        (changed(["version"], None), "version has the value None"),
        (changed(["model"], 5), "model has the value 5"),
        (changed(["model"], "lenet"), "--model must be one of"),
        (changed(["context"], "none"), "context has the value 'none'"),
        (changed(["recipe"], "mine"), "--recipe must be one of"),
        (changed(["size"], [16, 32]), r"size has the value \[16, 32\]"),
        (changed(["size"], "16"), "--size must be HEIGHTxWIDTH"),
        (changed(["steps"], 3.0), "steps has the value 3.0"),
        (changed(["steps"], True), "steps has the value True"),
        (changed(["steps"], -3), "--steps must be greater than 0"),
        (changed(["steps"], 10**200), "--steps must be from 1 to "),
        (changed(["training", "learning_rate"], "1"), "learning_rate has the value '1'"),
        (changed(["training", "learning_rate"], 0), "--learning-rate must be greater than 0"),
        (changed(["training", "decay_epochs"], 3), "decay_epochs has the value 3"),
        (changed(["training", "decay_epochs"], [3, None]), "decay_epochs has the value None"),
        (changed(["training", "augmentation", "flip"], 2), "flip must be from 0 to 1"),
        (changed(["seed"], 2**40), "--seed must be from 0"),
        (changed(["data"], {}), "data has the value {}"),
    ],
)
def test_values_that_no_program_wrote_are_named(record, message):
    with pytest.raises(RecordError, match=message):
        from_record(record, OUT)


def test_an_older_run_goes_on_with_the_defaults_of_settings_that_its_recipe_got_later():
    wanted = parse(Settings(), "", ["--recipe", "paper-erfnet"])
    record = to_record(wanted)
    del record["training"]["box_step_scale"], record["training"]["augmentation"]["rotation"]
    saved = from_record(record, OUT)
    assert set(differences(saved, wanted)) == {"training"}
    settings, changes = with_recorded_defaults(wanted, record)
    assert changes == {"box_step_scale": 1.0, "rotation": 0.0}
    assert differences(saved, settings) == {}
    # What the command line gives itself is not changed, so the run is refused.
    given = parse(Settings(), "", ["--recipe", "paper-erfnet", "--box-step-scale", "2"])
    settings, changes = with_recorded_defaults(given, record)
    assert (settings.training.box_step_scale, changes) == (2.0, {"rotation": 0.0})
    assert set(differences(saved, settings)) == {"training"}


def test_a_data_set_that_was_moved_is_no_difference():
    here, there, other = (Settings(data=data) for data in ("camvid:a", "camvid:b", "sunrgbd:a"))
    assert differences(here, there) == {}
    assert differences(here, other) == {"data": ("camvid", "sunrgbd")}
    assert differences(here, Settings(data="camvid:a", size="16x32", steps=3)) == {}
