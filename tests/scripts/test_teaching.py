"""Teachers: which network a flag means, and what may not teach."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models import build_model
from scripts.teaching import build_teacher
from utils.config import Config, ModelConfig
from utils.config.parsing import read_config, settings_of
from utils.distillation import Teacher
from utils.distributed import World
from utils.errors import CheckpointError, UsageError
from utils.precision import Precision

CPU = torch.device("cpu")
CLASSES = 4
CHANNELS = ["--mean", "0.5", "0.5", "0.5", "--std", "0.25", "0.25", "0.25"]


def configured(*flags: str) -> Config:
    return read_config([*CHANNELS, *flags])[0]


def teacher_of(*flags: str, classes: int = CLASSES) -> Teacher | None:
    config = configured(*flags)
    return build_teacher(config, classes, Precision(config.training, CPU), World(0, 1, 0, CPU))


@pytest.fixture
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(ModelConfig(model="resnet20", norm="pws"), CLASSES)


@pytest.fixture
def checkpoint(network: torch.nn.Module, tmp_path: Path) -> Path:
    """A file that says itself of which network it is."""
    facts = {"config": settings_of(configured("--model", "resnet20", "--norm", "pws"))}
    torch.save({"state_dict": network.state_dict(), **facts}, tmp_path / "ours.pth")
    return tmp_path / "ours.pth"


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """Weights that do not say of which network they are."""
    torch.manual_seed(1)
    torch.save(build_model(ModelConfig(model="resnet20"), CLASSES).state_dict(), tmp_path / "bare.pth")
    return tmp_path / "bare.pth"


def test_teacher_is_the_network_that_its_file_says(checkpoint: Path, network: torch.nn.Module) -> None:
    images = torch.randn(2, 3, 16, 16)
    teacher = teacher_of("--teacher", str(checkpoint))
    torch.testing.assert_close(teacher.logits(images), network.eval()(images), rtol=1e-5, atol=1e-5)
    named = teacher_of("--teacher", "resnet20", "--teacher-weights", str(checkpoint))
    assert named.fingerprint == teacher.fingerprint


def test_teacher_without_such_words_is_the_network_that_was_named(bare: Path, checkpoint: Path) -> None:
    teacher = teacher_of("--teacher", "resnet20", "--teacher-weights", str(bare))
    assert teacher.fingerprint != teacher_of("--teacher", str(checkpoint)).fingerprint
    assert teacher.logits(torch.randn(2, 3, 16, 16)).shape == (2, CLASSES)


def test_run_without_teacher_has_none() -> None:
    assert teacher_of() is None


def test_other_bits_are_another_teacher(bare: Path) -> None:
    before = teacher_of("--teacher", "resnet20", "--teacher-weights", str(bare)).fingerprint
    weights = torch.load(bare, weights_only=True)
    torch.save(weights, bare.with_name("again.pth"))
    again = teacher_of("--teacher", "resnet20", "--teacher-weights", str(bare.with_name("again.pth")))
    assert again.fingerprint == before
    weights["fc.bias"][0] += 1e-3
    torch.save(weights, bare)
    assert teacher_of("--teacher", "resnet20", "--teacher-weights", str(bare)).fingerprint != before


def test_what_cannot_teach_is_refused(bare: Path, checkpoint: Path) -> None:
    refusals = [
        (["--teacher", "resnet20"], "would know nothing"),
        (["--teacher", str(bare)], "does not say of which network it is"),
        (["--teacher", str(checkpoint), "--teacher-weights", str(bare)], "is a file of weights itself"),
        (["--teacher", "resnet20", "--teacher-pretrained", "--teacher-weights", str(bare)], "give one"),
        (["--teacher", "resnet32", "--teacher-weights", str(checkpoint)], "is of resnet20, not of resnet32"),
        (["--teacher-weights", str(bare)], "no effect without --teacher"),
    ]
    for flags, told in refusals:
        with pytest.raises(UsageError, match=told):
            teacher_of(*flags)
    with pytest.raises(UsageError, match="tells 4 classes apart, and must tell 10"):
        teacher_of("--teacher", str(checkpoint), classes=10)
    with pytest.raises(CheckpointError, match="do not fit the network"):
        teacher_of("--teacher", "resnet32", "--teacher-weights", str(bare))


def test_teacher_of_other_pixels_is_refused(checkpoint: Path) -> None:
    config = configured("--teacher", str(checkpoint))
    other = replace(config, data=replace(config.data, mean=(0.4, 0.5, 0.5)))
    with pytest.raises(UsageError, match=r"add --mean 0\.5 0\.5 0\.5 --std 0\.25 0\.25 0\.25"):
        build_teacher(other, CLASSES, Precision(config.training, CPU), World(0, 1, 0, CPU))
