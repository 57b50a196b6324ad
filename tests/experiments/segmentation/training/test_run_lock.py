"""The lock on a run's directory."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import experiments
from experiments.common.program import UserError
from experiments.segmentation.training.run_directory import claimed
from experiments.segmentation.training.run_lock import LOCK, locked
from experiments.segmentation.training.settings import Settings

_HOLD = """
import sys, time
from pathlib import Path
from experiments.segmentation.training.run_lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_a_directory_is_locked_for_others_until_the_holder_dies(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)],
        env={"PYTHONPATH": str(Path(experiments.__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "locked\n"
        message = rf"is in use by another process \(number {holder.pid}\); wait until it ends"
        with pytest.raises(UserError, match=message), locked(tmp_path):
            pass
        with pytest.raises(UserError, match=message), claimed(Settings(out=tmp_path)):
            pass
        assert (tmp_path / LOCK).exists()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    assert (tmp_path / LOCK).exists()  # but nobody holds it
    with locked(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_a_directory_is_locked_within_one_process_too(tmp_path):
    with locked(tmp_path), pytest.raises(UserError, match="in use"), locked(tmp_path):
        pass


@pytest.mark.parametrize("error", [UserError("a data set is missing"), KeyboardInterrupt()])
def test_a_run_that_did_not_begin_leaves_no_directory(tmp_path, error):
    def begin():
        with claimed(Settings(out=tmp_path / "new" / "run")) as settings:
            assert settings.out.is_dir()
            raise error

    with pytest.raises(type(error)):
        begin()
    assert not list(tmp_path.iterdir())
