"""What bounds the speed is named, what would help is suggested, and nothing that is chosen already."""

import re
from dataclasses import replace

import pytest

from utils.verdict import Choices, Verdicts, verdict

BEST = Choices(
    cores=12,
    workers=12,
    loader="native",
    other_loaders=(),
    on_gpu=True,
    threads=12,
    precision="bf16",
    compiled=True,
    fused=True,
    mixed_each=False,
    log_interval=50,
    log_indices=False,
    save_every=0,
    val_interval=1,
    epochs=90,
)
COMPUTING = {"data_wait": 0.02, "copy": 0.01, "forward": 0.34, "backward": 0.60, "optimizer": 0.02, "logging": 0.01}


def spent(**parts: float) -> dict[str, float]:
    """Seconds of which these parts take these shares, and the network the rest."""
    rest = 1 - sum(parts.values())
    return dict.fromkeys(COMPUTING, 0.0) | {"forward": rest / 3, "backward": 2 * rest / 3} | parts


def words(seconds: dict[str, float], **chosen: object) -> str:
    return verdict(seconds, replace(BEST, **chosen)).words


def test_a_network_that_computes_all_the_time_is_told_so() -> None:
    assert words(COMPUTING) == "compute-bound: 94 % forward and backward"
    assert verdict({}, BEST) is None
    assert words({part: 5 * share for part, share in COMPUTING.items()}) == words(COMPUTING)


@pytest.mark.parametrize(
    ("chosen", "help_"),
    [
        ({"compiled": False}, "--compile default"),
        ({"compiled": None}, None),
        ({"compiled": False, "on_gpu": False}, None),
        ({"precision": "fp32"}, "--precision bf16"),
        ({"precision": "fp16"}, None),
        ({"precision": "fp32", "on_gpu": False}, None),
        ({"threads": 1, "on_gpu": False}, "--threads 12"),
        ({"threads": 1}, None),
        ({"threads": None, "on_gpu": False}, None),
        ({"compiled": False, "precision": "tf32"}, "--compile default or --precision bf16"),
    ],
)
def test_compute_is_helped_by_what_is_not_on(chosen: dict[str, object], help_: str | None) -> None:
    assert words(COMPUTING, **chosen) == words(COMPUTING) + (f", try {help_}" if help_ else "")


@pytest.mark.parametrize(
    ("chosen", "help_"),
    [
        ({"workers": 4}, "-j 12"),
        ({"workers": 4, "other_loaders": ("--loader dali-gpu",)}, "-j 12 or --loader dali-gpu"),
        ({"other_loaders": ("--loader native",), "loader": "torch"}, "--loader native"),
        ({"workers": 20}, "images stored smaller, or more cores"),
        ({}, "images stored smaller, or more cores"),
    ],
)
def test_waiting_for_data_is_helped_by_workers_and_other_loaders(chosen: dict[str, object], help_: str) -> None:
    assert words(spent(data_wait=0.31), **chosen) == f"data-bound 31 %: try {help_}"


def test_random_pixels_have_no_faster_loader() -> None:
    assert words(spent(data_wait=0.31), loader="synthetic", workers=0) == "data-bound 31 %"


@pytest.mark.parametrize(
    ("seconds", "chosen", "expected"),
    [
        (spent(copy=0.2), {}, "copy-bound 20 % normalizing and mixing"),
        (spent(copy=0.2), {"mixed_each": True}, "copy-bound 20 % normalizing and mixing: try --mix-per batch"),
        (spent(optimizer=0.3), {}, "optimizer-bound 30 %: try a larger -b"),
        (spent(optimizer=0.3), {"fused": False}, "optimizer-bound 30 %: try --fused auto or a larger -b"),
        (spent(logging=0.08), {"log_interval": 1}, "logging-bound 8 %: try --log-interval 10"),
        (
            spent(logging=0.08),
            {"log_indices": True, "save_every": 5},
            "logging-bound 8 %: try --log-interval 500 or no --log-indices or --save-every 50",
        ),
    ],
)
def test_other_parts_are_told_with_what_would_help(
    seconds: dict[str, float], chosen: dict[str, object], expected: str
) -> None:
    assert words(seconds, **chosen) == expected


@pytest.mark.parametrize("share", [0.25, 0.3, 0.5, 0.75, 0.9])
def test_validating_so_much_rarer_brings_it_below_its_limit(share: float) -> None:
    told = words(spent(validation=share))
    interval = int(re.search(r"--val-interval (\d+)", told)[1])
    assert interval >= 2
    assert share / interval / (share / interval + 1 - share) <= 0.25 + 1e-9
    assert told.startswith(f"validation-bound {100 * share:.0f} % of the epoch, with the checkpoint: try")


def test_validation_is_not_made_rarer_than_once() -> None:
    assert words(spent(validation=0.5), epochs=2).endswith("--val-interval 2")
    assert "try" not in words(spent(validation=0.5), epochs=2, val_interval=2)
    assert "try" not in words(spent(validation=0.5), epochs=1)


def test_of_several_bounds_the_largest_is_told() -> None:
    assert verdict(spent(data_wait=0.15, logging=0.2), BEST).bound == "logging"
    assert verdict(spent(data_wait=0.2, validation=0.3), BEST).bound == "validation"


def test_a_change_is_told_once_and_only_if_it_lasts() -> None:
    verdicts, waiting = Verdicts(BEST), spent(data_wait=0.4)
    heard = [verdicts.changed(seconds) for seconds in (waiting, COMPUTING, COMPUTING, COMPUTING)]
    assert [text is not None for text in heard] == [False, False, True, False]  # the first one started things
    heard = [verdicts.changed(seconds) for seconds in (waiting, COMPUTING, waiting, waiting, waiting)]
    assert [text is not None for text in heard] == [False, False, False, True, False]
    assert heard[3].startswith("data-bound 40 %")


def test_an_epoch_is_told_by_all_of_it_but_the_start_of_the_run() -> None:
    verdicts = Verdicts(BEST)
    for seconds in (spent(data_wait=0.9), COMPUTING, COMPUTING):
        verdicts.changed(seconds)
    assert verdicts.ended({"validation": 0.02}) == "compute-bound: 93 % forward and backward"
    verdicts.changed(COMPUTING)
    assert verdicts.ended({"validation": 1.0, "aside": 50.0}).startswith("validation-bound 50 %")
    assert verdicts.ended({"validation": 0.0}) is None


def test_an_epoch_of_one_interval_is_told_with_its_start() -> None:
    verdicts = Verdicts(BEST)
    verdicts.changed(spent(data_wait=0.9))
    assert verdicts.ended({"validation": 0.0}).startswith("data-bound 90 %")


def test_what_an_epoch_told_is_no_news_after_it() -> None:
    verdicts = Verdicts(BEST)
    verdicts.changed(COMPUTING)
    verdicts.ended({"validation": 0.0})
    assert [verdicts.changed(COMPUTING) for _ in range(3)] == [None] * 3
