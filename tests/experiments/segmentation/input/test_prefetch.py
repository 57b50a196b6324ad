"""Batches under way to the devices."""

import contextlib
import itertools

import jax
import numpy as np
import pytest

from experiments.segmentation.data.synthetic import SyntheticStreets
from experiments.segmentation.input.pipeline import read_ahead, training_batches
from experiments.segmentation.input.prefetch import to_device


def _batches(count):
    for value in range(count):
        yield {
            "image": np.full((4, 2, 2, 3), value, np.float32),
            "label": np.full((4, 2, 2), value, np.int32),
        }


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_all_batches_arrive_in_order(ahead):
    arrived = list(to_device(_batches(4), ahead=ahead))
    assert [int(batch["label"][0, 0, 0]) for batch in arrived] == [0, 1, 2, 3]
    for batch in arrived:
        assert all(isinstance(array, jax.Array) for array in batch.values())
        assert (batch["image"].dtype, batch["label"].dtype) == (np.float32, np.int32)


def test_only_so_many_batches_are_read_ahead():
    taken = []
    source = (taken.append(value) or batch for value, batch in enumerate(_batches(10)))
    batches = to_device(source, ahead=2)
    for asked in range(3):
        next(batches)
        assert len(taken) == asked + 3


def test_a_sharding_places_the_samples():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    (batch,) = to_device(_batches(1), sharding)
    assert batch["image"].sharding == batch["label"].sharding == sharding
    assert batch["image"].shape == (4, 2, 2, 3)


def test_batches_of_workers_stay_when_the_worker_is_gone():
    source = SyntheticStreets("train", (16, 32), length=5)
    dataset = training_batches(source, 4, 0)
    with contextlib.closing(read_ahead(dataset, workers=1)) as loaded:
        batches = list(itertools.islice(to_device(loaded), 3))
    for step, batch in enumerate(batches):
        for key, expected in dataset[step].items():
            np.testing.assert_array_equal(batch[key], expected)


def test_what_loading_raises_arrives():
    def broken():
        yield from _batches(3)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(to_device(broken()))


def test_fewer_than_one_batch_ahead_is_refused():
    with pytest.raises(ValueError, match="ahead must be at least 1, got 0"):
        to_device(_batches(1), ahead=0)
