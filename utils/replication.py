"""The copies of the network, and what makes them one: gradients and running statistics are means over shards.

A *shard* is the batch that one device sees at once. A step has V of them, whatever the number W of processes: each
carries V / W, one after the other, so 8 GPUs, or one GPU that accumulates 8 times, compute the same step. What remains
between them is the order in which floats are added, and under `--exact` that is fixed too: shards are added in a
binary tree over their numbers, inside a process first and then between neighbours at distance 1, 2, 4, ... A sum of two
is the same in both orders, so both sides of an exchange get the same bits.
"""

import contextlib
import inspect
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from utils.config import TrainingConfig
from utils.distributed import World
from utils.errors import UsageError

# What DDP calls its broadcast of buffers before each forward: the second name until torch 2.14.
_DDP_FLAGS = inspect.signature(DistributedDataParallel).parameters
BUFFER_BROADCAST = "forward_sync_buffers" if "forward_sync_buffers" in _DDP_FLAGS else "broadcast_buffers"


def count_shards(training: TrainingConfig, world_size: int, from_checkpoint: int | None) -> int:
    """V: from --shards, --grad-accum-steps or the checkpoint, else one a process. UsageError if W does not fit."""
    steps = training.grad_accum_steps
    shards = training.shards or (steps * world_size if steps else None) or from_checkpoint or world_size
    if steps and shards != steps * world_size:
        wanted = f"--shards {shards} and --grad-accum-steps {steps} on {world_size} processes"
        raise UsageError(f"{wanted} contradict each other: {steps} x {world_size} is {steps * world_size}; give one")
    if shards % world_size:
        fitting = ", ".join(str(size) for size in range(1, shards + 1) if shards % size == 0)
        raise UsageError(f"{shards} shards do not divide among {world_size} processes; start {fitting} processes")
    if training.exact and shards & (shards - 1):
        raise UsageError(f"--exact adds in a binary tree and needs a power of two of shards, not {shards}")
    return shards


class PairwiseSum:
    """The sum of lists of tensors as a binary tree over the order in which they come, in log2(n) lists of memory."""

    def __init__(self):
        self.branches: list[tuple[int, list[Tensor]]] = []

    def add(self, tensors: list[Tensor]) -> None:
        height = 0
        while self.branches and self.branches[-1][0] == height:
            tensors = torch._foreach_add(self.branches.pop()[1], tensors)
            height += 1
        self.branches.append((height, tensors))

    def total(self) -> list[Tensor]:
        ((_, tensors),) = self.branches  # one branch is left where a power of two was added
        self.branches = []
        return tensors


def add_in_pairs(tensors: list[Tensor], world: World) -> list[Tensor]:
    """The sum over all ranks in tree order, the same bits on each; the world size must be a power of two."""
    (flat,) = _flat(tensors)
    theirs = torch.empty_like(flat)
    distance = 1
    while distance < world.size:
        partner = world.rank ^ distance
        transfers = [dist.P2POp(dist.isend, flat, partner), dist.P2POp(dist.irecv, theirs, partner)]
        for work in dist.batch_isend_irecv(transfers):
            work.wait()
        flat = flat + theirs
        distance *= 2
    return _parts(flat, tensors)


class RunningStatistics:
    """The buffers that a forward pass moves: floats named running_*, and whole-number counters.

    Each shard starts from the values of the last step, and the step ends with the mean over shards and counters moved
    by one: running <- (1 - m) running + m mean over shards. Modules that stay in evaluation while the network is in
    training move nothing, and a mean of equal values could: theirs are left out.
    """

    def __init__(self, model: nn.Module):
        moved = (module for module in model.modules() if module.training)
        named = [pair for module in moved for pair in module.named_buffers(recurse=False)]
        self.moving = [b for name, b in named if name.startswith("running_")]
        self.counters = [b for _, b in named if not b.is_floating_point()]
        self.keep()

    def values(self) -> list[Tensor]:
        """One flat copy of all moving statistics, as a list of none or one tensor."""
        return _flat(self.moving)

    def keep(self) -> None:
        """Remember where the step starts."""
        self.start, self.start_counters = self.values(), _flat(self.counters)

    def rewind(self) -> None:
        """Back to where the step started."""
        self.set(self.start)
        _spread(self.start_counters, self.counters)

    def keep_where(self, finite: Tensor) -> None:
        """Stay where the step started if `finite` is false, without asking the device."""
        for buffers, start in ((self.moving, self.start), (self.counters, self.start_counters)):
            _spread([torch.where(finite, new, old) for new, old in zip(_flat(buffers), start, strict=True)], buffers)

    def set(self, values: list[Tensor]) -> None:
        _spread(values, self.moving)


def _flat(tensors: list[Tensor]) -> list[Tensor]:
    """All elements end to end, as a list of none or one tensor."""
    return [torch.cat([tensor.reshape(-1) for tensor in tensors])] if tensors else []


def _parts(flat: Tensor, like: list[Tensor]) -> list[Tensor]:
    """Views on what `_flat` laid end to end, each of the shape that it had."""
    parts = flat.split([tensor.numel() for tensor in like])
    return [part.view_as(tensor) for part, tensor in zip(parts, like, strict=True)]


def _spread(values: list[Tensor], buffers: list[Tensor]) -> None:
    """Back to where `_flat` took them from, in one operation."""
    if values:
        torch._foreach_copy_(buffers, _parts(values[0], buffers))


def _broadcast(tensors: Iterable[Tensor]) -> None:
    for tensor in tensors:
        dist.broadcast(tensor.data, src=0)


