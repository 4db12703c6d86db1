"""What each process of test_batch_statistics does. A file of its own: the processes import it by name."""

import torch
from torch import Tensor, nn

from utils.batch_statistics import reestimate
from utils.distributed import World

BATCHES, BATCH = 12, 6


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Two batch norms, dropout between them, and one that no forward pass reaches."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(8, 7, 3), nn.BatchNorm2d(7)]
    model = nn.Sequential(*layers).to(dtype)
    model[1].unreached = nn.BatchNorm2d(2).to(dtype)
    return model


def batch(number: int, dtype: torch.dtype = torch.float32) -> Tensor:
    draw = torch.Generator().manual_seed(number)
    return (torch.randn(BATCH, 3, 6, 6, dtype=torch.float64, generator=draw) * (1 + number) + number).to(dtype)


def reestimated(world: World) -> dict[str, Tensor]:
    """The state after batch j of all was measured by rank j % W."""
    model = network()
    reestimate(model, map(batch, range(world.rank, BATCHES, world.size)), world)
    return dict(model.state_dict())
