"""Train an image classifier on any number of processes. This file is the story; the other files are its words.

python train_dist.py --model resnet50 --data-dir DIR
torchrun --nproc_per_node=8 train_dist.py --model resnet50 --norm pws --data-dir DIR
torchrun --nproc_per_node=8 train_dist.py ... --resume auto        # goes on after whatever ended it
python train_dist.py --evaluate --resume RUN/best.pth --data-dir DIR
"""

import sys
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from data.batches import Batch
from data.order import validation_numbers, validation_requests
from models import kept_kernels
from scripts.assembly import Run, assemble_evaluation, assemble_run, settings_from
from scripts.estimation import estimate_statistics
from scripts.layer_table import layer_table
from scripts.network import Network
from utils import distributed
from utils.config.parsing import as_toml
from utils.contract import judgement
from utils.ending import one_ending
from utils.errors import StopRequested
from utils.log import say, weight_values
from utils.loss import example_losses
from utils.metrics import Score, ValidationSums, write_class_accuracy
from utils.optim import set_rate
from utils.randomness import seed_torch
from utils.state import gather


def main(arguments: list[str]) -> None:
    """From the command line to the last line."""
    with one_ending(debug="--debug" in arguments) as ending:
        config, print_only = settings_from(arguments)
        if print_only:
            say(as_toml(config))
            return
        if config.run.model_info:
            say(layer_table(config))
            return
        ending.world = distributed.start(config.training)
        if config.run.evaluate:
            validate(assemble_evaluation(config, ending.world))
        else:
            train(assemble_run(config, ending))
        distributed.leave(ending.world)


def train(run: Run) -> None:
    """All epochs that are left, each with its validation and its checkpoint."""
    epochs = run.network.config.schedule.epochs
    if run.position.epoch == epochs:
        run.say(f"already complete: {epochs}/{epochs} epochs, best top-1 {run.position.best:.3f} %")
        return
    run.open()
    batches = run.batches()
    while run.position.epoch < epochs:
        train_epoch(run, batches)
        finish_epoch(run)
    run.close()


def train_epoch(run: Run, batches: Iterator[Batch]) -> None:
    """The steps that are left of the current epoch."""
    settings, end = run.network.config.run, (run.position.epoch + 1) * run.steps_per_epoch
    run.network.model.train()
    for step in range(run.position.step, end):
        run.stop.ask()
        norm = train_step(run, batches, step)
        run.position.step = run.ending.step = done = step + 1
        if done % settings.log_interval == 0 or done == end:
            run.telling.step(step, norm)
        if run.stop.agreed():
            save(run)
            run.refuse_unsaved()
            reason = run.stop.reason or "a signal to another rank"
            raise StopRequested(f"{reason} at step {done}; --resume auto goes on from there")
        if settings.save_every and done % settings.save_every == 0 and done < end:
            save(run)


def train_step(run: Run, batches: Iterator[Batch], step: int) -> Tensor:
    """One step of the optimizer on V shards, of which this rank carries its own. The norm of the gradient."""
    network, replicas, precision = run.network, run.replicas, run.network.precision
    replicas.begin()
    run.ramp(step)
    shards = next_shards(run, batches, step)
    if run.sharpness:
        shards = list(shards)  # for both passes
    for shard, images, targets in shards:
        loss, logits = backward(run, step, shard, images, targets)
        run.sums.add(shard, loss, logits, targets)
        run.watch.lap("logging")
    replicas.reduce()
    if run.sharpness:
        with run.sharpness.worst(), replicas.second_pass():
            for shard, images, targets in shards:
                backward(run, step, shard, images, targets)
            replicas.reduce()
    run.watch.lap("backward")
    norm = precision.gradient_norm(run.optimizer)
    finite = norm.isfinite()
    if run.clip:
        run.clip(norm)
    set_rate(run.optimizer, run.rate(step))
    precision.step(run.optimizer, finite)
    replicas.statistics.keep_where(finite)
    if network.average:
        network.average.update(step, finite)
    run.watch.lap("optimizer")
    return norm


