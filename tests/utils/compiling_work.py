"""What each process of test_compiling does. A file of its own: the processes import it by name."""

import copy

import torch
from torch import Tensor, nn

from utils import compiling
from utils.distributed import World
from utils.replication import replicate

IMAGES = (6, 3, 8, 8)
BUCKET = 1 << 20  # bytes of gradients that are exchanged together: less than this network has


class Residual(nn.Module):
    """A network with a norm, an addition and something that drops."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.head(torch.relu(x + self.norm(self.second(x))).mean((2, 3)))


class SeveralBuckets(nn.Module):
    """A class of its own: torch 2.11 leaves an nn.Sequential that is called by itself as it is."""

    def __init__(self):
        super().__init__()
        self.conv, self.hidden, self.head = nn.Conv2d(3, 16, 3), nn.Linear(576, 600), nn.Linear(600, 600)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x)).flatten(1)
        return self.head(torch.relu(self.hidden(x)))


def several_buckets() -> nn.Module:
    torch.manual_seed(0)
    return SeveralBuckets()


def images(step: int, shard: int) -> Tensor:
    """Noise around a colour for each of the classes 0 to 4 and 0 again."""
    draw = torch.Generator().manual_seed(100 * step + shard)
    colours = torch.tensor([[2.0, 0, 0], [0, 2, 0], [0, 0, 2], [2, 2, 0], [0, 2, 2], [2, 0, 0]])
    return (torch.randn(IMAGES, generator=draw) + colours[:, :, None, None]).to(memory_format=torch.channels_last)


def compiled_replicas(world: World) -> dict[str, Tensor | int]:
    """Gradients of a step on two shards a process, compiled and not, and how many graphs the first was made of."""
    graphs = []

    def backend(graph: torch.fx.GraphModule, examples: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    compiling.BACKEND = backend
    found = {}
    plain = several_buckets()
    for name, model in (("compiled", copy.deepcopy(plain)), ("eager", plain)):
        if name == "compiled":
            compiling.compile_networks([model], "default")
        replicas = replicate(model, world, 2 * world.size, False)
        replicas.network.bucket_bytes_cap = BUCKET
        replicas.begin()
        for shard in replicas.shards:
            with replicas.shard(shard):
                (replicas.network(images(0, shard)).square().mean() * replicas.share).backward()
        replicas.reduce()
        found |= {f"{name} {key}": parameter.grad.clone() for key, parameter in model.named_parameters()}
    return found | {"graphs": len(graphs)}
