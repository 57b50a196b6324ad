"""A run's directory: which runs can be resumed, and which count as finished."""

import dataclasses
import json

import pytest

from experiments.common.program import UserError
from experiments.segmentation.training.run_directory import (
    begin_run,
    is_finished,
    read_settings,
    record_finished,
)
from experiments.segmentation.training.settings import Settings
from experiments.segmentation.training.settings_record import to_record


@pytest.fixture
def settings(tmp_path):
    return Settings(model="enet", steps=7, size="16x32", out=tmp_path / "run")


@pytest.fixture
def directory(settings):
    begin_run(settings)
    return settings.out


def write_metrics(directory, *steps):
    lines = [json.dumps({"step": step}) + "\n" for step in steps]
    (directory / "metrics.jsonl").write_text("".join(lines))


def rewrite_settings(directory, **changes):
    """Changes the recorded settings; those that become None are removed."""
    file = directory / "settings.json"
    record = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({name: v for name, v in record.items() if v is not None}))


def test_a_run_is_finished_when_that_is_recorded(directory):
    assert not is_finished(directory)
    write_metrics(directory, 4, 7)
    assert not is_finished(directory)
    record_finished(directory, 7)
    assert is_finished(directory)


def test_an_older_run_is_finished_with_metrics_of_its_last_step_and_curves(directory):
    rewrite_settings(directory, version=None, context=None)
    (directory / "curves.png").touch()
    assert not is_finished(directory)
    # Training that was stopped by hand drew curves too.
    write_metrics(directory, 4)
    assert not is_finished(directory)
    write_metrics(directory, 4, 7)
    assert is_finished(directory)
    (directory / "curves.png").unlink()
    assert not is_finished(directory)


def test_a_run_is_resumed_with_its_own_settings_only(settings, directory):
    assert read_settings(directory) == settings
    begin_run(dataclasses.replace(settings, resume=True, workers=2))
    with pytest.raises(UserError, match=r"another setting: seed 0 \(now 1\); repeat its own"):
        begin_run(dataclasses.replace(settings, resume=True, seed=1))


def test_a_run_from_before_a_setting_existed_is_resumed_with_its_default(settings, directory):
    rewrite_settings(directory, version=None, context=None)
    before = (directory / "settings.json").read_bytes()
    assert read_settings(directory) == settings
    begin_run(dataclasses.replace(settings, resume=True))
    with pytest.raises(UserError, match=r"another setting: context 'dilated' \(now 'box'\)"):
        begin_run(dataclasses.replace(settings, resume=True, context="box"))
    assert (directory / "settings.json").read_bytes() == before


def test_a_run_of_a_newer_program_is_not_resumed(settings, directory):
    rewrite_settings(directory, version=99, teacher="erfnet")
    with pytest.raises(UserError, match=r"newer version .* unknown settings teacher"):
        begin_run(dataclasses.replace(settings, resume=True))


def test_a_damaged_record_is_named(directory):
    record = json.dumps(to_record(Settings()))
    (directory / "settings.json").write_text(record[:-9])
    with pytest.raises(UserError, match=r"settings\.json is damaged"):
        read_settings(directory)
