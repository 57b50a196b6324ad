"""The metrics of a run: appended, read back, and refused by line where they are damaged."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from experiments.common.program import UserError
from experiments.segmentation.training.metrics_log import NUMBERS, MetricsLog, read_metrics


def record(step, **others):
    return {"step": step, **dict.fromkeys(NUMBERS, 0.5), "iou": {"road": None}, **others}


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(record(step)) + "\n" for step in (2, 4)))
    return file


def test_records_after_the_step_of_the_checkpoint_are_dropped(tmp_path, file):
    before = file.read_bytes().splitlines()
    with MetricsLog(tmp_path, 2) as log:
        log.add(record(4, loss=float("nan"), mean_iou=1))
    assert file.read_bytes().splitlines()[0] == before[0]
    assert read_metrics(tmp_path) == [record(2), record(4, loss=None, mean_iou=1)]
    assert list((tmp_path / "tensorboard").iterdir())


def test_tensorboard_gets_numbers_of_classes_and_steps_and_pictures(tmp_path, rng):
    picture = rng.integers(0, 256, (4, 6, 3)).astype(np.uint8)
    with MetricsLog(tmp_path, 4) as log:
        log.add(record(6, iou={"road": 0.25, "car": None}))
        log.add_numbers(5, {"step/loss": 2.0, "step/none": None})
        log.add_picture(6, "predictions", picture)
    (events,) = (tmp_path / "tensorboard").iterdir()
    data = events.read_bytes()
    assert data.count(b"iou/road") == 1
    assert data.count(b"step/loss") == 1
    for absent in (b"iou/car", b"step/none"):
        assert absent not in data
    start = data.index(b"\x89PNG")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data[start:]))), picture)


def test_a_last_line_that_was_cut_short_is_left_out(tmp_path, file):
    for end in (b'{"step": 6, "lo', b"\x00\xff", b"[" * 100_000):
        kept = file.read_bytes()
        file.write_bytes(kept + end)
        assert [each["step"] for each in read_metrics(tmp_path)] == [2, 4]
        file.write_bytes(kept)


def test_numbers_that_a_record_lacks_are_none(tmp_path, file):
    file.write_text('{"step": 2, "loss": 1}\n')
    assert read_metrics(tmp_path) == [dict.fromkeys(NUMBERS) | {"step": 2, "loss": 1}]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"\xff\xfe", "not UTF-8"),
        (b"null", "not an object"),
        (b'[{"step": 3}]', "not an object"),
        (b"", "Expecting value"),
        (b'{"epoch": 1}', "it has no step, but None"),
        (b'{"step": "3"}', "it has no step, but '3'"),
        (b'{"step": true}', "it has no step, but True"),
        (b'{"step": 3.5}', "it has no step"),
        (b'{"step": 3, "step": 3}', "given twice"),
        (b'{"step": 3, "loss": NaN}', "NaN"),
        (b'{"step": 3, "loss": "low"}', "loss 'low' is not a number"),
        (b'{"step": 3, "mean_iou": [1]}', "mean_iou"),
        (b'{"step": 2}', "step 2 is not after 2"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_damaged_line_is_named_and_nothing_is_dropped(tmp_path, file, line, message):
    first, last = file.read_bytes().splitlines()
    damaged = b"\n".join([first, line, last, b""])
    file.write_bytes(damaged)
    for read in (lambda: read_metrics(tmp_path), lambda: MetricsLog(tmp_path, 9)):
        with pytest.raises(UserError, match=r"metrics\.jsonl: line 2 is damaged .*" + message):
            read()
    assert file.read_bytes() == damaged


def test_a_full_disk_is_an_error_of_the_file_and_no_hang(tmp_path, file):
    with MetricsLog(tmp_path, 9) as log:
        for step in range(10, 40):
            log.add(record(step))
        file.unlink()
        file.symlink_to("/dev/full")
        with pytest.raises(OSError, match="No space left"):
            log.add(record(41))
