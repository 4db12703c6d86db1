"""One rank of test_sync.py: a sync batch norm on this rank's part of some batches, and what came of it in a file.

python sync_ranks.py RANK FOLDER, with PYTHONPATH at the repository's root. FOLDER/cases.pt holds the state, and for
each case the parts of the batch and the directions of the gradient, one a rank.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from models.layers.sync import SyncBatchNorm2d


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    given = torch.load(folder / "cases.pt", weights_only=True)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    found = [run(given["state"], parts[rank], directions[rank]) for parts, directions in given["cases"]]
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def run(state: dict[str, Tensor], part: Tensor, direction: Tensor) -> dict[str, object]:
    norm = SyncBatchNorm2d(part.shape[1]).to(part.dtype)
    norm.load_state_dict(state)
    DistributedDataParallel(norm)  # refuses torch's own sync batch norm on a CPU
    x = part.requires_grad_()
    output = norm(x)
    (output * direction).sum().backward()
    gradients = {name: parameter.grad for name, parameter in norm.named_parameters()}
    found = {"output": output.detach(), "x": x.grad, "gradients": gradients, "state": norm.state_dict()}
    bare = SyncBatchNorm2d(part.shape[1], affine=False).to(part.dtype)
    return {**found, "bare": bare(x.detach()), "evaluated": norm.eval()(x).detach()}


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
