"""Measures our training step and others' on the same batches, beside what the machine's memory and arithmetic allow.

    python -m scripts.benchmark_step --models resnet50,resnet18 --norms bn,pws --precision bf16
    python -m scripts.benchmark_step --batch 16 --img-size 160 --peers torchvision,timm --precision fp32,bf16
    python -m scripts.benchmark_step --models resnet50 --norms bn --peers none --extras --repeats 10

Every contender runs its own whole loop (ours is train_dist's) in a process of its own, over a few batches of random
images that lie ready in memory. A round gives each of them one turn, while the others wait; every round begins with
another one. Told are medians over the rounds. A ratio is the median of the rounds' own ratios, with an interval that
holds the true one with the probability that is said. MiB are the most that tensors took on a GPU; on a CPU the most
that was resident beyond what the process had with its libraries loaded, turns alone. `of limit` is the share of the
speed that the bytes and multiply-adds of our eager step of that norm would allow if each operation ran at the rate of a
large copy, or at the faster one of a large product and a convolution, measured before: what is compiled moves less, and
small tensors stay in caches, so it may pass 1. `ops` are torch's operations in a step, `kernels` a GPU's, `start s` the
time from loaded libraries to the end of the first step, with all that is built, compiled (from nothing: each has an
empty cache) or chosen in it.

A network of a peer with other parameters than ours takes no part. Figures of a contender whose loss does not fall, or
that is compiled or fused and whose loss is not that of the same steps by plain operations, are not told: the exit code
is 5.
"""

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass as checked
from tyro.conf import arg

from models import NETWORKS
from models.layers.normalization import NORMALIZATIONS
from scripts.drawing import save_png
from scripts.step_benchmark.chart import draw
from scripts.step_benchmark.contenders import (
    ALL,
    EXTRAS,
    NAMES,
    OURS,
    PEER_NORM,
    PEERS,
    PLAIN,
    STEPS_IN_ALL,
    Contender,
    Setup,
    told,
)
from scripts.step_benchmark.counting import Rates, measure_rates
from scripts.step_benchmark.likeness import likeness
from scripts.step_benchmark.ratios import coverage, left_out
from scripts.step_benchmark.report import Score, costs, fault, machine, records, table
from scripts.step_benchmark.rounds import Facts, Runner, Turn, run_rounds
from utils.config.strict import STRICT
from utils.errors import EnvironmentFault, NumericsError, TrainingError, UsageError
from utils.files import write_json
from utils.log import say
from utils.registry import choose
from utils.script import script

Count = Annotated[int, Field(ge=1)]
NOBODY = "none"
TURN_SECONDS = {"cpu": 6.0, "cuda": 1.5}  # of the slowest contender, where --steps does not say how many
QUICK_SECONDS = {"cpu": 1.5, "cuda": 0.5}
REPEATS, QUICK_REPEATS = 5, 3
FEWEST_STEPS, SPARE_STEPS = 2, 25  # of a turn; and for each turn, to begin with and to warm up


@checked(frozen=True, config=STRICT)
class BenchmarkConfig:
    """Measure our training step and others' on the same batches."""

    models: tuple[str, ...] = ("resnet50",)
    """networks, by our names, separated by spaces or commas"""
    norms: tuple[str, ...] = ("bn", "pws")
    """normalizations of ours; a peer that has not the same takes part with bn"""
    ours: tuple[str, ...] = (PLAIN,)
    """steps of ours"""
    peers: tuple[str, ...] = ("timm", "timm-compile", "torchvision", "torchvision-channels-last")
    """others, or none"""
    precision: tuple[str, ...] = ("bf16",)
    """arithmetic: fp32, tf32, fp16, bf16; one or several"""
    batch: Annotated[Count, arg(aliases=["-b", "--batch-size"])] = 256
    """images of a batch"""
    img_size: Count = 224
    """side of an image, pixels"""
    infer: bool = False
    """measure inference too"""
    extras: bool = False
    """measure too what accumulation, average of the weights, clipping, label smoothing and mixup cost, with the first
    norm"""
    repeats: Count | None = None
    """turns of each; 5 if not given, with --quick 3"""
    steps: Count | None = None
    """batches of a turn; as many as the slowest takes 6 s for (1.5 s on a GPU) if not given, with --quick a third"""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """where the networks run"""
    threads: Count | None = None
    """CPU threads of each; all cores if not given"""
    quick: bool = False
    """few short turns: five minutes on one GPU"""
    json: Path | None = None
    """file for the figures"""
    output: Path = Path("benchmark_step.png")
    """picture to write"""


