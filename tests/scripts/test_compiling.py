"""--compile in whole runs: two graphs and no more, or one line that says why not."""

import copy
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from in_process import SMALL, opened, whole_process
from torch import Tensor

import train_dist
from models import NETWORKS, build_model, kept_kernels
from models.resnet import basic, cifar
from scripts.assembly import settings_from
from scripts.compiling import AUTO, misfit, refuse_compilation
from scripts.settling import settled
from utils import compiling
from utils.checkpoint import Found, load_checkpoint
from utils.config import ModelConfig
from utils.distributed import World
from utils.errors import EnvironmentFault, UsageError
from utils.log import read_history

ALONE, TWO = (World(0, size, 0, torch.device("cpu")) for size in (1, 2))
RESNET8 = cifar(basic, 8)
GPU = dataclasses.replace(ALONE, device=torch.device("cuda"))


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The process as it was, and nothing in the user's cache."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    torch._dynamo.reset()
    with whole_process():
        yield


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The graphs that torch's compiler finds, each by the function that it is of; nothing is made of them."""
    found: list[str] = []

    def backend(graph: torch.fx.GraphModule, examples: list[Tensor]) -> torch.fx.GraphModule:
        reads_pixels = any(example.dtype == torch.uint8 for example in examples)
        found.append("pixels" if reads_pixels else "network")
        return graph

    monkeypatch.setattr(compiling, "BACKEND", backend)
    return found


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> str:
    """Flags of a network that is traced in a second."""
    monkeypatch.setitem(NETWORKS, "resnet8", RESNET8)
    return "--model resnet8 --channels-last off --val-batch-size 5"


def test_a_run_compiles_before_its_first_step_and_never_again(
    small: str, graphs: list[str], tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    """Training, evaluation and that of the average; the 8 images of validation are a batch of 5 and one of 3."""
    flags = f"{small} --norm ws_bn --precise-bn 2 --model-ema --sam 0.05 --opt nesterov --mixup 0.2 --precision bf16"
    run = opened(tmp_path, f"--compile default {flags}")
    assert graphs.count("network") == 3
    made = len(graphs)
    train_dist.train(run)
    assert len(graphs) == made
    assert "compiled   default: training " in capfd.readouterr().out
    (plain := tmp_path / "plain").mkdir()
    train_dist.train(opened(plain, f"--compile off {flags}"))
    ours, theirs = (load_checkpoint(folder / "run" / "last.pth") for folder in (tmp_path, plain))
    assert ours["config"]["training"]["compile"] == "default"
    for name in ("state_dict", "state_dict_ema"):
        assert ours[name].keys() == theirs[name].keys()
    told, expected = (read_history(folder / "run") for folder in (tmp_path, plain))
    for name in ("train/loss", "val/loss", "val_ema/loss"):
        ours, theirs = ([line[name] for line in lines if name in line] for lines in (told, expected))
        assert ours and ours == pytest.approx(theirs, rel=2e-2), name  # bf16, and kernels one by one


def test_kernels_that_come_and_go_compile_nothing_anew(small: str, graphs: list[str]) -> None:
    model = build_model(ModelConfig(model="resnet8", norm="pws"), 4)
    average = copy.deepcopy(model).requires_grad_(False)
    compiling.compile_networks([model, average], "default")
    images, made = torch.randn(2, 3, 16, 16), []
    for _ in range(2):
        model.train()(images).sum().backward()
        for measured in (model, average):
            with torch.no_grad(), kept_kernels(measured):
                measured.eval()(images)
            with torch.no_grad(), compiling.eagerly():
                measured(images)
        made.append(len(graphs))
    assert made == [3, 3]


def test_a_run_without_the_flag_compiles_nothing(graphs: list[str], tmp_path: Path) -> None:
    run = opened(tmp_path, "--epochs 1 --warmup-epochs 0")
    assert run.network.config.training.compile == "off"
    train_dist.train(run)
    assert not graphs


REFUSED = [
    ("--compile default --exact", ALONE, 1, "--compile default does not promise the bits of --exact"),
    ("--compile default --drop-block 0.1", ALONE, 1, "--compile default would compile anew at each step"),
    ("--compile default --norm syncbn", TWO, 2, "--compile default does not take --norm syncbn"),
    ("--compile reduce-overhead", ALONE, 1, "records CUDA graphs, and --device is cpu; use default"),
    ("--compile max-autotune", ALONE, 1, "records CUDA graphs, and --device is cpu; use max-autotune-no-cudagraphs"),
    ("--compile max-autotune", GPU, 2, "CUDA graphs, which do not keep gradients for several shards a process"),
    ("--compile reduce-overhead --sam 0.1", GPU, 1, "records CUDA graphs, which do not keep gradients for --sam"),
]
FITS = [("--compile max-autotune-no-cudagraphs --sam 0.1", ALONE, 4), ("--compile reduce-overhead", GPU, 1)]


@pytest.mark.parametrize(("flags", "world", "shards", "reason"), REFUSED)
def test_what_compilation_does_not_go_with_is_refused(flags: str, world: World, shards: int, reason: str) -> None:
    config, _ = settings_from([*SMALL.split(), *flags.split()])
    with pytest.raises(UsageError, match=reason):
        refuse_compilation(config, world, shards)


@pytest.mark.parametrize(("flags", "world", "shards"), FITS)
def test_what_it_goes_with_is_not(flags: str, world: World, shards: int) -> None:
    config, _ = settings_from([*SMALL.split(), *flags.split()])
    assert not misfit(config, world, shards)


def test_without_a_compiler_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    config, _ = settings_from([*SMALL.split(), "--torchcompile", "default"])
    with pytest.raises(EnvironmentFault, match=r"--compile default needs a C\+\+ compiler, and there is no "):
        refuse_compilation(config, ALONE, 1)


@pytest.mark.parametrize("saved", [{"compile": "default"}, {"compile": "off"}, {}])
def test_auto_is_what_the_checkpoint_was_made_with(saved: dict[str, str], tmp_path: Path) -> None:
    network = opened(tmp_path, "").network
    network.config = dataclasses.replace(
        network.config, training=dataclasses.replace(network.config.training, compile="auto")
    )
    found = Found(Path("step.pth"), {"config": {"training": saved}})
    assert settled(network, found, 2).compile == saved.get("compile", "off")


@pytest.mark.parametrize(
    ("best", "exact", "chosen"), [("off", False, "off"), ("default", False, "default"), ("default", True, "off")]
)
def test_auto_is_the_best_that_goes_with_the_other_settings(
    best: str, exact: bool, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = opened(tmp_path, "").network
    training = dataclasses.replace(network.config.training, compile="auto", exact=exact)
    network.config = dataclasses.replace(network.config, training=training)
    monkeypatch.setitem(AUTO, "cpu", best)
    assert settled(network, None, 2).compile == chosen
