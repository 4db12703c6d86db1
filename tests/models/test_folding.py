"""Folded networks: plain convolutions, the same logits, batch norms merged only where nothing else would change."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from models import build_model
from models.folding import Recipe, fold, load_folded
from models.interop.files import save_file
from models.layers.convolution import StandardizedConv2d
from utils.config import ModelConfig
from utils.errors import CheckpointError

EPSILONS = 1e-12  # of the largest logit, in float64: sums in another order


def network(**settings: object) -> nn.Module:
    """A network as after training: nothing in it is one or zero only because it starts so."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(**{"model": "resnet20", **settings}), 10).double()
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value += 0.1 * torch.rand_like(value) * (1 if name.endswith("running_var") else value.std(correction=0) + 1)
    return model.eval()


def images(side: int = 32) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def assert_same_logits(ours: nn.Module, folded: nn.Module) -> None:
    with torch.no_grad():
        expected, found = ours(images()), folded(images())
    assert (found - expected).abs().max() <= EPSILONS * expected.abs().max()


def of_type(model: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, kind)]


@pytest.mark.parametrize("how", ["kernels", "bn"])
@pytest.mark.parametrize("norm", ["pws", "ws_bn", "wn", "bn", "in", "a1"])
def test_folded_networks_have_plain_convolutions_and_the_same_logits(norm: str, how: str) -> None:
    model = network(norm=norm)
    plain = fold(model, images(), how)
    assert {type(conv) for conv in of_type(plain, nn.Conv2d)} == {nn.Conv2d}
    assert not any(name.endswith(("alpha", ".g")) for name in plain.state_dict())
    assert_same_logits(model, plain)


@pytest.mark.parametrize(("model", "left"), [("resnet20", 0), ("resnet18", 0), ("regnet_y_200mf", 0)])
def test_every_batch_norm_after_a_convolution_is_merged(model: str, left: int) -> None:
    ours = network(model=model)
    plain = fold(ours, images(), "bn")
    assert len(of_type(plain, nn.BatchNorm2d)) == left
    assert_same_logits(ours, plain)


def test_batch_norms_before_convolutions_stay() -> None:
    ours = network(block_order="pre")
    plain = fold(ours, images(), "bn")
    before, after = len(of_type(ours, nn.BatchNorm2d)), len(of_type(plain, nn.BatchNorm2d))
    assert 0 < after < before
    assert_same_logits(ours, plain)


class Read(nn.Module):
    """A convolution whose output, or what it shares memory with, is read by more than its norm."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.conv, self.norm, self.how = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), how

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = self.conv(x)
        if self.how == "given out":
            return y, self.norm(y)
        if self.how == "called twice":
            return self.norm(self.conv(self.norm(y)[:, :3]))
        return self.norm(y) + (y.relu() if self.how == "added" else y.flatten(2).unflatten(2, x.shape[2:]))


@pytest.mark.parametrize("how", ["added", "seen from elsewhere", "given out", "called twice"])
def test_a_norm_stays_where_merging_would_change_what_others_read(how: str) -> None:
    model = Read(how).double().eval()
    nn.init.uniform_(model.norm.running_var, 1, 2)
    plain = fold(model, images(8), "bn")
    assert len(of_type(plain, nn.BatchNorm2d)) == 1
    torch.testing.assert_close(plain(images(8)), model(images(8)))


def test_a_merged_convolution_is_the_formula_of_both() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).double().eval()
    conv, norm = model
    for value in (norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data):
        value.uniform_(0.5, 2)
    merged = fold(model, images(8), "bn")[0]
    gain = norm.weight / (norm.running_var + 1e-5).sqrt()
    torch.testing.assert_close(merged.weight, conv.weight * gain.view(4, 1, 1, 1))
    torch.testing.assert_close(merged.bias, norm.bias - norm.running_mean * gain)


def test_folding_leaves_the_network_as_it_was() -> None:
    model = network(norm="ws_bn").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fold(model, images(), "bn")
    assert model.training
    assert len(of_type(model, StandardizedConv2d)) == len(of_type(model, nn.Conv2d)) > 0
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_folded_weight_standardized_resnet_is_torchvisions() -> None:
    ours = network(model="resnet18", norm="ws")
    theirs = torchvision.models.resnet18(num_classes=10, norm_layer=lambda channels: nn.GroupNorm(32, channels))
    theirs.double().load_state_dict(fold(ours, images(), "kernels").state_dict(), strict=True)
    assert_same_logits(ours, theirs.eval())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(("norm", "how"), [("pws", "kernels"), ("bn", "bn")])
def test_folded_files_say_how_to_build_their_network(tmp_path: Path, norm: str, how: str, suffix: str) -> None:
    model, path = network(norm=norm).float(), tmp_path / f"folded{suffix}"
    plain = fold(model, images(), how)
    save_file(path, plain.state_dict(), Recipe(ModelConfig(model="resnet20", norm=norm), 10, 32, how).facts())
    again = load_folded(path)
    assert not again.training
    assert torch.equal(again(images().float()), plain(images().float()))


def test_other_files_are_no_folded_networks(tmp_path: Path) -> None:
    save_file(tmp_path / "plain.pth", network().state_dict(), {})
    with pytest.raises(CheckpointError, match=r"plain\.pth is no folded network"):
        load_folded(tmp_path / "plain.pth")
