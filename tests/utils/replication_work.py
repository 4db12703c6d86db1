"""What each process of test_replication does. A file of its own: the processes import it by name."""

import contextlib

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from utils.distributed import World
from utils.optim import Sharpness
from utils.replication import BUFFER_BROADCAST, Replicas, replicate

SHARDS, BATCH = 4, 6
RADIUS = 0.7


def network(dtype: torch.dtype) -> nn.Module:
    """Two batch norms, each with a momentum of its own."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 7, 3), nn.BatchNorm2d(7, momentum=0.3)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(7 * 4, 5)).to(dtype)


def images(step: int, shard: int, dtype: torch.dtype) -> Tensor:
    """(n, 3, 6, 6), their mean another in each shard."""
    draw = torch.Generator().manual_seed(100 * step + shard)
    return (torch.randn(BATCH, 3, 6, 6, dtype=torch.float64, generator=draw) * (1 + shard) + shard).to(dtype)


def loss_of(logits: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, torch.arange(BATCH) % 5)


def gradients(replicas: Replicas, step: int, dtype: torch.dtype) -> None:
    """One step up to the optimizer, as train_dist.train_step takes it."""
    replicas.begin()
    one_pass(replicas, step, dtype)


def one_pass(replicas: Replicas, step: int, dtype: torch.dtype) -> None:
    for shard in replicas.shards:
        with replicas.shard(shard):
            (loss_of(replicas.network(images(step, shard, dtype))) * replicas.share).backward()
    replicas.reduce()


def state(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all that a step leaves in the network."""
    found = {name: value.clone() for name, value in model.state_dict().items()}
    return found | {f"grad {name}": p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def walk(model: nn.Module, replicas: Replicas, steps: range, dtype: torch.dtype) -> dict[str, Tensor]:
    """Some steps of plain descent; the state after the last one."""
    for step in steps:
        gradients(replicas, step, dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
    return state(model)


def rehearsal(replicas: Replicas, dtype: torch.dtype) -> None:
    replicas.rehearse(torch.zeros(BATCH, 3, 6, 6, dtype=dtype), contextlib.nullcontext())


def steps_taken(world: World, exact: bool, dtype: torch.dtype, steps: int) -> dict[str, Tensor]:
    """The state after some steps that begin, as runs do, with a rehearsal."""
    model = network(dtype)
    replicas = replicate(model, world, SHARDS, exact)
    rehearsal(replicas, dtype)
    return walk(model, replicas, range(steps), dtype)


def all_cases(world: World) -> dict[str, dict[str, Tensor]]:
    """Both kinds of replicas in both types, in the processes of one world."""
    return {
        "fast": steps_taken(world, False, torch.float64, 1),
        "exact in float64": steps_taken(world, True, torch.float64, 1),
        "exact": steps_taken(world, True, torch.float32, 3),
        "left alone": steps_taken(world, False, torch.float32, 4),
        "resumed": resumed(world),
        "rehearsed": rehearsed(world),
        "other start": other_start(world),
        "compressed": compressed(world),
        "sharp": sharp(world, False),
        "sharp and exact": sharp(world, True),
    }


def compressed(world: World) -> dict[str, Tensor]:
    """One step of gradients that travel as bfloat16."""
    model = network(torch.float64)
    replicas = replicate(model, world, SHARDS, False, "bf16")
    rehearsal(replicas, torch.float64)
    return walk(model, replicas, range(1), torch.float64)


def either_graph(world: World) -> dict[str, Tensor | bool]:
    """Three steps of a shard for each process, with the static graph that DDP is then told of and without."""
    found = {}
    for name in ("static", "free"):
        model = network(torch.float32)
        replicas = replicate(model, world, world.size, False)
        found[f"{name} graph"] = replicas.network.static_graph
        if name == "free":
            flags = {"gradient_as_bucket_view": True, BUFFER_BROADCAST: False}
            replicas.network = DistributedDataParallel(model, **flags)
        rehearsal(replicas, torch.float32)
        values = walk(model, replicas, range(3), torch.float32)
        found |= {f"{name} {key}": value for key, value in values.items()}
    return found


def resumed(world: World) -> dict[str, Tensor]:
    """Four steps as well, but with new replicas after the second."""
    model = network(torch.float32)
    for steps in (range(2), range(2, 4)):
        replicas = replicate(model, world, SHARDS, False)
        rehearsal(replicas, torch.float32)
        found = walk(model, replicas, steps, torch.float32)
    return found


def rehearsed(world: World) -> dict[str, Tensor]:
    """Weights and statistics after nothing but a rehearsal."""
    model = network(torch.float64)
    rehearsal(replicate(model, world, SHARDS, False), torch.float64)
    return {name: value.clone() for name, value in model.state_dict().items()}


def other_start(world: World) -> dict[str, Tensor]:
    """Weights after replication where each rank built others."""
    found = {}
    for exact in (False, True):
        torch.manual_seed(world.rank)
        model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        model[1].running_mean.fill_(world.rank)
        replicate(model, world, SHARDS, exact)
        found |= {f"{exact} {name}": value.clone() for name, value in model.state_dict().items()}
    return found


def sharp(world: World, exact: bool) -> dict[str, Tensor]:
    """One step up to the optimizer with sharpness-aware gradients; and where the step started, for its taking back."""
    model = network(torch.float64)
    replicas = replicate(model, world, SHARDS, exact)
    rehearsal(replicas, torch.float64)
    gradients(replicas, 0, torch.float64)
    with Sharpness(replicas.parameters, RADIUS).worst(), replicas.second_pass():
        one_pass(replicas, 0, torch.float64)
    found = state(model)
    replicas.statistics.keep_where(torch.tensor(False))
    return found | {f"taken back {name}": buffer.clone() for name, buffer in model.named_buffers()}
