"""What is told of the measurements: tables in Markdown, JSON, and why something is not told at all."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import torch

from scripts.benchmarking import processor, versions
from scripts.step_benchmark.contenders import EXTRAS, OURS, PEER_NORM, PLAIN, Contender, Setup, told
from scripts.step_benchmark.ratios import Ratio, cost, ratio
from scripts.step_benchmark.resident import COUNT
from scripts.step_benchmark.rounds import Facts, Turn

EQUAL = 2e-2  # of the loss: how far a compiled or fused step may be from the plain one
PACKAGES = ("torch", "torchvision", "timm", "triton")
HEADS = ("img/s", "range", "ms", "MiB", "of limit", "ops", "kernels", "start s")
Row = dict[str, object]


@dataclass(frozen=True)
class Score:
    """What one contender did in all rounds. `limit` is the shortest time for a batch by counted bytes and products."""

    contender: Contender
    setup: Setup
    facts: Facts
    turns: Sequence[Turn]
    steps: int  # batches of a turn
    limit: float | None = None

    @property
    def name(self) -> str:
        return f"{self.contender.name} {self.setup.norm}"

    @property
    def seconds(self) -> list[float]:
        """Of one batch, in each round."""
        return [turn.seconds / self.steps for turn in self.turns]

    @property
    def img_per_s(self) -> float:
        return self.setup.batch_size / median(self.seconds)

    @property
    def peak_mib(self) -> int:
        return max(turn.peak_mib for turn in self.turns)

    @property
    def of_limit(self) -> float | None:
        return self.limit / median(self.seconds) if self.limit else None

    @property
    def fall(self) -> tuple[float, float]:
        """The mean loss of the first time that it saw all batches, and of the last."""
        last = [loss for turn in self.turns for loss in turn.losses][-COUNT:]
        return fmean(self.facts.losses[:COUNT]), fmean(last)


def fault(score: Score, eager: Facts | None) -> str:
    """Why a contender's figures are not worth telling; empty if they are."""
    begun, ended = score.fall
    if not score.setup.infer and not ended < begun:
        return f"its loss does not fall: {begun:.4f} at first, {ended:.4f} at last"
    if eager is None:
        return ""
    gaps = [abs(own - other) / abs(other) for own, other in zip(score.facts.losses, eager.losses, strict=True)]
    for step, gap in enumerate(gaps):
        if not gap <= EQUAL:  # true for nan
            return f"its loss is off by {gap:.1%} at step {step} from that of plain operations, {EQUAL:.0%} allowed"
    return ""


def compared(scores: Sequence[Score]) -> dict[str, dict[str, Ratio]]:
    """For each of ours its speed over that of peers with the same norm, or else of theirs with PEER_NORM, and over that
    of our plain step with PEER_NORM."""
    return {
        one.name: {other.name: ratio(one.seconds, other.seconds) for other in _others(one, scores)} for one in scores
    }


def _others(one: Score, scores: Sequence[Score]) -> Iterator[Score]:
    if not one.contender.is_ours:
        return
    peers = [other for other in scores if not other.contender.is_ours]
    for name in dict.fromkeys(other.contender.name for other in peers):
        its = {other.setup.norm: other for other in peers if other.contender.name == name}
        other = its.get(one.setup.norm) or its.get(PEER_NORM)
        if other:
            yield other
    for other in scores:
        is_plain = other.contender.name == PLAIN and other.setup.norm in (PEER_NORM, one.setup.norm)
        if is_plain and other is not one and one.contender.name not in EXTRAS:
            yield other


def table(scores: Sequence[Score]) -> str:
    """The fastest first; a dash where there is nothing to tell."""
    ratios = compared(scores)
    against = list(dict.fromkeys(name for found in ratios.values() for name in found))
    heads = ("step", HEADS[0], *(f"x {name}" for name in against), *HEADS[1:])
    rows = [heads, heads]  # the second for the rule
    for one in sorted(scores, key=lambda one: -one.img_per_s):
        own = [str(ratios[one.name].get(name, "-")) for name in against]
        rows.append((one.name, f"{one.img_per_s:,.1f}", *own, *_figures(one)))
    return _markdown(rows)


