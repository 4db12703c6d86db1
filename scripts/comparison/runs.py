"""What a run folder holds, as numbers: settings, validations, time and memory of a step."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import median

from utils.config import Config
from utils.config.parsing import Settings
from utils.errors import UsageError
from utils.log import Values, read_history

AVERAGED = "val_"  # how the names begin of what averages of the weights reached
WARMING = 1  # first reports that are left out of times: caches fill, kernels are chosen


@dataclass(frozen=True)
class RunRecord:
    """A run, finished or not, as its folder tells of it."""

    folder: Path
    config: Settings
    facts: dict[str, object]  # steps, shards, processes, environment: what it found out besides
    history: list[Values]
    status: dict[str, object]

    @property
    def seed(self) -> int:
        return self.config["training"]["seed"]

    @property
    def steps_per_epoch(self) -> int:
        return self.facts["steps"] // self.config["schedule"]["epochs"]

    @property
    def global_batch(self) -> int:
        return self.facts["shards"] * self.config["training"]["batch_size"]

    @property
    def is_finished(self) -> bool:
        """Whether its last step was validated."""
        return bool(self.validations) and self.validations[-1]["step"] == self.facts["steps"]

    @property
    def validations(self) -> list[Values]:
        return [line for line in self.history if "val/top1" in line]

    @property
    def networks(self) -> list[str]:
        """What was validated: val, and what averages of the weights it had, such as val_ema."""
        names = (name.split("/")[0] for line in self.validations for name in line if name.endswith("/top1"))
        return sorted(set(names), key=lambda name: (name != "val", name))

    @property
    def judged(self) -> str:
        """What the run is judged by: the average of its weights if it has one, which is what it is kept for."""
        return next((name for name in self.networks if name.startswith(AVERAGED)), "val")

    def last(self, value: str) -> float:
        """`value`, such as top1, of the last validation."""
        return self.validations[-1][f"{self.judged}/{value}"]

    def best(self) -> tuple[float, float, str]:
        """The best top-1 of all validations, its epoch, and of what it is."""
        found = [(line[f"{name}/top1"], line["step"], name) for line in self.validations for name in self.networks]
        top1, step, name = max(found, key=lambda entry: (entry[0], -entry[1]))
        return top1, step / self.steps_per_epoch, name

    @property
    def reports(self) -> list[Values]:
        return [line for line in self.history if "perf/img_per_s" in line]

    @property
    def milliseconds(self) -> float | None:
        """Of a step, without validations: the median of the reports; None where there are too few."""
        rates = [line["perf/img_per_s"] for line in self.reports[WARMING:]]
        return 1000 * self.global_batch / median(rates) if rates else None

    @property
    def training_seconds(self) -> float:
        """Of all steps, without validations and interruptions."""
        done, seconds = 0, 0.0
        for line in self.reports:
            seconds += (line["step"] - done) * self.global_batch / max(line["perf/img_per_s"], 1e-9)
            done = line["step"]
        return seconds

    @property
    def peak_gib(self) -> float | None:
        """Most memory that the first process held: of the GPU, or, on a CPU, of the machine."""
        peaks = [line["mem/peak_gib"] for line in self.reports if "mem/peak_gib" in line]
        return max(peaks) if peaks else None


def read_run(folder: Path) -> RunRecord:
    """The run in a folder. UsageError if there is none."""
    if not folder.is_dir():
        raise UsageError(f"no run at {folder}; give the --output-dir of a training")
    try:
        content = json.loads((folder / "config.json").read_text())
        _ = content["steps"], content["shards"], content["schedule"]["epochs"], content["training"]["batch_size"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder}/config.json is not the one that a run writes ({type(error).__name__})") from error
    sections = {section.name for section in fields(Config)}
    config = {name: values for name, values in content.items() if name in sections}
    facts = {name: value for name, value in content.items() if name not in sections}
    return RunRecord(folder, config, facts, read_history(folder), read_status(folder))


def read_status(folder: Path) -> dict[str, object]:
    """status.json of a run; empty where there is none yet."""
    try:
        return json.loads((folder / "status.json").read_text())
    except (OSError, ValueError):
        return {}
