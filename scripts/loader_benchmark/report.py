"""What is told of the measurements: a table in Markdown, the machine, and JSON."""

import os
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

from PIL import features

from scripts.benchmarking import processor, versions
from scripts.loader_benchmark.contenders import CROP_LIMIT, LIMITS, WHOLE_LIMIT, Contender
from scripts.loader_benchmark.measuring import Pass

PACKAGES = ("torch", "torchvision", "timm", "nvidia-dali-cuda130", "webdataset", "ffcv", "pillow")
# Heads of the columns; those of the ratios are whom they compare with.
RATIOS = {"of crop limit": CROP_LIMIT, "of whole limit": WHOLE_LIMIT, "x torchvision": "torchvision", "x timm": "timm"}
HEADS = ("loader", "makes", "img/s", "range", "img/cpu-s", *RATIOS, "MiB")


class Score(NamedTuple):
    """Medians over the rounds of one contender, and the range of its speed."""

    contender: Contender
    img_per_s: float
    slowest: float
    fastest: float
    img_per_cpu_s: float
    peak_mib: int

    @property
    def name(self) -> str:
        return self.contender.name


def score(contender: Contender, passes: Sequence[Pass]) -> Score:
    """The medians of some passes, the largest of their memory."""
    speeds = [one.images / one.seconds for one in passes]
    thrift = median(one.images / one.cpu_seconds for one in passes)
    peak = max(one.peak_bytes for one in passes) >> 20
    return Score(contender, median(speeds), min(speeds), max(speeds), thrift, peak)


def ratios(scores: Sequence[Score]) -> dict[str, Mapping[str, float]]:
    """For each contender its speed over that of each of RATIOS which took part."""
    speeds = {one.name: one.img_per_s for one in scores}
    return {
        one.name: {head: one.img_per_s / speeds[other] for head, other in RATIOS.items() if other in speeds}
        for one in scores
    }


def table(scores: Sequence[Score]) -> str:
    """The fastest first; a dash where what it is compared with did not take part."""
    rows = [HEADS, HEADS]  # the second for the rule
    compared = ratios(scores)
    for one in sorted(scores, key=lambda one: -one.img_per_s):
        figures = (f"{compared[one.name][head]:.2f}" if head in compared[one.name] else "-" for head in RATIOS)
        spread = f"{one.slowest:.0f}-{one.fastest:.0f}"
        speed, thrift = f"{one.img_per_s:.0f}", f"{one.img_per_cpu_s:.0f}"
        rows.append((one.name, one.contender.makes, speed, spread, thrift, *figures, str(one.peak_mib)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows[1] = tuple("-" * width for width in widths)
    lines = [[_aligned(*cell) for cell in zip(row, HEADS, widths, strict=True)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _aligned(cell: str, head: str, width: int) -> str:
    """Words to the left, numbers to the right."""
    return cell.ljust(width) if head in ("loader", "makes") else cell.rjust(width)


def records(scores: Sequence[Score]) -> list[dict[str, str | float | None]]:
    """What --json gets: an item for each engine and peer; the limits are in the ratio, null where there was none."""
    compared = ratios(scores)
    return [
        {
            "name": one.name,
            "img_per_s": round(one.img_per_s, 1),
            "img_per_cpu_s": round(one.img_per_cpu_s, 1),
            "ratio_to_crop_limit": compared[one.name].get("of crop limit"),
            "peak_mib": one.peak_mib,
        }
        for one in scores
        if one.name not in LIMITS
    ]


def machine() -> str:
    """Processor, cores that this process may use, system and versions, on one line."""
    codec = features.version("libjpeg_turbo") or "unknown"
    return f"{processor()}, {len(os.sched_getaffinity(0))} cores; {versions(PACKAGES)} (libjpeg-turbo {codec})"
