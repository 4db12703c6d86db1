"""Starting from a file: its logits with its own head, its features with a fresh one, nothing by accident."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models import build_model
from models.interop import read
from models.starting import classifier_of, count_classes, start_from
from scripts.golden.models import golden_images
from utils.config import ModelConfig
from utils.errors import CheckpointError

CHECKPOINTS = Path(__file__).resolve().parents[3] / "shared" / "golden" / "checkpoints"
needs_golden = pytest.mark.skipif(
    not CHECKPOINTS.is_dir(), reason="the golden checkpoints are not beside this checkout"
)
SMALL = ModelConfig(model="resnet20")
PWS = ModelConfig(model="resnet18", width=0.25, stem="small", norm="pws", pws_gamma=1e-3, pws_equiv="off")
GOLDEN = {
    "pi__shufflenetv2_1x.checkpoint.pth.tar": ModelConfig(model="shufflenet_v2_x1_0"),
    "pws__cifar_pws_resnet18_w16.epoch_4.pth": PWS,
    "ws__cifar_resnet20.checkpoint.pth.tar": ModelConfig(model="resnet20"),
}


def file_of(folder: Path, classes: int = 10) -> tuple[Path, dict[str, Tensor]]:
    """A file of random weights, and what is in it."""
    torch.manual_seed(0)
    state = {name: torch.randn(value.shape) for name, value in build_model(SMALL, classes).state_dict().items()}
    state = {name: value.abs() for name, value in state.items() if not name.endswith("num_batches_tracked")}
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, folder / "weights.pth")
    return folder / "weights.pth", state


def assert_equal(model: nn.Module, expected: dict[str, Tensor], head: dict[str, Tensor]) -> None:
    for name, value in model.named_parameters():
        assert torch.equal(value, (head if name.startswith("fc.") else expected)[name]), name


def test_a_networks_classifier_is_what_depends_on_the_number_of_classes() -> None:
    assert classifier_of(SMALL) == {"fc.weight": 0, "fc.bias": 0}
    assert classifier_of(ModelConfig(model="resnet20", num_classes=7)) == {"fc.weight": 0, "fc.bias": 0}
    assert count_classes(SMALL, {"fc.weight": torch.zeros(12, 64)}) == 12
    assert count_classes(SMALL, {"conv1.weight": torch.zeros(16, 3, 3, 3)}) is None


def test_a_network_starts_from_all_weights_of_a_file(tmp_path: Path) -> None:
    path, state = file_of(tmp_path)
    model = build_model(SMALL, 10)
    start_from(model, SMALL, path, "file")
    assert_equal(model, state, head=state)


def test_a_classifier_of_other_classes_is_refused_unless_a_fresh_one_is_asked_for(tmp_path: Path) -> None:
    path, state = file_of(tmp_path, classes=12)
    model = build_model(SMALL, 10)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"tells 12 classes apart, this network 10; .* --init-head fresh"):
        start_from(model, SMALL, path, "file")
    assert_equal(model, before, head=before)
    start_from(model, SMALL, path, "fresh")
    assert_equal(model, state, head=before)


def test_a_file_without_classifier_is_refused_unless_a_fresh_one_is_asked_for(tmp_path: Path) -> None:
    path, state = file_of(tmp_path)
    torch.save({name: value for name, value in state.items() if not name.startswith("fc.")}, path)
    model = build_model(SMALL, 10)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"has no classifier; .* --init-head fresh"):
        start_from(model, SMALL, path, "file")
    start_from(model, SMALL, path, "fresh")
    assert_equal(model, state, head=before)


@pytest.mark.parametrize("head", ["file", "fresh"])
def test_what_does_not_fit_is_named_with_the_file(tmp_path: Path, head: str) -> None:
    path, state = file_of(tmp_path)
    del state["layer1.0.conv1.weight"]
    torch.save({**state, "stranger": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match=r"weights\.pth: .* layer1\.0\.conv1\.weight .*; 1 unexpected: stranger"):
        start_from(build_model(SMALL, 10), SMALL, path, head)


def assert_golden(model: nn.Module, file: str, side: int) -> None:
    with np.load(CHECKPOINTS / f"{file}.expected.npz") as golden:
        expected = golden["logits"]
    with torch.no_grad():
        found = model.eval()(golden_images(side)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@needs_golden
@pytest.mark.parametrize("file", GOLDEN)
def test_golden_checkpoints_give_their_logits(file: str) -> None:
    model = build_model(GOLDEN[file], 1000 if file.startswith("pi__") else 10)
    start_from(model, GOLDEN[file], CHECKPOINTS / file, "file")
    assert_golden(model, file, side=224 if file.startswith("pi__") else 32)


@needs_golden
def test_the_golden_file_of_features_gives_them_with_the_whole_files_last_norm() -> None:
    file, whole = "pws__cifar_pws_resnet18_w16.backbone_only.pth", "pws__cifar_pws_resnet18_w16.epoch_4.pth"
    model = build_model(PWS, 7)
    start_from(model, PWS, CHECKPOINTS / file, "fresh")
    neck = {name: value for name, value in read(CHECKPOINTS / whole).items() if name.startswith("bn_last.")}
    model.load_state_dict({**model.state_dict(), **neck})
    model.fc = nn.Identity()
    assert_golden(model, file, side=32)
