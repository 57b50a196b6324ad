"""A run's directory: which runs can be resumed, and which count as finished."""

import dataclasses
import json

import pytest

from experiments.common.program import UserError
from experiments.segmentation.training.run_directory import (
    begin_run,
    claimed,
    is_finished,
    read_settings,
    record_finished,
)
from experiments.segmentation.training.settings import Settings, parse
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


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"null", b"[]", b'"text"', b'{"seed": 1, "seed": 1}', b"[" * 100_000]
)
def test_whatever_the_record_holds_its_file_is_named(settings, directory, content):
    (directory / "settings.json").write_bytes(content)
    resumed = dataclasses.replace(settings, resume=True)
    for use in (lambda: read_settings(directory), lambda: begin_run(resumed)):
        with pytest.raises(UserError, match=r"settings\.json is damaged \(.+\); mend it, or start"):
            use()
    with pytest.raises(UserError, match=r"damaged"), claimed(resumed):
        pass
    assert (directory / "settings.json").read_bytes() == content


def test_a_run_from_before_its_recipe_had_a_setting_is_resumed_with_the_default(tmp_path, capsys):
    settings = parse(Settings(out=tmp_path / "run"), "", ["--recipe", "paper-enet"])
    begin_run(settings)
    record = to_record(settings)
    del record["training"]["box_step_scale"]
    (settings.out / "settings.json").write_text(json.dumps(record))
    before = {file: file.read_bytes() for file in settings.out.iterdir()}
    with claimed(dataclasses.replace(settings, resume=True)) as resumed:
        assert resumed.training.box_step_scale == 1
        begin_run(resumed)
    assert "was begun by an older program and goes on with box_step_scale 1.0" in (
        capsys.readouterr().err
    )
    assert before == {file: file.read_bytes() for file in settings.out.iterdir()}


def test_where_the_data_set_is_now_is_recorded(tmp_path):
    settings = Settings(data="camvid:before", out=tmp_path / "run", resume=True)
    begin_run(dataclasses.replace(settings, resume=False))
    begin_run(dataclasses.replace(settings, data="camvid:now"))
    assert read_settings(settings.out).data == "camvid:now"
    with pytest.raises(UserError, match=r"another setting: data 'camvid' \(now 'sunrgbd'\)"):
        begin_run(dataclasses.replace(settings, data="sunrgbd:now"))


def test_a_finished_run_is_not_said_to_go_on_with_resume(settings, directory):
    with pytest.raises(UserError, match="holds a run; go on with --resume"):
        begin_run(settings)
    record_finished(directory, 7)
    with pytest.raises(UserError, match="holds a finished run; choose another --out"):
        begin_run(settings)
