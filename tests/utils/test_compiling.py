"""torch.compile in place: same names, same numbers, as many graphs as there are kinds of passes."""

import copy
import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from data.batches import Normalizer
from tests.utils import compiling_work
from tests.utils.compiling_work import Residual, images
from tests.utils.worlds import on_each_of
from utils import compiling
from utils.compiling import cache_folder, compile_networks, eagerly, filled_up, how
from utils.config import TrainingConfig
from utils.distributed import World
from utils.precision import Precision
from utils.replication import replicate

CPU = torch.device("cpu")
ALONE = World(0, 1, 0, CPU)
needs_compiler = pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="no C++ compiler")


@pytest.fixture(autouse=True)
def forgets(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each test compiles for itself, and leaves nothing in the user's cache."""
    torch._dynamo.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "compiled"))


def losses(model: nn.Module, precision: str) -> list[float]:
    """Those of 30 steps as train_dist.train_step takes them, on two shards each."""
    replicas, arithmetic = replicate(model, ALONE, 2, False), Precision(TrainingConfig(precision=precision), CPU)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True)
    replicas.rehearse(torch.zeros_like(images(0, 0)), arithmetic.autocast())
    found = []
    for step in range(30):
        replicas.begin()
        for shard in replicas.shards:
            with replicas.shard(shard):
                with arithmetic.autocast():
                    logits = replicas.network(images(step % 3, shard))
                loss = nn.functional.cross_entropy(logits.float(), torch.arange(6) % 5)
                arithmetic.backward(loss, replicas.share)
            found.append(loss.item())
        replicas.reduce()
        arithmetic.step(optimizer, arithmetic.gradient_norm(optimizer).isfinite())
    return found


@needs_compiler
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_thirty_steps_compiled_equal_thirty_steps_eager(precision: str) -> None:
    torch.manual_seed(0)
    eager = Residual().to(memory_format=torch.channels_last)
    compiled = copy.deepcopy(eager)
    compile_networks([compiled], "default")
    theirs, ours = losses(eager, precision), losses(compiled, precision)
    assert theirs[-1] < 0.5 * theirs[0]  # it learns, or equality would say little
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < 2e-2
    assert list(compiled.state_dict()) == list(eager.state_dict())
    for name, value in eager.state_dict().items():
        tolerance = 1e-4 if precision == "fp32" else 5e-2
        torch.testing.assert_close(compiled.state_dict()[name], value, rtol=tolerance, atol=tolerance, msg=name)


@needs_compiler
def test_one_kernel_normalizes_with_the_same_bits() -> None:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (2, 8, 8, 3), dtype=torch.uint8, generator=draw)
    plain, compiled = (Normalizer((0.4, 0.5, 0.6), (0.2, 0.3, 0.1), CPU, torch.float32) for _ in range(2))
    compiled.compile(how("default"))
    assert torch.equal(compiled(pixels), plain(pixels))
    assert compiled(pixels).stride() == plain(pixels).stride()


def test_replicas_exchange_gradients_bucket_by_bucket_of_a_compiled_network(tmp_path: Path) -> None:
    """DDP's forward is where torch's compiler learns of the buckets; a graph in one piece would exchange at its end."""
    for found in on_each_of(2, compiling_work.compiled_replicas, tmp_path / "worlds"):
        assert found["graphs"] > 1
        names = [name.removeprefix("eager ") for name in found if name.startswith("eager ")]
        assert len(names) == 6
        for name in names:
            torch.testing.assert_close(found[f"compiled {name}"], found[f"eager {name}"], rtol=1e-6, atol=1e-8)


def test_compiled_network_can_be_copied_called_eagerly_and_keeps_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def backend(graph: torch.fx.GraphModule, examples: list[Tensor]) -> torch.fx.GraphModule:
        calls.append(1)
        return graph

    monkeypatch.setattr(compiling, "BACKEND", backend)
    model = Residual().eval()
    names = list(model.state_dict())
    compile_networks([model], "default")
    with eagerly():
        expected = model(images(0, 0))
    copy.deepcopy(model)(images(0, 0))
    assert not calls
    assert torch.equal(model(images(0, 0)), expected) and calls == [1]
    model(images(1, 1))
    with eagerly():
        model(images(0, 0)[:2])
    assert calls == [1] and list(model.state_dict()) == names


def test_blank_images_fill_a_batch_up() -> None:
    pixels = torch.randint(256, (2, 4, 4, 3), dtype=torch.uint8)
    filled = filled_up(pixels, 5)
    assert filled.shape == (5, 4, 4, 3) and filled.dtype == torch.uint8
    assert torch.equal(filled[:2], pixels) and not filled[2:].any()
    assert torch.equal(filled_up(pixels, 2), pixels)


@pytest.mark.parametrize(
    ("given", "folder"),
    [
        (None, "/caches/train_dist/inductor"),
        ("{temporary}/torchinductor_root", "/caches/train_dist/inductor"),  # torch's own, not the user's word
        ("/scratch/compiled", "/scratch/compiled"),
    ],
)
def test_kernels_are_kept_where_they_outlive_a_restart_or_where_the_user_says(
    given: str | None, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    if given:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", given.format(temporary=compiling.tempfile.gettempdir()))
    assert cache_folder() == Path(folder)
