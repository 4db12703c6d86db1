"""Puts a run together from its settings: what train_dist.py, and every script that trains or measures, starts from.

The order matters: whatever can be wrong with data or network is found before a folder is made, the number of shards
comes from the checkpoint before the learning rate is scaled by it, and gains that start from data are set before the
network is replicated.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from data.batches import Batch
from data.channels import with_channels
from data.loaders import Data, Split, engine, missed, open_data, open_validation
from data.order import steps_per_epoch, training_order, training_requests
from models import (
    DropBlockRamp,
    gain_parameters,
    refuse_ghosts,
    refuse_unsynced,
    set_data_gains,
    wants_data_gains,
)
from models.kinds import parameter_kinds
from scripts.compiling import compile_beforehand, compile_evaluation, refuse_compilation
from scripts.network import Network, folder_of
from scripts.settling import settled
from scripts.teaching import build_criterion, build_teacher
from scripts.telling import Telling
from utils import distributed
from utils.batch_statistics import keeps_statistics
from utils.checkpoint import Found, Keeper, find_checkpoint, load_checkpoint
from utils.compiling import compile_networks, is_compiled
from utils.config import Config
from utils.config.comparing import refuse_unknown
from utils.config.parsing import config_from_settings, read_config, settings_of
from utils.contract import promise
from utils.distillation import Criterion
from utils.distributed import StopSignal, World
from utils.ending import Ending
from utils.errors import UsageError
from utils.files import write_json
from utils.layout import LAYOUTS, lay_out
from utils.log import History, IndexLog, Progress, Report, cut_index_logs, say
from utils.metrics import TrainingSums
from utils.mixing import Mixing, build_mixing
from utils.optim import Sharpness, Steps, build_clipping, build_optimizer, el2_told, parameter_groups
from utils.precision import refuse_unscaled
from utils.replication import count_shards, refuse_compression, replicate
from utils.run_folder import RunFolder
from utils.schedule import build_schedule, peak_rate
from utils.state import HasState, Identity, Position, changed_numerics, compared_among_ranks, give_back, numerics
from utils.tracing import StepTrace, refuse_long_trace


def settings_from(arguments: list[str]) -> tuple[Config, bool]:
    """The settings of a command line, and whether only to print them. An evaluation starts from its checkpoint's."""
    config, print_only = read_config(arguments)
    _refuse_start(config)
    if not config.run.evaluate or config.run.has_start:
        return config, print_only
    found = find_checkpoint(config.run.resume, folder_of(config))
    if found is None:
        raise UsageError(
            "--evaluate needs --resume with the path of a checkpoint, or auto with --output-dir; or --init-from"
        )
    saved = {name: section for name, section in found.state["config"].items() if name != "run"}
    measured = config_from_settings(saved, str(found.path))
    if config.training.precise_bn not in (0, measured.training.precise_bn):
        raise UsageError(_unprecise(config))
    return read_config(arguments, measured)


def _unprecise(config: Config) -> str:
    return f"--precise-bn {config.training.precise_bn}: --evaluate takes the statistics of the file; leave it out"


def _refuse_start(config: Config) -> None:
    run = config.run
    if run.has_start and run.evaluate and config.training.precise_bn:
        raise UsageError(_unprecise(config))
    if run.init_head == "fresh" and not run.has_start:
        raise UsageError("--init-head fresh says which weights of --init-from to take, and there is none; name a file")
    if run.profile and run.evaluate:
        raise UsageError(f"--profile {run.profile} is of steps of training, and --evaluate takes none; leave it out")
    if run.pretrained and run.init_from:
        raise UsageError(f"--pretrained and --init-from {run.init_from} are both weights to start from; give one")
    if run.has_start and run.evaluate and run.resume:
        raise UsageError("--evaluate measures one network; give it --resume or --init-from or --pretrained, not two")


