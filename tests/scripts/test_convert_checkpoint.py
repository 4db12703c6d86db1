"""convert_checkpoint: every kind of file in, plain and folded weights and ONNX out, and whatever does not fit named."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from models import build_model
from models.folding import load_folded
from models.interop.files import load_file
from scripts.convert_checkpoint import ConvertConfig, convert
from scripts.golden.models import golden_images
from utils.config import ModelConfig
from utils.script import run_script

CHECKPOINTS = Path(__file__).resolve().parents[3] / "shared" / "golden" / "checkpoints"
needs_golden = pytest.mark.skipif(
    not CHECKPOINTS.is_dir(), reason="the golden checkpoints are not beside this checkout"
)
# The golden checkpoints, and the networks that they are of.
PWS = {"model": "resnet18", "width": 0.25, "stem": "small", "norm": "pws", "pws_gamma": 1e-3, "pws_equiv": "off"}
NETWORKS = {
    "pi__shufflenetv2_1x.checkpoint.pth.tar": {"model": "shufflenet_v2_x1_0"},
    "pws__cifar_pws_resnet18_w16.epoch_4.pth": PWS,
    "ws__cifar_resnet20.checkpoint.pth.tar": {"model": "resnet20"},
}


def flags(settings: dict[str, object]) -> list[object]:
    return [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]


def command(*words: object) -> int:
    return run_script(ConvertConfig, convert, [*map(str, words)])


def random_state(model: nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        name: torch.rand_like(value) if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }


def answer(path: Path, images: Tensor, **settings: object) -> Tensor:
    """The logits that plain weights give in our network, without the readers of other files."""
    weights = load_file(path)
    weights = weights.get("state_dict", weights)
    model = build_model(ModelConfig(**settings), 10)
    model.load_state_dict(weights, strict=True)
    return model.eval()(images)


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A file of the WS ancestor's trainer, of a network of 10 classes."""
    state = random_state(build_model(ModelConfig(model="resnet20"), 10))
    path = tmp_path / "theirs.pth.tar"
    wrapped = {f"module.{name}": value for name, value in state.items()}
    torch.save({"epoch": 3, "state_dict": wrapped, "best_acc": 91.5, "optimizer": {"state": {}}}, path)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_plain_weights_are_written_under_plain_names(theirs: Path, tmp_path: Path, capsys, suffix: str) -> None:
    output = tmp_path / f"plain{suffix}"
    assert command(theirs, "--model", "resnet20", "--output", output) == 0
    written = load_file(output)
    written = written.get("state_dict", written)
    expected = torch.load(theirs, weights_only=True)["state_dict"]
    assert {f"module.{name}" for name in written} == set(expected)
    assert all(torch.equal(value, expected[f"module.{name}"]) for name, value in written.items())
    told = capsys.readouterr().out
    assert "resnet20, norm bn, 10 classes, 128 tensors" in told
    assert "left in the file: epoch 3, best_acc 91.5, optimizer" in told


def test_torchvisions_resnet_takes_what_is_written(tmp_path: Path) -> None:
    network = torchvision.models.resnet18(num_classes=10)
    state = random_state(network)
    source, output = tmp_path / "source.pth", tmp_path / "output.pth"
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    torch.save({"model": half, "args": argparse.Namespace(lr=0.1)}, source)  # as torchvision's trainer
    assert command(source, "--model", "resnet18", "--output", output) == 0
    network.load_state_dict(torch.load(output, weights_only=True), strict=True)
    assert network.fc.weight.dtype == torch.float32
    assert torch.equal(network.fc.weight, half["fc.weight"].float())


def test_timms_resnet_loads(tmp_path: Path) -> None:
    network = timm.create_model("resnet18", num_classes=10)
    network.load_state_dict(random_state(network))
    torch.save(
        {"state_dict": network.state_dict(), "arch": "resnet18", "args": argparse.Namespace()}, tmp_path / "t.pth"
    )
    output, images = tmp_path / "ours.safetensors", torch.randn(1, 3, 64, 64)
    assert command(tmp_path / "t.pth", "--model", "resnet18", "--output", output) == 0
    torch.testing.assert_close(answer(output, images, model="resnet18"), network.eval()(images))


def test_averages_are_taken_when_asked_for(tmp_path: Path) -> None:
    state = random_state(build_model(ModelConfig(model="resnet20"), 10))
    average = {name: value + 1 for name, value in state.items()}
    torch.save({"state_dict": state, "state_dict_ema": average}, tmp_path / "both.pth")
    for which, expected in (((), state), (("--ema",), average)):
        assert command(tmp_path / "both.pth", *which, "--model", "resnet20", "--output", tmp_path / "one.pth") == 0
        written = torch.load(tmp_path / "one.pth", weights_only=True)
        assert all(torch.equal(written[name], value) for name, value in expected.items())