def next_shards(run: Run, batches: Iterator[Batch], step: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """This rank's shards of one step, one after the other: number, images (n, 3, h, w) and targets, on the device."""
    run.watch.lap("logging")  # between two steps
    for shard in run.replicas.shards:
        batch = next(batches)
        run.watch.lap("data_wait")
        run.telling.report.used(step, shard, batch.indices)
        run.sums.add_bad(shard, len(batch.bad))
        labels = run.network.transfer(batch.labels)
        images, targets = run.mix(run.network.normalize(batch.images), labels, step, shard)
        run.watch.lap("copy")
        yield shard, images, targets


def backward(run: Run, step: int, shard: int, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Add the gradients of one shard. Its loss, and its logits."""
    network, replicas, precision = run.network, run.replicas, run.network.precision
    seed_torch(network.config.training.seed, step, shard, network.world.device)
    with replicas.shard(shard):
        with precision.autocast():
            logits = replicas.network(images)
        loss = run.criterion(logits, targets, images)
        run.watch.lap("forward")
        precision.backward(loss, replicas.share)
        run.watch.lap("backward")
    return loss, logits


def finish_epoch(run: Run) -> None:
    """Validate where it is due, and save."""
    position, config = run.position, run.network.config
    position.epoch += 1
    is_best = False
    if config.schedule.swa and position.epoch >= config.schedule.swa:
        run.network.equal_average.add()
    if position.epoch % config.run.val_interval == 0 or position.epoch == config.schedule.epochs:
        distributed.barrier(run.network.world, "validation", config.training.timeout)
        estimate_statistics(run)
        scores = validate(run.network)
        told = weight_values(run.network.model) if config.run.weight_stats else {}
        run.telling.validated(told | {name: score.values() for name, score in scores.items()})
        best = max(score.top1 for score in scores.values())
        is_best = best > position.best
        if is_best:
            position.best, position.best_step = best, position.step
        if config.contract.top1:
            run.say(judgement(config.contract, position.epoch, best, position.best))
    save(run, is_best, end_of_epoch=True)
    run.telling.epoch_ended()


def validate(network: Network) -> dict[str, Score]:
    """Measure the network, and what averages of its weights there are."""
    scores = {name: evaluate(network, measured) for name, measured in network.measured().items()}
    if network.world.is_first:
        for name, score in scores.items():
            say(f"{name:10} {score}")
        if network.config.run.class_accuracy:
            write_class_accuracy(network.folder, network.val.store.classes, scores["val"].classes)
    return scores


def evaluate(network: Network, measured: nn.Module) -> Score:
    """Each validation image exactly once, on any number of processes."""
    world, count, size = network.world, len(network.val.store), network.val_batch_size
    sums = ValidationSums(count, -(-count // size), network.classes, world.device)
    batches = network.val.loader.batches(validation_requests(count, size, world.rank, world.size))
    measured.eval()
    with torch.no_grad(), kept_kernels(measured):
        for number, batch in zip(validation_numbers(count, size, world.rank, world.size), batches, strict=True):
            labels = network.transfer(batch.labels)
            logits = network.logits(measured, batch.images)
            sums.add(number, example_losses(logits, labels), logits, labels)
    return sums.score(world)


def save(run: Run, is_best: bool = False, end_of_epoch: bool = False) -> None:
    """Write a checkpoint on the first rank. A disk that does not take it is told of; training goes on."""
    run.telling.flush()
    sums = run.sums.state(run.network.world)
    if not run.network.world.is_first:
        return
    state = run.identity.facts() | gather(run.parts(), run.position, sums)
    run.keeper.save(run.position.step, state, is_best, end_of_epoch)
    if run.keeper.failed:
        say(f"warning: {run.keeper.failed}")


if __name__ == "__main__":
    main(sys.argv[1:])