def _figures(one: Score) -> tuple[str, ...]:
    batch = one.setup.batch_size
    return (
        f"{batch / max(one.seconds):,.1f}-{batch / min(one.seconds):,.1f}",
        f"{1000 * median(one.seconds):,.1f}",
        f"{one.peak_mib:,}",
        f"{one.of_limit:.2f}" if one.of_limit else "-",
        _count(one.facts.operations),
        _count(one.facts.kernels),
        f"{one.facts.start_seconds:.1f}",
    )


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def costs(scores: Sequence[Score]) -> str:
    """What each extra adds to the time of our plain step with the same norm, for the same images."""
    rows = [("extra", "flags", "cost, %", "interval, %")] * 2
    for one in scores:
        if found := _cost(one, scores):
            interval = f"{found.low:+.1f} to {found.high:+.1f}"
            rows.append(
                (one.name, " ".join(one.contender.flags[len(OURS[PLAIN].flags) :]), f"{found.value:+.1f}", interval)
            )
    return _markdown(rows)


def _cost(one: Score, scores: Sequence[Score]) -> Ratio | None:
    """Of an extra, percent; None for all else, and without the plain step."""
    plain = (other for other in scores if other.contender.name == PLAIN and other.setup.norm == one.setup.norm)
    other = next(plain, None) if one.contender.name in EXTRAS else None
    return cost(one.seconds, other.seconds) if other else None


def _markdown(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows[1] = tuple("-" * width for width in widths)
    lines = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def records(scores: Sequence[Score]) -> list[Row]:
    """What --json gets of contenders of one network and precision.

    `ratio_to_peer` is the speed over that of the fastest peer that this row is compared with, one number, and null
    without a peer; for a peer the same of itself, so that the fastest has 1. `ratios` has for rows of ours each other
    one as [median, low, high], paired by round; `cost_percent` likewise for extras, over our plain step.
    """
    ratios = compared(scores)
    peers = {one.name: one for one in scores if not one.contender.is_ours}
    costs_of = {one.name: _cost(one, scores) for one in scores}
    return [_record(one, ratios[one.name], peers) | {"cost_percent": _rounded(costs_of[one.name])} for one in scores]


def _rounded(found: Ratio | None) -> list[float] | None:
    return [round(number, 4) for number in found[:3]] if found else None


def _record(one: Score, ratios: Mapping[str, Ratio], peers: Mapping[str, Score]) -> Row:
    rivals = [peers[name] for name in ratios if name in peers] if one.contender.is_ours else list(peers.values())
    fastest = max(rivals, key=lambda rival: rival.img_per_s, default=None)
    setup = one.setup
    return {
        "name": one.contender.name,
        "model": setup.model,
        "norm": setup.norm,
        "precision": setup.precision,
        "phase": "infer" if setup.infer else "train",
        "batch_size": setup.batch_size,
        "img_size": setup.img_size,
        "device": setup.device,
        "threads": setup.threads,
        "img_per_s": round(one.img_per_s, 2),
        "ratio_to_peer": round(ratio(one.seconds, fastest.seconds).value, 4) if fastest else None,
        "fastest_peer": fastest.name if fastest else None,
        "ratios": {name: _rounded(found) for name, found in ratios.items()},
        "ms": round(1000 * median(one.seconds), 3),
        "cpu_ms": round(1000 * median(turn.cpu_seconds for turn in one.turns) / one.steps, 3),
        "peak_mib": one.peak_mib,
        "share_of_limit": round(one.of_limit, 4) if one.of_limit else None,
        "gigabytes": round(one.facts.gb, 4) if one.facts.gb else None,
        "giga_multiply_adds": round(one.facts.gmac, 4) if one.facts.gmac else None,
        "operations": one.facts.operations,
        "kernels": one.facts.kernels,
        "start_s": round(one.facts.start_seconds, 2),
        "loss": [round(loss, 4) for loss in one.fall],
        "flags": told(setup),
    }


def machine(device: str, threads: int) -> str:
    """Processor or card, threads, system and versions, on one line."""
    place = f"{torch.cuda.get_device_name()}, " if device == "cuda" else ""
    return f"{place}{processor()}, {threads} threads on {len(os.sched_getaffinity(0))} cores; {versions(PACKAGES)}"
