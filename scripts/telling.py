"""What a run tells while it trains, and when: numbers of the device on a GPU one log line late, so that no step waits.

What is late is still told before anything that follows from it: before a validation, a checkpoint, and the end.
"""

import dataclasses
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from data.augmentation.chain import asked_for
from data.loaders import cores, engine, threads_of
from data.native_loader import GET_IT, is_built
from scripts.compiling import misfit
from scripts.network import Network
from utils.compiling import is_compiled
from utils.config import Config
from utils.distributed import World
from utils.errors import DataError
from utils.log import Report, Values, say
from utils.metrics import TrainingSums, means, peak_memory
from utils.readings import Found, Readings
from utils.state import Position
from utils.stopwatch import Seconds, speed, stopwatch
from utils.verdict import Choices, Verdicts


class Telling:
    """The numbers, the times and the words of a run, at its steps and at the ends of its epochs."""

    def __init__(
        self, network: Network, sums: TrainingSums, position: Position, report: Report, rate: Callable[[int], float]
    ):
        self.network, self.sums, self.position, self.report, self.rate = network, sums, position, report, rate
        self.readings = Readings(late=network.world.device.type == "cuda")
        self.watch = stopwatch(network.world.device)
        self.verdicts = Verdicts(choices_of(network.config, network.world))
        self.asked = position.step

    def step(self, step: int, norm: Tensor) -> None:
        """Have read what the steps since the last log line amount to, `step` being the last and `norm` its gradient's;
        tell it when it is here, that of an epoch's end at once, and stop a run that no longer learns."""
        done, seconds = step + 1, self.watch.interval()
        steps, self.asked = done - self.asked, done
        sums, precision = self.sums.take(self.network.world), self.network.precision.numbers()
        numbers = {**sums, **precision, "norm": norm}
        self.readings.ask(numbers, lambda found: self._tell(step, steps, found, seconds))
        if done % self.report.progress.steps_per_epoch == 0:
            self.readings.flush()

    def _tell(self, step: int, steps: int, found: Found, seconds: Seconds) -> None:
        self.watch.look()
        precision, progress = self.network.precision, self.report.progress
        values = means(found) | {"optim/lr": self.rate(step), "optim/grad_norm": found["norm"]}
        values |= precision.values(found) | self._count_bad(step, int(found["bad"]))
        values |= {"mem/peak_gib": peak_memory(self.network.world.device)}
        self.report.progressed(step + 1, values | dict(speed(seconds, steps, steps * progress.global_batch)))
        if words := self.verdicts.changed(seconds):
            self.say(f"from step {step + 2 - steps} on {words}")
        precision.check(step + 1, found)

    def _count_bad(self, step: int, images: int) -> dict[str, int]:
        """So many more images were replaced; the number of all, for the log. DataError if they are too many."""
        position, budget = self.position, self.network.config.data.bad_image_budget
        position.bad_images += images
        epochs = -(-(step + 1) // self.report.progress.steps_per_epoch)
        if images and position.bad_images > budget * epochs:
            told = f"{position.bad_images} bad images in {epochs} epochs"
            raise DataError(f"{told}, more than --bad-image-budget {budget} for each; mend the data set or allow more")
        return {"data/bad_images": position.bad_images} if position.bad_images else {}

    def flush(self) -> None:
        """What is late is told, and what was told is on the disk."""
        self.readings.flush()
        self.report.flush()

    def validated(self, scores: dict[str, Values]) -> None:
        """`scores` by network."""
        self.report.validated(self.position.step, scores)

    def epoch_ended(self) -> None:
        """The words about the speed of an epoch, after its validation and its checkpoint."""
        self.watch.lap("validation")
        self.watch.settle()
        if words := self.verdicts.ended(self.watch.interval()):
            self.say(f"epoch {self.position.epoch}: {words}")

    def interrupt(self, line: str) -> None:
        """A line about something that is no part of any step, but was done in the middle of one."""
        self.watch.lap("aside")
        self.say(line)

    def say(self, line: str) -> None:
        """A line from the first rank."""
        if self.network.world.is_first:
            say(line)


def choices_of(config: Config, world: World) -> Choices:
    """What a run was told to do, as far as it matters for its speed."""
    data, training, run = config.data, config.training, config.run
    on_gpu = world.device.type == "cuda"
    return Choices(
        cores=cores(),
        workers=threads_of(data),
        loader=engine(data),
        other_loaders=tuple(_other_loaders(config, on_gpu)),
        on_gpu=on_gpu,
        threads=None if training.exact else torch.get_num_threads(),
        precision=training.precision,
        compiled=_compiled(config, world),
        fused=config.optim.fused != "off",
        mixed_each=config.loss.mix_per == "image",
        log_interval=run.log_interval,
        log_indices=run.log_indices,
        save_every=run.save_every,
        val_interval=run.val_interval,
        epochs=config.schedule.epochs,
    )


def _compiled(config: Config, world: World) -> bool | None:
    """Whether the network is compiled; None where it is not and must not be."""
    if is_compiled(config.training):
        return True
    wanted = dataclasses.replace(config, training=dataclasses.replace(config.training, compile="default"))
    return None if misfit(wanted, world, world.size) else False


def _other_loaders(config: Config, on_gpu: bool) -> list[str]:
    """Faster engines than the chosen one that this run could have."""
    chosen, found = engine(config.data), []
    if chosen == "torch":
        found.append("--loader native" if is_built() else f"--loader native, which was not built here ({GET_IT})")
    decodes_here = importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.dali")
    if on_gpu and chosen != "dali-gpu" and decodes_here and not asked_for(config.data):
        found.append("--loader dali-gpu")
    return found