def mean_in_bfloat16(ranks: int, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """DDP's hook for one bucket of gradients: the mean over ranks, rounded before it is sent and in each addition.

    torch's own divides after it has rounded, and wants NCCL on a CPU too.
    """
    gradients = bucket.buffer()
    rounded = gradients.div_(ranks).bfloat16()
    return dist.all_reduce(rounded, async_op=True).get_future().then(lambda sent: gradients.copy_(sent.value()[0]))


class Replicas:
    """The network of this rank as one of W equal ones.

    `network` is what to call in training, `shards` the numbers of this rank's shards. For each step: `begin`, one
    `shard` context around the forward and backward of each shard, `reduce`. A shard's loss is to be weighed by `share`.
    """

    def __init__(self, model: nn.Module, world: World, shards: int, compress: str = "off"):
        self.world, self.count, self.compress = world, shards, compress
        each = shards // world.size
        self.shards = range(world.rank * each, (world.rank + 1) * each)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.statistics = RunningStatistics(model.train())
        self.network = self._replicate(model)

    def _replicate(self, model: nn.Module) -> nn.Module:
        if self.world.size == 1:
            self.share, self.rehearsals = 1 / self.count, 1
            return model
        self.share = 1 / len(self.shards)  # DDP divides by the number of processes itself
        # Strides along a side of one element mean nothing, but DDP compares them for 1x1 kernels too.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        # Shards that follow each other skip the exchange, which a static graph does not allow; and a compiler that cuts
        # the network at DDP's buckets makes its own.
        is_static = len(self.shards) == 1 and model._compiled_call_impl is None
        flags = {"gradient_as_bucket_view": True, "static_graph": is_static, BUFFER_BROADCAST: False}
        _broadcast(model.buffers())  # which DDP did not until torch 2.14, unless told to each time
        replica = DistributedDataParallel(model, **flags)
        self.rehearsals = 2 if is_static else 1  # passes after which DDP cuts its buckets
        if self.compress == "bf16":
            replica.register_comm_hook(self.world.size, mean_in_bfloat16)
        return replica

    def rehearse(self, images: Tensor, autocast: AbstractContextManager[None]) -> None:
        """Let DDP arrange its buckets, and a compiler do its work, on blank images, and leave no other trace.

        DDP cuts its buckets anew after the first backward, or that of a static graph after the second, and from three
        processes on their limits decide the order of additions: without the rehearsal a resumed run would take its
        first step with other buckets than the run that was left alone.
        """
        for _ in range(self.rehearsals):
            self.begin()
            with autocast:
                output = self.network(images)
            output.float().sum().backward()
            self.statistics.rewind()

    def begin(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None
        self.statistics.keep()
        self.moved: list[list[Tensor]] = []

    @contextlib.contextmanager
    def shard(self, number: int) -> Iterator[None]:
        """Around one shard: gradients are exchanged during the backward of this rank's last one only."""
        if number != self.shards[0]:
            self.statistics.rewind()
        last = number == self.shards[-1] or self.world.size == 1
        with contextlib.nullcontext() if last else self.network.no_sync():
            yield
        self.moved.append(self.statistics.values())

    @contextlib.contextmanager
    def second_pass(self) -> Iterator[None]:
        """Around another pass over the shards of a step: new gradients, the statistics as the first pass left them."""
        statistics = self.statistics
        start, counters = statistics.start, statistics.start_counters
        self.begin()
        yield
        statistics.rewind()
        statistics.start, statistics.start_counters = start, counters

    def reduce(self) -> None:
        """Leave the means over all shards in the gradients and the running statistics."""
        if not self.statistics.moving:
            return
        total = sum(values for (values,) in self.moved)
        if self.world.size > 1:
            dist.all_reduce(total)
        self.statistics.set([total / self.count])


class ExactReplicas(Replicas):
    """Replicas that add in tree order: the same bits at any number of processes."""

    def _replicate(self, model: nn.Module) -> nn.Module:
        self.share = 1 / self.count  # a power of two: exact
        if self.world.size > 1:
            _broadcast([*model.parameters(), *model.buffers()])
        return model

    def rehearse(self, images: Tensor, autocast: AbstractContextManager[None]) -> None:
        """Nothing to arrange: no buckets."""

    def begin(self) -> None:
        super().begin()
        self.sum = PairwiseSum()

    @contextlib.contextmanager
    def shard(self, number: int) -> Iterator[None]:
        if number != self.shards[0]:
            self.statistics.rewind()
        yield
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        self.sum.add(gradients + self.statistics.values())
        for parameter in self.parameters:
            parameter.grad = None

    def reduce(self) -> None:
        sums = self.sum.total()
        if self.world.size > 1:
            sums = add_in_pairs(sums, self.world)
        for parameter, gradient in zip(self.parameters, sums, strict=False):
            parameter.grad = torch.empty_like(parameter).copy_(gradient)  # fused optimizers need the weight's strides
        self.statistics.set([total / self.count for total in sums[len(self.parameters) :]])


def replicate(model: nn.Module, world: World, shards: int, exact: bool, compress: str = "off") -> Replicas:
    """The replicas that --exact asks for, or the fast ones. `compress` is --ddp-compress."""
    return ExactReplicas(model, world, shards) if exact else Replicas(model, world, shards, compress)


def refuse_compression(training: TrainingConfig, world_size: int) -> None:
    """UsageError for --ddp-compress where it has no effect, or breaks a promise."""
    told = f"--ddp-compress {training.ddp_compress}"
    if training.exact:
        raise UsageError(f"{told} rounds what --exact promises to the last bit; leave one of them out")
    if world_size == 1:
        raise UsageError(f"{told} has no effect on one process, which exchanges nothing; leave it out")
