"""The input pipeline: order, exact resume, augmentation, normalisation, frequencies."""

import contextlib
import gc
import itertools
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.segmentation.data.camvid import CAMVID
from experiments.segmentation.data.classes import VOID
from experiments.segmentation.data.errors import DataError
from experiments.segmentation.data.synthetic import SyntheticStreets
from experiments.segmentation.input.augmentation import Augmentation
from experiments.segmentation.input.pipeline import (
    Shard,
    class_frequencies,
    evaluation_batches,
    normalize,
    read_ahead,
    training_batches,
)


class Numbered:
    """Sample `i` shows `i` in every pixel; the left pixels of its label are `i`, the right void."""

    classes = CAMVID
    size = (2, 4)

    def __init__(self, length, broken=None):
        self.length = length
        self.broken = broken

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index == self.broken:
            raise DataError("sample is broken; mend it")
        return {"image": np.full((2, 4, 3), index, np.uint8), "label": self.label(index)}

    def label(self, index):
        label = np.full((2, 4), VOID, np.uint8)
        label[:, :2] = index
        return label


@pytest.fixture
def data_seed(rng):
    return int(rng.integers(2**32))


def numbers(batch):
    return batch["label"].min(axis=(1, 2))


def is_flipped(batch):
    return batch["label"][:, 0, 0] == VOID


def assert_same(batch, other):
    for key in ("image", "label"):
        np.testing.assert_array_equal(batch[key], other[key])


def test_every_epoch_has_each_sample_once_in_an_order_of_its_own(data_seed):
    dataset = training_batches(Numbered(10), 4, data_seed)
    assert all(dataset[step]["label"].shape == (4, 2, 4) for step in range(5))
    first, second = np.concatenate([numbers(dataset[step]) for step in range(5)]).reshape(2, 10)
    assert sorted(first) == sorted(second) == list(range(10))
    many = np.concatenate([numbers(dataset[step]) for step in range(50)]).reshape(20, 10)
    assert len(np.unique(many, axis=0)) > 15


def test_a_batch_is_a_function_of_seed_and_step(data_seed):
    dataset, again = (training_batches(Numbered(7), 3, data_seed) for _ in range(2))
    for step in (11, 2, 11, 0):
        assert_same(dataset[step], again[step])
    other = training_batches(Numbered(7), 3, (data_seed + 1) % 2**32)
    steps = range(12)
    assert any((numbers(dataset[step]) != numbers(other[step])).any() for step in steps)


@pytest.mark.parametrize("threads", [1, 3])
def test_reading_ahead_resumes_at_any_step(data_seed, rng, threads):
    dataset = training_batches(Numbered(9), 2, data_seed)
    step = int(rng.integers(1, 30))
    batches = list(itertools.islice(read_ahead(dataset, step, threads=threads), 6))
    for offset, batch in enumerate(batches):
        assert_same(batch, dataset[step + offset])


def test_a_batch_larger_than_the_source_is_full(data_seed):
    batch = training_batches(Numbered(3), 7, data_seed)[0]
    assert sorted(numbers(batch)[:6]) == [0, 0, 1, 1, 2, 2]
    assert len(numbers(batch)) == 7


def test_half_of_the_samples_are_flipped_and_anew_each_epoch(data_seed):
    dataset = training_batches(Numbered(60), 60, data_seed)
    flipped = []
    for epoch in range(20):
        batch = dataset[epoch]
        flipped.append(is_flipped(batch)[np.argsort(numbers(batch))])
    assert 0.4 < np.mean(flipped) < 0.6  # 6.9 deviations
    assert len(np.unique(flipped, axis=0)) == 20


def test_images_are_normalised_and_types_are_set(rng):
    image = rng.integers(0, 256, (3, 5, 3)).astype(np.uint8)
    label = rng.integers(0, 256, (3, 5)).astype(np.uint8)
    batch = normalize({"image": image, "label": label})
    assert batch["image"].dtype == np.float32
    assert batch["label"].dtype == np.int32
    exact = (image.astype(np.float32) / np.float32(255) - np.float32([0.485, 0.456, 0.406])) / (
        np.float32([0.229, 0.224, 0.225])
    )
    np.testing.assert_array_equal(batch["image"], exact)
    back = batch["image"] * [0.229, 0.224, 0.225] + [0.485, 0.456, 0.406]
    np.testing.assert_allclose(back * 255, image, atol=1e-4)
    np.testing.assert_array_equal(batch["label"], label)