class Run:
    """A network and all that trains it, at its first step or where `found` left it."""

    def __init__(
        self,
        network: Network,
        train: Split,
        identity: Identity,
        ending: Ending,
        found: Found | None,
        criterion: Criterion,
    ):
        config, world = network.config, network.world
        self.ending = ending
        training = config.training
        self.network, self.train, self.identity, self.shards = network, train, identity, identity.shards
        self.global_batch = self.shards * training.batch_size
        self.order = training_order(config.data, training.seed, len(train.store))
        self.steps_per_epoch = steps_per_epoch(self.order.count, self.shards, training.batch_size)
        self.steps = config.schedule.epochs * self.steps_per_epoch
        self.rate = build_schedule(config.schedule, peak_rate(config.optim, self.global_batch), self.steps_per_epoch)
        self.optimizer = optimizer_of(network)
        self.clip = clipping_of(network)
        self.criterion = criterion
        self.mix = mixing_of(network, self.steps_per_epoch)
        self.keeper = Keeper(ending.folder, config.run.keep_epochs)
        self.position = self._go_on(found) if found else self._start()
        self.ramp = DropBlockRamp(network.model, self.steps)
        if is_compiled(training):
            network.compile()
        self.replicas = replicate(network.model, world, self.shards, training.exact, training.ddp_compress)
        self.sharpness = Sharpness(self.replicas.parameters, config.optim.sam) if config.optim.sam else None
        self.sums = TrainingSums(self.shards, self.replicas.shards, world.device)
        if found:
            self.sums.restore(found.state["sums"])
        self._rehearse()

    def parts(self) -> dict[str, HasState]:
        """What a checkpoint holds besides numbers."""
        return self.network.parts() | {"optimizer": self.optimizer, "amp_scaler": self.network.precision}

    def open(self) -> None:
        """Open the files and the line that tell of the run, and listen for signals."""
        config, world, folder = self.network.config, self.network.world, self.ending.folder
        history = None
        if world.is_first:
            cut_index_logs(folder, self.position.step)
            validated = self.position.step == self.position.epoch * self.steps_per_epoch
            history = History(folder, self.position.step, validated)
        distributed.barrier(world, "the opening of the logs", config.training.timeout)
        indices = IndexLog(folder, world.rank) if config.run.log_indices else None
        report = Report(history, Progress(self.steps, self.steps_per_epoch, self.global_batch), indices)
        self.telling = Telling(self.network, self.sums, self.position, report, self.rate)
        self.watch = self.telling.watch
        traced = config.run.profile if world.is_first else None
        self.trace = StepTrace(traced, folder, self.telling.interrupt) if traced else None
        self.stop = StopSignal(world)
        if world.is_first:
            self.ending.status("running", None)

    def close(self) -> None:
        """The last words of a run that came to its end."""
        world, position = self.network.world, self.position
        self.telling.flush()
        if self.trace:
            self.trace.stop()
        self.refuse_unsaved()
        distributed.barrier(world, "the end", self.network.config.training.timeout)
        if world.is_first:
            self.ending.status("done", 0)
        replaced = f"; {position.bad_images} bad images were replaced by others" if position.bad_images else ""
        self.say(f"done: best top-1 {position.best:.3f} % at step {position.best_step}{replaced}")

    def refuse_unsaved(self) -> None:
        """A run whose last checkpoint was not written has not ended well."""
        if self.keeper.failed:
            raise self.keeper.failed

    def say(self, line: str) -> None:
        """A line from the first rank."""
        if self.network.world.is_first:
            say(line)

    def batches(self) -> Iterator[Batch]:
        """This rank's shards of all steps that are left."""
        training = self.network.config.training
        local, start = self.replicas.shards, self.position.step
        requests = training_requests(self.order, training.batch_size, self.shards, local, start, self.steps)
        batches = self.train.loader.batches(requests)
        return self.trace.over(batches, len(local)) if self.trace else batches

    def _go_on(self, found: Found) -> Position:
        self.identity.refuse_other(found.state, found.path)
        return give_back(self.parts(), found.state, found.path)

    def _start(self) -> Position:
        """Gains that start from data take the first shard of the first step, whichever rank will carry it; a file's
        gains stay."""
        network, training = self.network, self.network.config.training
        if wants_data_gains(network.model) and not network.config.run.has_start:
            first = training_requests(self.order, training.batch_size, self.shards, range(1), 0, 1)
            set_data_gains(network.model, network.normalize(next(self.train.loader.batches(first)).images))
        if network.average:
            network.average.restart(network.model)
        return Position()

    def _rehearse(self) -> None:
        network, training = self.network, self.network.config.training
        side = network.config.data.img_size
        blank = torch.zeros(training.batch_size, side, side, 3, dtype=torch.uint8)
        if is_compiled(training):
            self.say(compile_beforehand(network, self.replicas, blank))
        elif network.world.size > 1:
            self.replicas.rehearse(network.normalize(blank), network.precision.autocast())


