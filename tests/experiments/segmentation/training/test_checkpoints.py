"""Checkpoints: the state comes back, from the newest checkpoint that is whole."""

import errno
import functools
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from experiments.common.program import UserError
from experiments.segmentation.training.checkpoints import Checkpoints
from experiments.segmentation.training.trainer import Trainer


class Small(nnx.Module):
    """A network with parameters, statistics and random state."""

    def __init__(self, rngs):
        self.inner = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)


@functools.cache  # A trainer compiles its initial state.
def state_of(seed=0, step=0, make_optimizer=optax.adam):
    state = Trainer(Small(nnx.Rngs(seed)), make_optimizer(1e-3), np.ones(4)).initial
    return state._replace(step=jnp.int32(step))


def assert_same(state, other):
    def values(tree):
        return [
            jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
            for leaf in jax.tree.leaves(tree)
        ]

    assert jax.tree.structure(state) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, values(state), values(other))


def test_the_newest_state_comes_back(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest(state_of()) is None
        for step in (3, 5):
            checkpoints.save(state_of(seed=step, step=step))
    with Checkpoints(tmp_path) as checkpoints:
        assert_same(checkpoints.latest(state_of()), state_of(seed=5, step=5))
        kept = checkpoints.all(state_of())
    assert list(kept) == [3, 5]
    assert_same(kept[3], state_of(seed=3, step=3))


def test_a_checkpoint_with_the_names_of_older_programs_opens(tmp_path):
    saved = state_of(seed=1, step=9)
    parts = saved._asdict()
    parts["rest"] = parts.pop("model_state")
    parts["optimizer"] = parts.pop("opt_state")
    with ocp.CheckpointManager(tmp_path / "checkpoints") as manager:
        manager.save(9, args=ocp.args.StandardSave(parts))
    with Checkpoints(tmp_path) as checkpoints:
        assert_same(checkpoints.latest(state_of()), saved)


def test_a_state_of_another_optimizer_is_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state_of(step=2))
        with pytest.raises(UserError, match=r"^checkpoint 2 in .* does not fit this network"):
            checkpoints.latest(state_of(make_optimizer=optax.adagrad))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The directory of a run with the checkpoints 3 and 5."""
    directory = tmp_path_factory.mktemp("saved")
    with Checkpoints(directory) as checkpoints:
        for step in (3, 5):
            checkpoints.save(state_of(seed=step, step=step))
    return directory


def _empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def _make_file(folder):
    shutil.rmtree(folder)
    folder.write_text("")


def _change_a_byte(folder):
    largest = max((p for p in folder.rglob("d/*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)


def _truncate_without_digests(folder):
    (folder / "digests.json").unlink()
    for file in folder.rglob("d/*"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _swap_without_digests(folder):
    (folder / "digests.json").unlink()
    shutil.rmtree(folder / "default")
    shutil.copytree(folder.parent / "3" / "default", folder / "default")


DAMAGES = {
    "an empty folder": _empty,
    "a file": _make_file,
    "a changed byte": _change_a_byte,
    "a missing file": lambda folder: (folder / "default" / "_METADATA").unlink(),
    "damaged digests": lambda folder: (folder / "digests.json").write_bytes(b"[\xff"),
    "digests that are null": lambda folder: (folder / "digests.json").write_text("null"),
    "truncated files of an older program": _truncate_without_digests,
    "another checkpoint of an older program": _swap_without_digests,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    saved, tmp_path, capfd, caplog, damage
):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    newest = tmp_path / "checkpoints" / "5"
    DAMAGES[damage](newest)
    files = set(tmp_path.rglob("*"))
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert_same(checkpoints.latest(state_of()), state_of(seed=3, step=3))
        assert list(checkpoints.all(state_of())) == [3]
    assert files == set(tmp_path.rglob("*"))
    first, second = capfd.readouterr().err.splitlines()
    assert first == second
    assert first.startswith(f"checkpoint 5 in {tmp_path}/checkpoints is damaged (")
    assert first.endswith("); checkpoint 3 is used")

    with Checkpoints(tmp_path) as checkpoints:
        state = checkpoints.latest(state_of())
        # What was damaged is kept, and training goes over its step again.
        assert (tmp_path / "damaged_checkpoints" / "5").exists()
        checkpoints.save(state._replace(step=jnp.int32(5)))
        assert list(checkpoints.all(state_of())) == [3, 5]
    assert capfd.readouterr().err.count("\n") == 1
    assert not caplog.records


def test_an_older_damaged_checkpoint_hinders_nobody(saved, tmp_path, capfd):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    _empty(tmp_path / "checkpoints" / "3")
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert_same(checkpoints.latest(state_of()), state_of(seed=5, step=5))
        assert not capfd.readouterr().err
        assert list(checkpoints.all(state_of())) == [5]
    assert "checkpoint 3 in" in capfd.readouterr().err
    _empty(tmp_path / "checkpoints" / "5")
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(UserError, match=r"^checkpoint 5 in .* is damaged .*; so are 3; start again"),
    ):
        checkpoints.latest(state_of())
    assert (tmp_path / "checkpoints" / "5").exists()


def test_reading_creates_and_removes_nothing(saved, tmp_path):
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.latest(state_of()) is None
        assert checkpoints.all(state_of()) == {}
    assert not list(tmp_path.iterdir())
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    unfinished = tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp"  # of a process that trains
    unfinished.mkdir()
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert int(checkpoints.latest(state_of()).step) == 5
    assert unfinished.exists()


def test_a_full_disk_is_named_before_anything_is_written(tmp_path, monkeypatch):
    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_space)
    message = r"^checkpoint 1 cannot be written into .*No space"
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match=message):
        checkpoints.save(state_of(step=1))
    assert not list((tmp_path / "checkpoints").iterdir())
