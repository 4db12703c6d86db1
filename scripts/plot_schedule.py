"""Draws the learning rate of a run before it is trained.

    python -m scripts.plot_schedule --config recipes/ws/imagenet_resnet50_ws.toml
    python -m scripts.plot_schedule --epochs 90 --lr 0.4 --sched cosine --cycles 3 --images 50000 --output cycles.png

Takes every flag of train_dist.py, with the same mistakes refused, and opens no data: --images says how many there are.
Prints the rates of the first and last step of some epochs, and the path of the picture.
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass as checked
from tyro.conf import arg

from data.order import steps_per_epoch
from scripts.drawing import COLOURS, INK, dress, empty_figure, save_png
from utils.config import Config
from utils.config.flags import parse_flags
from utils.config.parsing import read_config
from utils.replication import count_shards
from utils.schedule import build_schedule, peak_rate
from utils.script import ended

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGENET = 1_281_167
MOST_POINTS = 50_000  # of the curve: more are left out evenly
TOLD = 10  # epochs whose rates are printed, besides the last


@checked(frozen=True)
class DrawingConfig(Config):
    """Draw the learning rate of a run."""

    images: Annotated[int, Field(ge=1)] = IMAGENET
    """training images in an epoch"""
    processes: Annotated[int, Field(ge=1)] = 1
    """processes that the run is to have"""
    output: Annotated[Path, arg(metavar="FILE.png")] = Path("schedule.png")
    """picture to write"""


@dataclass(frozen=True)
class Rates:
    """The learning rate of every step of a run."""

    config: Config
    steps_per_epoch: int
    values: list[float]

    def at(self, epoch: int) -> tuple[float, float]:
        """Those of the first and the last step of an epoch, counted from 0."""
        first = epoch * self.steps_per_epoch
        return self.values[first], self.values[first + self.steps_per_epoch - 1]


def rates_of(config: DrawingConfig) -> Rates:
    """The learning rates of a run. UsageError where the run would refuse its settings."""
    training = config.training
    shards = count_shards(training, config.processes, None)
    steps = steps_per_epoch(config.images, shards, training.batch_size)
    rate = build_schedule(config.schedule, peak_rate(config.optim, shards * training.batch_size), steps)
    return Rates(config, steps, [rate(step) for step in range(config.schedule.epochs * steps)])


def table(rates: Rates) -> list[str]:
    """Lines of epoch, and rates of its first and last step."""
    epochs = rates.config.schedule.epochs
    told = sorted({*range(0, epochs, -(-epochs // TOLD)), epochs - 1})
    lines = [f"{'epoch':>5} {'first step':>12} {'last step':>12}"]
    return lines + [f"{epoch:5} {rates.at(epoch)[0]:12.6g} {rates.at(epoch)[1]:12.6g}" for epoch in told]


def draw(rates: Rates) -> "Figure":
    """The learning rate by epochs; a dashed line where the average of weights begins."""
    schedule = rates.config.schedule
    figure = empty_figure((8.5, 4.2), "plot_schedule")
    axes = figure.subplots()
    every = -(-len(rates.values) // MOST_POINTS)
    epochs = [step / rates.steps_per_epoch for step in range(0, len(rates.values), every)]
    axes.plot(epochs, rates.values[::every], color=COLOURS[0], linewidth=1.8)
    if schedule.swa is not None:
        axes.axvline(schedule.swa, color=INK, linewidth=1, linestyle=(0, (4, 2)))
    held = ", held through each epoch" if schedule.sched_per_epoch else ""
    peak = f"{max(rates.values):g}"
    dress(
        axes, f"Learning rate: {schedule.sched}{held}, {rates.steps_per_epoch} steps an epoch, at most {peak}", "epoch"
    )
    axes.set_xlim(0, schedule.epochs)
    axes.set_ylim(bottom=0)
    return figure


def drawing_from(arguments: Sequence[str]) -> DrawingConfig:
    """The settings that a command line asks for, over those of its --config."""
    words = list(arguments)
    place = next((i for i, word in enumerate(words) if word.partition("=")[0] == "--config"), len(words))
    length = 1 if "=" in "".join(words[place : place + 1]) else 2
    config, _ = read_config(words[place : place + length])
    del words[place : place + length]
    sections = {section.name: getattr(config, section.name) for section in dataclasses.fields(Config)}
    return parse_flags(DrawingConfig, words, "plot_schedule", DrawingConfig(**sections), "--config FILE.toml    recipe")


def plot(config: DrawingConfig) -> None:
    """Write the picture that `config` asks for, and print rates and its path."""
    rates = rates_of(config)
    print("\n".join(table(rates)))
    save_png(draw(rates), config.output)
    print(config.output)


if __name__ == "__main__":
    sys.exit(ended(lambda: plot(drawing_from(sys.argv[1:]))))