def assemble_evaluation(config: Config, world: World) -> Network:
    """The network of a checkpoint, or of a file of weights, and the validation images."""
    val = open_validation(config.data, config.training.seed)
    config = dataclasses.replace(config, data=with_channels(config.data, val.store))  # a checkpoint says its own
    network = Network(config, world, val)
    if is_compiled(config.training):
        refuse_compilation(config, world, world.size)
        network.compile()
        told = f"compiled   {config.training.compile}: {compile_evaluation(network)}"
        if world.is_first:
            say(told)
    if config.run.has_start:
        network.start_from_file()
        return network
    found = find_checkpoint(config.run.resume, network.folder)
    network.folder = found.path.parent
    position = give_back(network.parts(), found.state, found.path)
    if world.is_first:
        say(f"{found.path}: {config.model.model}, norm {config.model.norm}, after {position.step} steps")
    return network


def assemble_run(config: Config, ending: Ending) -> Run:
    """A run in its folder, which is locked for it, and the line that says what it is."""
    world, training = ending.world, config.training
    data = open_data(config.data, training.seed)
    chosen = dataclasses.replace(with_channels(config.data, data.train.store), loader=engine(config.data))
    config = dataclasses.replace(config, data=chosen)  # a checkpoint says what its run was made with
    network = Network(config, world, data.val)
    _refuse_mistakes(network, len(data.train.store))
    teacher = build_teacher(config, network.classes, network.precision, world)
    criterion = build_criterion(config.loss, teacher)
    if config.run.has_start and config.run.resume is None:
        network.start_from_file()
    found = _claim_folder(config, ending)
    if config.run.has_start and config.run.resume and not found:
        network.start_from_file()
    shards = count_shards(training, world.size, found.state["shards"] if found else None)
    refuse_unsynced(network.model, shards, world.size)  # V may be the checkpoint's
    network.settle(settled(network, found, shards))
    config = network.config
    training = config.training
    if is_compiled(training):
        refuse_compilation(config, world, shards)  # V may be the checkpoint's
    if teacher:
        lay_out(teacher.network, LAYOUTS[training.channels_last])
    if teacher and is_compiled(training):
        compile_networks([teacher.network], training.compile)
    identity = Identity(config, shards, data.train.store.identity(), teacher.fingerprint if teacher else "")
    distributed.agree(world, compared_among_ranks(identity, world))
    run = Run(network, data.train, identity, ending, found, criterion)
    ending.step = run.position.step
    if config.run.profile and run.position.step < run.steps:
        refuse_long_trace(config.run.profile, run.steps - run.position.step)
    if world.is_first:
        _introduce(run, data, found)
    return run


def optimizer_of(network: Network) -> Steps:
    """What moves the weights of a network, by the flags. UsageError where they say nothing, or too much."""
    model, optim = network.model, network.config.optim
    kinds = parameter_kinds(model, network.classes)
    return build_optimizer(parameter_groups(model, gain_parameters(model), optim, kinds), optim, kinds)


def clipping_of(network: Network) -> Callable[[Tensor], None] | None:
    """What --clip-grad does to the gradients of a network, of which it gets the norm."""
    trained = [parameter for parameter in network.model.parameters() if parameter.requires_grad]
    return build_clipping(trained, network.config.optim, parameter_kinds(network.model, network.classes))


