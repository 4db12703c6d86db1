"""A step between two log lines never asks the device for anything, whatever is switched on."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from asking import NeverAsked
from in_process import opened, whole_process

from data.batches import Batch
from models import build_model
from scripts.assembly import Run
from train_dist import train_step
from utils.config import ModelConfig

STEPS = 3

SWITCHED_ON = {
    "nothing": "",
    "mixup": "--mixup 0.2 --label-smoothing 0.1",
    "cutmix": "--cutmix 1 --bce --bce-threshold 0.2",
    "both, for each image": "--mixup 0.2 --cutmix 1 --mix-per image",
    "averages": "--model-ema --model-ema-warmup ratio --swa 1",
    "clipping the norm": "--clip-grad 0.1",
    "clipping values": "--clip-grad 0.1 --clip-mode value",
    "clipping units": "--clip-grad 0.1 --clip-mode agc --norm pws",
    "lookahead": "--lookahead 2 0.5",
    "dropping": "--drop-path 0.3 --drop-block 0.3 --drop-block-size 3 --dropout 0.2",
    "ghost batches": "--ghost-batch 2",
    "sam": "--sam 0.05 --opt nesterov --gc all",
    "group norm": "--norm gn --norm-groups 8",
    "adamw": "--opt adamw --lr 0.001",
    "lamb": "--opt lamb --lr 0.001",
    "exact": "--exact",
}


def drawn(run: Run, steps: int) -> Iterator[Batch]:
    """The batches of some steps, as they come out of a loader that has them ready."""
    batches = run.batches()
    return iter([next(batches) for _ in range(steps * len(run.replicas.shards))])


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    with whole_process():
        yield


def take(run: Run, steps: int) -> None:
    """So many steps, the first of which may make what it keeps; none may ask."""
    batches = drawn(run, steps)
    for step in range(steps):
        with NeverAsked():
            norm = train_step(run, batches, step)
    run.telling.step(steps - 1, norm)
    run.telling.flush()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_plain_step_does_not_ask_the_device(precision: str, tmp_path: Path) -> None:
    take(opened(tmp_path, f"--precision {precision}"), STEPS)


@pytest.mark.parametrize("flags", SWITCHED_ON.values(), ids=SWITCHED_ON.keys())
def test_nothing_that_is_switched_on_asks_the_device(flags: str, tmp_path: Path) -> None:
    take(opened(tmp_path, flags), STEPS)


def test_a_teacher_does_not_ask_the_device(tmp_path: Path) -> None:
    torch.save(build_model(ModelConfig(model="resnet20"), 10).state_dict(), tmp_path / "teacher.pth")
    take(opened(tmp_path, f"--teacher resnet20 --teacher-weights {tmp_path / 'teacher.pth'} --mixup 0.2"), STEPS)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_all_at_once_does_not_ask_the_device(precision: str, tmp_path: Path) -> None:
    flags = "--mixup 0.2 --label-smoothing 0.1 --model-ema --clip-grad 1 --drop-path 0.1 --lookahead 2 0.5"
    take(opened(tmp_path, f"{flags} --precision {precision}"), STEPS)


ASKING = {
    "item": lambda x: x.sum().item(),
    "if": lambda x: bool((x > 0).any()),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "numpy": lambda x: x.numpy(),
    "mask": lambda x: x[x > 0],
    "nonzero": lambda x: torch.nonzero(x),
    "unique": lambda x: torch.unique(x),
    "one hot": lambda x: torch.nn.functional.one_hot(x.long()),
}


@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING.keys())
def test_what_asks_is_noticed(ask: object) -> None:
    with NeverAsked(), pytest.raises(AssertionError, match=r"ask|depends"):
        ask(torch.ones(3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(
    "flags", ["", SWITCHED_ON["both, for each image"], "--model-ema --clip-grad 1 --lookahead 2 0.5"]
)
def test_no_step_waits_for_a_gpu(flags: str, precision: str, tmp_path: Path) -> None:
    run = opened(tmp_path, f"{flags} --precision {precision}", "cuda")
    batches = drawn(run, 3 * STEPS)
    for step in range(3 * STEPS):
        torch.cuda.set_sync_debug_mode("default" if step < STEPS else "error")
        try:
            norm = train_step(run, batches, step)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    run.telling.step(3 * STEPS - 1, norm)
    run.telling.flush()
