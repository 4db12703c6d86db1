"""Random numbers without state: every draw is a function of what it is for.

Philox is a counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): a key and a
counter give 256 random bits, so a run needs no generator to be saved, moved or kept in step. The key is the run's seed
and a *stream*, one for each use; the counter is the thing drawn for. The bits are those of `numpy.random.Philox`.
"""

import numpy as np
import torch
from numpy.typing import NDArray

# One stream for each use of randomness, so that a new use changes none of the others. Never renumber.
ORDER, CROP, FLIP, TORCH, MIXING, SYNTHETIC, SUBSTITUTE = range(7)
# Of data.augmentation, from 32 up, so that both lists can grow.
ROTATION, THREE_AUGMENT, AUTO_AUGMENT, JITTER, GRAYSCALE, BLUR, SOLARIZE, LIGHTING, CUTOUT, ERASING = range(32, 42)
ERASED_PIXELS = 42

# Multipliers and Weyl constants of Philox4x64 (Salmon et al. 2011, table 2).
MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
ROUNDS = 10
WORD = (1 << 64) - 1


def _high_word(a: int, b: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The upper 64 bits of the 128-bit products a * b, from 32-bit halves."""
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    a_low, a_high = np.uint64(a & 0xFFFFFFFF), np.uint64(a >> 32)
    b_low, b_high = b & low, b >> half
    middle = a_high * b_low + ((a_low * b_low) >> half)  # cannot overflow: (2^32 - 1)^2 + 2^32 - 1 < 2^64
    return a_high * b_high + (middle >> half) + ((a_low * b_high + (middle & low)) >> half)


def philox(key: tuple[int, int], counters: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Philox4x64-10 of every row of `counters` (n, 4) under one key: (n, 4) uint64.

    Equal to `numpy.random.Philox(key=key, counter=c - 1).random_raw(4)` for each row c, all rows at once: 1 us a row
    instead of 20.
    """
    c0, c1, c2, c3 = (np.ascontiguousarray(column) for column in counters.T)
    k0, k1 = key
    with np.errstate(over="ignore"):
        for _ in range(ROUNDS):
            high0, low0 = _high_word(MULTIPLIERS[0], c0), np.uint64(MULTIPLIERS[0]) * c0
            high1, low1 = _high_word(MULTIPLIERS[1], c2), np.uint64(MULTIPLIERS[1]) * c2
            c0, c1, c2, c3 = high1 ^ c1 ^ np.uint64(k0), low1, high0 ^ c3 ^ np.uint64(k1), low0
            k0, k1 = (k0 + WEYL[0]) & WORD, (k1 + WEYL[1]) & WORD
    return np.stack([c0, c1, c2, c3], axis=1)


def uniforms(
    seed: int,
    stream: int,
    epoch: int,
    indices: NDArray[np.int64],
    draws: int,
    copies: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """`draws` numbers in [0, 1) for each image of one epoch: (n, draws), row i a function of (seed, epoch, index i).

    Where an epoch shows an image several times also of `copies` (n,): which time it is, from 0, as without them.
    """
    blocks = -(-draws // 4)
    counters = np.zeros((len(indices), blocks, 4), dtype=np.uint64)
    counters[:, :, 0] = np.asarray(indices, dtype=np.uint64)[:, None]
    counters[:, :, 1] = np.uint64(epoch)
    counters[:, :, 2] = np.arange(blocks, dtype=np.uint64)
    if copies is not None:
        counters[:, :, 3] = np.asarray(copies, dtype=np.uint64)[:, None]
    bits = philox((seed, stream), counters.reshape(-1, 4)).reshape(len(indices), 4 * blocks)[:, :draws]
    return (bits >> np.uint64(11)) * 2.0**-53


def generator(seed: int, stream: int, *place: int) -> np.random.Generator:
    """A numpy generator for one place of the run, such as (step, shard) or (epoch,): at most three numbers."""
    counter = [0, *place, 0, 0, 0][:4]  # the first word is left for the generator to count with
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=counter))


def seed_torch(seed: int, step: int, shard: int, device: torch.device) -> None:
    """Set torch's generators for one shard of one step: dropout and stochastic depth then depend on nothing else."""
    counter = np.array([[step, shard, 0, 0]], dtype=np.uint64)
    key = int(philox((seed, TORCH), counter)[0, 0] >> np.uint64(1))
    torch.default_generator.manual_seed(key)  # 13 us; torch.manual_seed also visits every other device: 1.2 ms
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(key)
