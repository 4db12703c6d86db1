"""Draws without state: numpy's Philox and its published test vectors are the truth."""

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from utils import randomness
from utils.randomness import generator, philox, seed_torch, uniforms

CPU = torch.device("cpu")
FULL = (1 << 64) - 1

# kat_vectors of Random123 (Salmon et al. 2011), philox4x64 10 rounds: counter, key, bits.
KNOWN = [
    (
        [0, 0, 0, 0],
        (0, 0),
        [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B],
    ),
    (
        [FULL] * 4,
        (FULL, FULL),
        [0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0],
    ),
    (
        [0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89],
        (0x452821E638D01377, 0xBE5466CF34E90C6C),
        [0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6],
    ),
]


@pytest.mark.parametrize(("counter", "key", "bits"), KNOWN)
def test_philox_gives_the_published_vectors(counter: list[int], key: tuple[int, int], bits: list[int]) -> None:
    assert philox(key, np.array([counter], dtype=np.uint64)).tolist() == [bits]


def numpy_philox(key: tuple[int, int], counter: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """numpy adds one to its counter, a number of 256 bits, before it draws."""
    number = sum(int(word) << (64 * place) for place, word in enumerate(counter))
    return np.random.Philox(key=np.array(key, dtype=np.uint64), counter=(number - 1) % (1 << 256)).random_raw(4)


def test_philox_equals_numpys_for_any_keys_and_counters() -> None:
    draw = np.random.default_rng(0)
    edges = np.array(list(itertools.product([0, FULL], repeat=4)), dtype=np.uint64)
    for _ in range(20):
        key = tuple(int(word) for word in draw.integers(0, FULL, 2, dtype=np.uint64, endpoint=True))
        counters = np.concatenate([edges, draw.integers(0, FULL, (10, 4), dtype=np.uint64, endpoint=True)])
        expected = np.stack([numpy_philox(key, counter) for counter in counters])
        assert (philox(key, counters) == expected).all()


def test_uniforms_lie_evenly_in_zero_to_one() -> None:
    draws = np.sort(uniforms(3, randomness.CROP, 5, np.arange(5000), 10).ravel())
    assert 0 <= draws[0] < draws[-1] < 1
    # Kolmogorov-Smirnov: of 50,000 even draws one set in 10^6 is further than 0.0121 from the diagonal.
    assert np.abs(draws - (np.arange(len(draws)) + 0.5) / len(draws)).max() < 0.0121


def test_largest_bits_stay_below_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(randomness, "philox", lambda key, counters: np.full((len(counters), 4), FULL, dtype=np.uint64))
    assert (uniforms(0, 0, 0, np.arange(2), 4) == 1 - 2.0**-53).all()


def test_an_images_draws_do_not_depend_on_the_others_of_its_batch() -> None:
    whole = uniforms(7, randomness.FLIP, 2, np.arange(100), 6)
    picked = np.array([93, 4, 4, 0, 57])
    assert (uniforms(7, randomness.FLIP, 2, picked, 6) == whole[picked]).all()


def test_no_images_take_no_draws() -> None:
    assert uniforms(1, 0, 2, np.empty(0, dtype=np.int64), 22).shape == (0, 22)


def test_first_draws_do_not_depend_on_how_many_are_taken() -> None:
    many = uniforms(7, randomness.FLIP, 2, np.arange(5), 13)
    for draws in range(1, 13):
        assert (uniforms(7, randomness.FLIP, 2, np.arange(5), draws) == many[:, :draws]).all()


def test_seed_stream_epoch_and_index_each_change_all_draws() -> None:
    places = itertools.product([0, 1, 2**63 - 1], [0, 1], [0, 1, 89], [[0], [1], [1_281_166]])
    draws = [uniforms(seed, stream, epoch, np.array(index), 9) for seed, stream, epoch, index in places]
    assert len(np.unique(np.concatenate(draws))) == 9 * len(draws)


def test_streams_keep_their_numbers() -> None:
    names = ["ORDER", "CROP", "FLIP", "TORCH", "MIXING", "SYNTHETIC"]
    assert [getattr(randomness, name) for name in names] == [0, 1, 2, 3, 4, 5]


def test_generators_differ_by_seed_stream_and_place() -> None:
    seeds = [0, 1, 2**63 - 2, 2**63 - 1]  # the last two are one float64
    places = [(), (1,), (0, 1), (1, 1), (0, 0, 1), (2**40,)]
    draws = [generator(*key, *place).random(8) for key in itertools.product(seeds, range(6)) for place in places]
    assert len(np.unique(np.concatenate(draws))) == 8 * len(draws)


def test_a_generator_is_a_function_of_its_place() -> None:
    assert (generator(5, 1, 2, 3).random(1000) == generator(5, 1, 2, 3).random(1000)).all()


def dropped(seed: int, step: int, shard: int) -> tuple[bool, ...]:
    seed_torch(seed, step, shard, CPU)
    return tuple((torch.nn.functional.dropout(torch.ones(256), 0.5) == 0).tolist())


def test_dropout_is_a_function_of_seed_step_and_shard() -> None:
    places = list(itertools.product([0, 1, 2**63 - 1], [0, 1, 600_000], [0, 1, 7]))
    masks = {place: dropped(*place) for place in places}
    assert len(set(masks.values())) == len(places)
    for place in reversed(places):
        torch.rand(17)
        assert dropped(*place) == masks[place]
