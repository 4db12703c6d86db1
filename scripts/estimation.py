"""Running statistics that are estimated anew before a validation, from batches of training."""

from collections.abc import Iterator

from torch import nn

from data.order import dealt_requests
from scripts.assembly import Run
from utils.batch_statistics import reestimate
from utils.compiling import eagerly


def estimate_statistics(run: Run) -> None:
    """Set the statistics of whatever is to be validated with others than those that it has."""
    network, done = run.network, run.position.step
    place = network.world.rank, network.world.size
    precise = network.config.training.precise_bn
    for model, steps in _estimated(run):
        last = range(max(0, done - steps), done)
        requests = dealt_requests(run.order, network.config.training.batch_size, run.shards, place, last)
        images = (network.normalize(batch.images) for batch in run.train.loader.batches(requests))
        with network.precision.autocast(), eagerly():  # its modes are those of no other pass
            reestimate(model, images, network.world, pooled=precise > 0)


def _estimated(run: Run) -> Iterator[tuple[nn.Module, int]]:
    """Each network, and from the batches of how many steps: those of --precise-bn, or an epoch's for averages."""
    network, precise = run.network, run.network.config.training.precise_bn
    if precise:
        yield network.model, precise
    if network.average and (precise or network.average.reestimated):
        yield network.average.network, run.steps_per_epoch if network.average.reestimated else precise
    if network.equal_average and network.equal_average.count:
        yield network.equal_average.network, run.steps_per_epoch