@pytest.mark.parametrize(("length", "sizes"), [(6, [3, 3]), (7, [3, 3, 1]), (2, [2])])
def test_evaluation_reads_each_sample_once_and_fills_up_with_void(length, sizes):
    batches = list(read_ahead(evaluation_batches(Numbered(length), 3)))
    assert [int((numbers(batch) != VOID).sum()) for batch in batches] == sizes
    found = np.concatenate([numbers(batch) for batch in batches])
    np.testing.assert_array_equal(found[:length], np.arange(length))
    for batch in batches:
        assert batch["image"].shape == (3, 2, 4, 3)
        assert batch["image"].dtype == np.float32
        assert batch["label"].dtype == np.int32
        assert not is_flipped(batch)[numbers(batch) != VOID].any()


@pytest.fixture
def streets():
    """A source that worker processes can import."""
    return SyntheticStreets("train", (16, 32), length=7, seed=3)


ANY_CHANGE = Augmentation(flip=0.5, rotation=20, scale=0.3)


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_shards_in_a_row_are_the_whole_batch(streets, data_seed, count):
    whole = training_batches(streets, 6, data_seed, ANY_CHANGE)
    parts = [
        training_batches(streets, 6, data_seed, ANY_CHANGE, Shard(index, count))
        for index in range(count)
    ]
    for step in (0, 1, 7, 2):
        loaded = [part[step] for part in parts]
        assert all(len(part["label"]) == 6 // count for part in loaded)
        joined = {key: np.concatenate([part[key] for part in loaded]) for key in loaded[0]}
        assert_same(joined, whole[step])


@pytest.mark.parametrize("length", [1, 4, 6, 7, 12])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_shards_of_the_evaluation_are_the_whole_batches(length, count):
    whole = evaluation_batches(Numbered(length), 6)
    parts = [evaluation_batches(Numbered(length), 6, Shard(k, count)) for k in range(count)]
    assert [len(part) for part in parts] == [len(whole)] * count == [-(-length // 6)] * count
    for step in range(len(whole)):
        loaded = [part[step] for part in parts]
        joined = {key: np.concatenate([part[key] for part in loaded]) for key in loaded[0]}
        assert_same(joined, whole[step])


def test_what_fills_batches_up_is_black_and_void():
    batch = evaluation_batches(Numbered(1), 2)[0]
    assert np.all(batch["label"][1] == VOID)
    black = normalize({"image": np.zeros((2, 4, 3), np.uint8), "label": batch["label"][1]})
    np.testing.assert_array_equal(batch["image"][1], black["image"])


def test_workers_change_nothing(streets, data_seed):
    dataset = training_batches(streets, 4, data_seed, ANY_CHANGE, Shard(1, 2))
    with contextlib.closing(read_ahead(dataset, 5, workers=2)) as batches:
        # All at once, since each is in memory of its own that a worker gave up.
        loaded = list(itertools.islice(batches, 5))
    assert all(isinstance(batch["image"], np.ndarray) for batch in loaded)
    for offset, batch in enumerate(loaded):
        assert_same(batch, dataset[5 + offset])


def test_a_worker_reads_the_end_and_keeps_off_the_accelerator():
    # A class that cannot be imported travels by value; workers cannot import this module either.
    class Spy:
        size = (2, 4)

        def __init__(self, length, broken=None):
            self.length, self.broken = length, broken

        def __len__(self):
            return self.length

        def __getitem__(self, index):
            assert multiprocessing.parent_process() is not None
            assert jax.config.jax_platforms == "cpu"
            if index == self.broken:
                raise DataError("sample is broken; mend it")
            label = np.full((2, 4), index, np.uint8)
            return {"image": np.zeros((2, 4, 3), np.uint8), "label": label}

    batches = read_ahead(evaluation_batches(Spy(5), 2), workers=1)
    assert [numbers(batch).tolist() for batch in batches] == [[0, 1], [2, 3], [4, VOID]]
    batches = read_ahead(evaluation_batches(Spy(5, broken=3), 2), workers=1)
    next(batches)
    with pytest.raises(DataError, match="mend it"):
        next(batches)
    gc.collect()  # What the exception refers to, see `read_ahead`.


_READS_FOREVER = """
import time
from experiments.segmentation.input.pipeline import read_ahead, training_batches
from experiments.segmentation.data.synthetic import SyntheticStreets

if __name__ == "__main__":
    source = SyntheticStreets("train", (8, 8))
    for _ in read_ahead(training_batches(source, 2, 0), workers=2):
        print("read", flush=True)
        time.sleep(0.1)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_when_the_program_is_killed(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(_READS_FOREVER)
    root = Path(__file__).parents[4]
    shared_before = set(Path("/dev/shm").iterdir())
    process = subprocess.Popen(
        [sys.executable, str(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    try:
        assert process.stdout.readline() == b"read\n"
        threads = Path(f"/proc/{process.pid}/task").glob("*/children")
        children = [child for thread in threads for child in thread.read_text().split()]
        assert len(children) == 3  # Two workers, and what cleans up after them.
    finally:
        process.kill()
        process.communicate()

    def shared_bytes():
        # A segment that was just being made when its worker ended stays: a name without memory.
        new = set(Path("/dev/shm").iterdir()) - shared_before
        return sum(512 * file.stat().st_blocks for file in new)

    deadline = time.monotonic() + 60
    while any(Path("/proc", child).exists() for child in children) or shared_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_what_reading_raises_arrives():
    batches = read_ahead(evaluation_batches(Numbered(4, broken=2), 2))
    next(batches)
    with pytest.raises(DataError, match="mend it"):
        next(batches)


def test_class_frequencies_leave_void_out():
    frequencies = class_frequencies(Numbered(4))
    np.testing.assert_allclose(frequencies, [0.25] * 4 + [0] * 7)


def test_class_frequencies_are_of_all_labels_if_those_read_first_are_void():
    class HalfVoid(Numbered):
        def label(self, index):
            return super().label(index) if index % 2 else np.full((2, 4), VOID, np.uint8)

    frequencies = class_frequencies(HalfVoid(8), most=4)  # which reads those of even numbers
    np.testing.assert_allclose(frequencies, [0, 0.25] * 4 + [0] * 3)


def test_class_frequencies_need_a_class():
    with pytest.raises(ValueError, match="not void"):
        class_frequencies(Numbered(0))


def test_bad_arguments_are_refused():
    source = Numbered(4)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        training_batches(source, 0, 0)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got -1"):
        evaluation_batches(source, -1)
    with pytest.raises(ValueError, match="at least one sample"):
        training_batches(Numbered(0), 2, 0)
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match="seed must be"):
            training_batches(source, 2, seed)
    with pytest.raises(ValueError, match="step must be"):
        read_ahead(evaluation_batches(source, 2), -1)
    with pytest.raises(ValueError, match="threads >= 1, got 0, 0 and 0"):
        read_ahead(evaluation_batches(source, 2), threads=0)
    with pytest.raises(ValueError, match="workers >= 0"):
        read_ahead(evaluation_batches(source, 2), workers=-1)
    for batches in (training_batches(source, 6, 0, shard=Shard()), evaluation_batches(source, 6)):
        assert len(batches[0]["label"]) == 6
    with pytest.raises(ValueError, match="divisible by the number of shards, got 6 and 4"):
        training_batches(source, 6, 0, shard=Shard(0, 4))
    with pytest.raises(ValueError, match="divisible by the number of shards, got 2 and 4"):
        evaluation_batches(source, 2, Shard(0, 4))
    for index, count in ((-1, 2), (2, 2), (0, 0)):
        with pytest.raises(ValueError, match=f"got index {index} and count {count}"):
            Shard(index, count)
