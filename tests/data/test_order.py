"""Which image comes when."""

import numpy as np
import pytest

from data.order import (
    Request,
    permutation,
    steps_per_epoch,
    training_requests,
    validation_numbers,
    validation_requests,
)
from utils.errors import UsageError

COUNT, BATCH, SHARDS = 103, 5, 4  # 5 steps of 20 images, 3 images left out


def requests(local: range, start: int, stop: int) -> list[Request]:
    return list(training_requests(7, COUNT, BATCH, SHARDS, local, start, stop))


def test_order_is_a_permutation_that_depends_on_seed_and_epoch_only():
    first = permutation(7, 3, COUNT)
    assert sorted(first) == list(range(COUNT))
    assert np.array_equal(first, permutation(7, 3, COUNT))
    assert not np.array_equal(first, permutation(7, 4, COUNT))
    assert not np.array_equal(first, permutation(8, 3, COUNT))


def test_order_is_that_of_numpy_with_the_documented_key_and_counter():
    philox = np.random.Philox(key=[7, 0], counter=[0, 3, 0, 0])
    assert np.array_equal(permutation(7, 3, COUNT), np.random.Generator(philox).permutation(COUNT))


def test_steps_leave_out_the_tail_of_the_epoch():
    assert steps_per_epoch(COUNT, SHARDS, BATCH) == 5
    assert steps_per_epoch(100, SHARDS, BATCH) == 5
    assert steps_per_epoch(99, SHARDS, BATCH) == 4


def test_fewer_images_than_the_global_batch_are_refused_with_both_numbers():
    with pytest.raises(UsageError, match=r"19 training images.*= 20"):
        steps_per_epoch(19, SHARDS, BATCH)


def test_slices_of_an_epoch_partition_its_order():
    epoch = requests(range(SHARDS), 5, 10)
    assert [request.epoch for request in epoch] == [1] * 20
    assert np.array_equal(np.concatenate([request.indices for request in epoch]), permutation(7, 1, COUNT)[:100])


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_together_load_what_one_rank_loads(world: int):
    share = SHARDS // world
    ranks = [requests(range(rank * share, (rank + 1) * share), 0, 12) for rank in range(world)]
    steps = [[rank[step * share : (step + 1) * share] for rank in ranks] for step in range(12)]
    together = [request for step in steps for part in step for request in part]
    alone = requests(range(SHARDS), 0, 12)
    assert [request.epoch for request in together] == [request.epoch for request in alone]
    assert all(np.array_equal(a.indices, b.indices) for a, b in zip(together, alone, strict=True))


def test_starting_in_the_middle_of_an_epoch_is_a_slice():
    whole = requests(range(1, 3), 0, 20)
    rest = requests(range(1, 3), 7, 20)
    assert all(np.array_equal(a.indices, b.indices) for a, b in zip(whole[2 * 7 :], rest, strict=True))


def test_requests_of_a_long_run_are_not_computed_in_advance():
    endless = training_requests(0, 1000, 10, 1, range(1), 0, 10**12)
    assert len(next(endless).indices) == 10


@pytest.mark.parametrize("world", [1, 2, 3, 7, 60])
def test_validation_counts_each_image_once_in_the_same_batches_on_any_number_of_ranks(world: int):
    batches = {}
    for rank in range(world):
        numbers = validation_numbers(197, 10, rank, world)
        batches |= dict(zip(numbers, validation_requests(197, 10, rank, world), strict=True))
    assert sorted(batches) == list(range(20))
    assert np.array_equal(np.concatenate([batches[number].indices for number in range(20)]), np.arange(197))
    assert [len(batches[number].indices) for number in range(20)] == [10] * 19 + [7]