def mixing_of(network: Network, steps_per_epoch: int) -> Mixing:
    """What --mixup and --cutmix ask for."""
    config = network.config
    return build_mixing(config.loss, config.training.seed, network.classes, config.schedule.epochs, steps_per_epoch)


def _refuse_mistakes(network: Network, images: int) -> None:
    """What else is wrong with the settings is found before a folder is made for nothing."""
    config, training = network.config, network.config.training
    shards = count_shards(training, network.world.size, None)
    refuse_unsynced(network.model, shards, network.world.size)
    refuse_ghosts(config.model, training.batch_size)
    if is_compiled(training):
        refuse_compilation(config, network.world, shards)
    if training.ddp_compress != "off":
        refuse_compression(training, network.world.size)
    if training.precise_bn and not keeps_statistics(network.model):
        raise UsageError(f"--precise-bn {training.precise_bn} has no effect: no norm keeps statistics; leave it out")
    peak = peak_rate(config.optim, shards * training.batch_size)
    training_order(config.data, training.seed, images)
    steps = steps_per_epoch(images, shards, training.batch_size)
    build_schedule(config.schedule, peak, steps)
    if config.run.profile:
        refuse_long_trace(config.run.profile, config.schedule.epochs * steps)
    optimizer_of(network)
    clipping_of(network)
    mixing_of(network, 1)
    refuse_unscaled(training)
    refuse_unknown(config.run.resume_allow)


def _claim_folder(config: Config, ending: Ending) -> Found | None:
    """Lock the folder of the run, and find the checkpoint to go on from: the first rank chooses, all ranks read it."""
    world, found = ending.world, None
    if world.is_first:
        found = _lock_and_find(config, ending)
    path = distributed.from_first(world, str(found.path) if found else None)
    ending.folder = folder_of(config)
    if path is None or found:
        return found
    return Found(Path(path), load_checkpoint(Path(path)))


def _lock_and_find(config: Config, ending: Ending) -> Found | None:
    resume, folder = config.run.resume, folder_of(config)
    named = find_checkpoint(resume, folder) if resume != "auto" else None  # before a folder is made for nothing
    ending.lock = RunFolder(folder)
    if resume is None:
        ending.lock.refuse_if_used()
    ending.folder = folder
    return named or find_checkpoint(resume, folder)


def _introduce(run: Run, data: Data, found: Found | None) -> None:
    """What is trained on what, and how: config.json for programs, some lines for people."""
    config, world = run.network.config, run.network.world
    facts = {"shards": run.shards, "steps": run.steps, "processes": world.size, "environment": numerics()}
    write_json(folder_of(config) / "config.json", settings_of(config) | facts)
    parameters = sum(p.numel() for p in run.network.model.parameters())
    say(f"{config.model.model}, norm {config.model.norm}: {parameters:,} parameters, {config.training.precision}")
    say(f"training   {data.train.store.describe()}")
    say(f"validation {data.val.store.describe()}")
    mean, std = (" ".join(map(str, numbers)) for numbers in (config.data.mean, config.data.std))
    say(f"normalized by mean {mean}, standard deviation {std}")
    say(f"loader     {data.train.loader.describe()}{missed(config.data)}")
    say(
        f"{run.shards} shards of {config.training.batch_size} images on {world.size} processes ({world.device.type}): "
        f"{run.steps_per_epoch} steps an epoch, {run.steps} in all; writing to {folder_of(config)}"
    )
    if config.optim.el2:
        say(el2_told(run.network.model, parameter_kinds(run.network.model, run.network.classes)))
    if config.contract.top1:
        say(promise(config.contract, parameters))
    if run.identity.teacher:
        say(f"teacher    {config.loss.teacher}, sum {run.identity.teacher[:12]}")
    if found is None and config.run.has_start:
        source = config.run.init_from or "torchvision's file"
        say(f"starting from the weights in {source}, classifier: {config.run.init_head}")
    if found is None:
        return
    for reason in found.passed_over:
        say(f"warning: passed over a newer checkpoint: {reason}")
    say(f"going on from {found.path} at step {run.position.step}")
    if changes := changed_numerics(found.state):
        say(f"warning: bits may differ from those of a run left alone: {changes}")
