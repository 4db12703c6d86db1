"""Which image comes when."""

import numpy as np
import pytest

from data.order import (
    Order,
    Request,
    permutation,
    steps_per_epoch,
    training_order,
    training_requests,
    validation_numbers,
    validation_requests,
)
from utils.config import Config
from utils.config.comparing import changed_settings
from utils.config.data import DataConfig
from utils.config.parsing import settings_of
from utils.errors import UsageError

COUNT, BATCH, SHARDS = 103, 5, 4  # 5 steps of 20 images, 3 images left out


def requests(local: range, start: int, stop: int) -> list[Request]:
    return list(training_requests(Order(7, COUNT), BATCH, SHARDS, local, start, stop))


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
    endless = training_requests(Order(0, 1000), 10, 1, range(1), 0, 10**12)
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


@pytest.mark.parametrize("block", [1, 7, 10, 103, 500])
@pytest.mark.parametrize("window", [1, 3, 11, 1000])
def test_blocks_visit_every_image_once_in_an_order_of_seed_and_epoch(block: int, window: int):
    order = Order(7, COUNT, block, window)
    assert sorted(order.epoch(3)) == list(range(COUNT))
    assert np.array_equal(order.epoch(3), Order(7, COUNT, block, window).epoch(3))
    assert not np.array_equal(order.epoch(3), order.epoch(4))
    assert not np.array_equal(order.epoch(3), Order(8, COUNT, block, window).epoch(3))


def test_a_window_mixes_all_images_of_its_blocks_and_no_others():
    images = Order(7, 1000, 10, 5).epoch(0).reshape(-1, 50)
    blocks = [np.unique(window // 10, return_counts=True) for window in images]
    assert all(counts.tolist() == [10] * 5 for _, counts in blocks)
    assert sorted(np.concatenate([numbers for numbers, _ in blocks])) == list(range(100))
    assert any((np.diff(numbers) > 1).any() for numbers, _ in blocks)  # neighbouring blocks do not stay together
    runs = [(np.diff(window // 10) == 0).mean() for window in images]
    assert np.mean(runs) < 0.3  # 9/49 where images are mixed, 45/49 where blocks stay whole


def test_what_is_said_of_imagenets_classes_in_a_window_is_so():
    count, classes, window = 5004 * 256, 1000, 64 * 256  # 143 images less: no shorter block shifts the windows
    labels = np.arange(count) * classes // count
    images = Order(7, count, 256, 64).epoch(0)
    counts = [np.bincount(labels[images[at : at + window]]) for at in range(0, count - window + 1, window)]
    found = np.mean([np.count_nonzero(held) for held in counts])
    same = np.mean([(held * (held - 1)).sum() / (window * (window - 1)) for held in counts])
    assert found == pytest.approx(74, abs=2) and 1 / same == pytest.approx(65, abs=1)


def test_settings_choose_the_order():
    assert training_order(DataConfig(), 7, COUNT) == Order(7, COUNT)
    assert np.array_equal(Order(7, COUNT).epoch(3), permutation(7, 3, COUNT))
    chosen = DataConfig(shuffle="blocks", shuffle_block=8, shuffle_window=2)
    assert training_order(chosen, 7, COUNT) == Order(7, COUNT, 8, 2)


@pytest.mark.parametrize("name", ["shuffle_block", "shuffle_window"])
def test_settings_of_blocks_without_blocks_are_refused(name: str):
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} has no effect on --shuffle full"):
        training_order(DataConfig(**{name: 3}), 7, COUNT)


def test_another_order_is_another_run():
    saved = settings_of(Config(data=DataConfig(shuffle="blocks", shuffle_block=8)))
    now = Config(data=DataConfig(shuffle="blocks", shuffle_block=9, shuffle_window=2))
    assert changed_settings(saved, now) == {"shuffle_block": (8, 9), "shuffle_window": (64, 2)}
    assert changed_settings(saved, Config()) == {"shuffle": ("blocks", "full"), "shuffle_block": (8, 256)}