class Group(NamedTuple):
    """Contenders that are compared with each other: one network, one arithmetic, training or inference."""

    model: str
    precision: str
    infer: bool

    def __str__(self) -> str:
        return f"{self.model} {'inference' if self.infer else 'training'} {self.precision}"


class Place(NamedTuple):
    """Where all runs."""

    device: str
    threads: int


def benchmark(config: BenchmarkConfig) -> int:
    """Measure what `config` asks for and tell it. NumericsError at the end if something was not worth telling."""
    place = _place(config)
    models, norms, contenders = words(config.models), words(config.norms), chosen(config)
    for model in models:
        choose(NETWORKS, model, "--models")
    for norm in norms:
        choose(NORMALIZATIONS, norm, "--norms")
    check_outputs(config)
    panels: dict[str, list[Score]] = {}
    refused: list[str] = []
    for precision in words(config.precision):
        rates = measure_rates(place.device, precision, place.threads)
        say(f"{precision}: {rates}")
        for model in models:
            for infer in (False, True) if config.infer else (False,):
                group = Group(model, precision, infer)
                measured = Measurement(config, place, group, rates)
                panels[str(group)], faults = measured.scores(norms, contenders)
                refused += faults
    tell(panels, config, place)
    if refused:
        raise NumericsError("; ".join(refused))
    return 0


def _place(config: BenchmarkConfig) -> Place:
    found = "cuda" if torch.cuda.is_available() else "cpu"
    if config.device == "cuda" and found == "cpu":
        raise EnvironmentFault("--device cuda: torch finds no GPU; use --device cpu")
    return Place(found if config.device == "auto" else config.device, config.threads or len(os.sched_getaffinity(0)))


def chosen(config: BenchmarkConfig) -> list[Contender]:
    """Who was asked for. UsageError at a name that is not known, EnvironmentFault at one that is not installed."""
    ours = [choose(OURS, name, "--ours") for name in words(config.ours)]
    peers = [choose(PEERS, name, "--peers") for name in words(config.peers) if name != NOBODY]
    for peer in peers:
        if not peer.is_installed:
            raise EnvironmentFault(f"--peers {peer.name} is not installed; pip install {peer.package}, or leave it out")
    for name in words(config.precision):
        choose(dict.fromkeys(("fp32", "tf32", "fp16", "bf16")), name, "--precision")
    if config.extras and PLAIN not in [one.name for one in ours]:
        raise UsageError(f"--extras are compared with {PLAIN}, which --ours leaves out; add it")
    return [*ours, *peers]


def words(given: Sequence[str]) -> list[str]:
    """The words in `given`, which may be joined by commas; each once."""
    return list(dict.fromkeys(word for joined in given for word in joined.split(",") if word))


def rounds_of(config: BenchmarkConfig) -> int:
    """Turns of each contender."""
    return config.repeats or (QUICK_REPEATS if config.quick else REPEATS)


def check_outputs(config: BenchmarkConfig) -> None:
    """UsageError before the minutes of measuring if the results could not be written after them."""
    for flag, path in (("--json", config.json), ("--output", config.output)):
        if path is not None and not os.access(path.absolute().parent, os.W_OK):
            raise UsageError(f"{flag} {path}: no folder {path.parent} that can be written to; choose another")