def test_all_that_does_not_fit_is_listed_by_name_and_shape(theirs: Path, tmp_path: Path, capsys) -> None:
    other = flags({"model": "resnet20", "norm": "gn", "norm_groups": 8})
    assert command(theirs, *other, "--output", tmp_path / "o.pth") == 4
    told = capsys.readouterr()
    listed = [line for line in told.out.splitlines() if line.startswith("unexpected: ")]
    assert len(listed) == 3 * 21  # running mean, variance and counter of each norm
    assert "unexpected: layer3.2.bn2.running_var (64,)" in listed
    assert "theirs.pth.tar: the weights do not fit the network: 63 unexpected" in told.err
    assert told.err.count("\n") == 1
    assert not (tmp_path / "o.pth").exists()


def test_a_file_of_features_is_written_without_the_classifier(tmp_path: Path, capsys) -> None:
    state = random_state(build_model(ModelConfig(model="resnet20"), 10))
    torch.save({name: value for name, value in state.items() if not name.startswith("fc.")}, tmp_path / "f.pth")
    output = tmp_path / "o.pth"
    assert command(tmp_path / "f.pth", "--model", "resnet20", "--output", output) == 0
    assert set(torch.load(output, weights_only=True)) == {name for name in state if not name.startswith("fc.")}
    assert "without what the file lacks: fc.weight, fc.bias" in capsys.readouterr().out
    assert command(tmp_path / "f.pth", "--model", "resnet20", "--onnx", tmp_path / "o.onnx") == 4
    assert "has no classifier" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("absent.pth", "--output", "o.pth"), "absent.pth cannot be read"),
        (("theirs.pth.tar",), "nothing to write"),
        (("theirs.pth.tar", "--output", "o.pth", "--model", "resnet21"), "resnet21"),
    ],
)
def test_mistakes_are_one_line(theirs: Path, capsys, words: tuple[str, ...], reason: str) -> None:
    file, *rest = words
    assert command(theirs.with_name(file), *rest) in (2, 4)
    told = capsys.readouterr().err
    assert reason in told
    assert told.count("\n") == 1


def test_folded_pws_bottlenecks_are_plain_in_onnx_too(tmp_path: Path) -> None:
    """PWS-ResNet-50's blocks, whose gains and biases are not those of the start, at a width that takes no minute."""
    onnxruntime = pytest.importorskip("onnxruntime")
    settings = {"model": "resnet29_bottleneck", "norm": "pws", "width": 0.5}
    model = build_model(ModelConfig(**settings), 10)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.rand_like(parameter) if parameter.ndim == 1 else 0
    source, output, onnx = tmp_path / "run.pth", tmp_path / "folded.pth", tmp_path / "folded.onnx"
    torch.save(model.state_dict(), source)
    files = ("--output", output, "--onnx", onnx)
    assert command(source, *flags(settings), "--fold", "kernels", "--img-size", 32, *files) == 0
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected, folded = model.eval()(images), load_folded(output)(images)
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"images": images.numpy()})
    for logits in (folded.numpy(), found):
        np.testing.assert_allclose(logits, expected.numpy(), rtol=0, atol=1e-5 * expected.abs().max().item())


@needs_golden
@pytest.mark.parametrize("fold", ["none", "bn"])
@pytest.mark.parametrize("file", NETWORKS)
def test_golden_checkpoints_are_converted_and_give_their_logits(tmp_path: Path, file: str, fold: str) -> None:
    settings, output = NETWORKS[file], tmp_path / "converted.safetensors"
    with np.load(CHECKPOINTS / f"{file}.expected.npz") as golden:
        expected = golden["logits"]
    images = golden_images(224 if file.startswith("pi__") else 32)
    words = ("--output", output, "--fold", fold, "--img-size", 32)
    assert command(CHECKPOINTS / file, *flags(settings), *words) == 0
    if fold == "none":
        model = build_model(ModelConfig(**settings), expected.shape[1])
        model.load_state_dict(load_file(output)["state_dict"], strict=True)
    else:
        model = load_folded(output)
    with torch.no_grad():
        logits = model.eval()(images).numpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@needs_golden
def test_the_golden_file_of_features_is_written_without_a_classifier(tmp_path: Path) -> None:
    source = CHECKPOINTS / "pws__cifar_pws_resnet18_w16.backbone_only.pth"
    assert command(source, *flags(PWS), "--output", tmp_path / "o.pth") == 0
    written = torch.load(tmp_path / "o.pth", weights_only=True)
    assert len(written) == len(torch.load(source, weights_only=True)["state_dict"])