class Measurement:
    """One group's contenders: started, checked, measured in rounds."""

    def __init__(self, config: BenchmarkConfig, place: Place, group: Group, rates: Rates) -> None:
        self.config, self.place, self.group, self.rates = config, place, group, rates

    def scores(self, norms: Sequence[str], contenders: Sequence[Contender]) -> tuple[list[Score], list[str]]:
        """What is worth telling, and what is not and why."""
        setups = self._setups(norms, contenders)
        with tempfile.TemporaryDirectory(prefix="benchmark_step_") as scratch, ExitStack() as running:
            folder = Path(scratch)
            witnesses = self._witnesses(setups, folder / "witnesses")
            runners = []
            for number, setup in enumerate(setups):
                runners.append(_start(setup, folder / str(number)))
                running.callback(runners[-1].close)
            steps = self._steps(runners)
            rounds = rounds_of(self.config)
            say(f"{self.group}: {rounds} rounds of {steps} batches each")
            turns = run_rounds(runners, rounds, steps, self._tell_turn)
        facts = {runner.name: runner.facts for runner in runners} | witnesses
        return _judged([_score(runner, turns[runner.name], steps, facts) for runner in runners], facts)

    def _setups(self, norms: Sequence[str], contenders: Sequence[Contender]) -> list[Setup]:
        """Ours with each norm, peers with those of them that they have or else with bn, extras with the first."""
        setups = [self._setup(one, self.group.model, norm) for one in contenders if one.is_ours for norm in norms]
        if self.config.extras and not self.group.infer:
            setups += [self._setup(one, self.group.model, norms[0]) for one in EXTRAS.values()]
        for peer in (one for one in contenders if not one.is_ours):
            known = NAMES[peer.module]
            for norm in dict.fromkeys(norm if (self.group.model, norm) in known else PEER_NORM for norm in norms):
                found = likeness(peer.name, self.group.model, norm)
                say(f"{peer.name} {norm}: {found.told}{'' if found.same else '; it takes no part'}")
                if found.same:
                    setups.append(self._setup(peer, known[self.group.model, norm], norm))
        return setups

    def _setup(self, one: Contender, network: str, norm: str) -> Setup:
        config, group, place = self.config, self.group, self.place
        sizes = (config.batch, config.img_size, place.device, place.threads)
        return Setup(one.name, group.model, network, norm, group.precision, *sizes, group.infer, *self.rates, one.flags)

    def _witnesses(self, setups: Sequence[Setup], folder: Path) -> dict[str, Facts]:
        """The first plain steps of what takes part compiled or fused alone."""
        there, found = {(setup.contender, setup.norm) for setup in setups}, {}
        for number, setup in enumerate(setups):
            eager = ALL[setup.contender].eager
            if eager and (eager, setup.norm) not in there:
                there.add((eager, setup.norm))
                witness = setup._replace(contender=eager, flags=ALL[eager].flags)
                runner = _start(witness, folder / str(number))
                runner.close()
                found[runner.name] = runner.facts
        return found

    def _steps(self, runners: Sequence[Runner]) -> int:
        """Batches of a turn, which whole steps of all contenders divide."""
        shards = max(runner.contender.shards for runner in runners)
        seconds = (QUICK_SECONDS if self.config.quick else TURN_SECONDS)[self.place.device]
        longest = max(runner.facts.step_seconds / runner.contender.shards for runner in runners)
        rounds = rounds_of(self.config)
        most = (STEPS_IN_ALL // rounds - SPARE_STEPS) // shards * shards
        if (self.config.steps or 0) > most:
            raise UsageError(f"--steps {self.config.steps} with --repeats {rounds} is too much; at most {most}")
        steps = self.config.steps or max(FEWEST_STEPS, round(seconds / longest))
        return min(-(-steps // shards) * shards, most)

    def _tell_turn(self, number: int, name: str, turn: Turn) -> None:
        say(f"round {number + 1}: {name:30} {turn.seconds:7.2f} s")


def _start(setup: Setup, folder: Path) -> Runner:
    say(f"starting {setup.contender} {setup.norm} ({told(setup)})")
    try:
        return Runner(setup, folder)
    except TrainingError as error:
        raise TrainingError(f"{setup.contender} {setup.norm} did not start: {error}") from error


def _score(runner: Runner, turns: Sequence[Turn], steps: int, facts: dict[str, Facts]) -> Score:
    """With the limit of our plain step of the same norm, if that was counted."""
    plain = facts.get(f"{PLAIN} {runner.setup.norm}")
    return Score(runner.contender, runner.setup, runner.facts, turns, steps, plain.limit_seconds if plain else None)


def _judged(scores: Sequence[Score], facts: dict[str, Facts]) -> tuple[list[Score], list[str]]:
    good, refused = [], []
    for one in scores:
        eager = one.contender.eager
        reason = fault(one, facts[f"{eager} {one.setup.norm}"] if eager else None)
        if reason:
            refused.append(f"{one.setup.model} {one.setup.precision}, {one.name}: {reason}")
        else:
            good.append(one)
    return good, refused


def tell(panels: dict[str, list[Score]], config: BenchmarkConfig, place: Place) -> None:
    """Print the tables, write the figures and the picture."""
    for title, scores in panels.items():
        if scores:
            say(f"\n{title}\n{table(scores)}")
        if any(one.contender.name in EXTRAS for one in scores):
            say(f"\n{costs(scores)}")
    worth = {title: scores for title, scores in panels.items() if scores}
    rounds = rounds_of(config)
    certainty = f"an interval holds with probability {coverage(rounds, left_out(rounds)):.2f}"
    say(f"\nmedians of {rounds} rounds; {certainty}")
    settings = f"batches of {config.batch} random images of {config.img_size} pixels; {machine(*place)}"
    say(settings)
    if config.json:
        write_json(config.json, [record for scores in worth.values() for record in records(scores)])
        say(str(config.json))
    if worth:
        titles = {f"{title}, images per second": scores for title, scores in worth.items()}
        save_png(draw(titles, settings), config.output)
        say(str(config.output))


if __name__ == "__main__":
    script(BenchmarkConfig, benchmark)
