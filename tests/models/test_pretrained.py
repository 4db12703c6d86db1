"""torchvision's weights, from torch.hub's cache or not at all: no test asks the network for them."""

import io
import time
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision

from models import build_model
from models.interop import our_name
from models.pretrained import pretrained_file
from models.starting import start_from
from scripts.assembly import settings_from
from utils.config import ModelConfig
from utils.errors import CheckpointError, EnvironmentFault, UsageError

FILE = "shufflenetv2_x0.5-f707e7126e.pth"  # torchvision's name of it


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch.hub's folder of weights, empty, on a machine without a network."""

    def refuse(*args: object, **options: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("models.pretrained.urlopen", refuse)
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "tv_shufflenet_v2_x0_5"])
def test_a_network_starts_from_the_cached_file(name: str, cache: Path) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.shufflenet_v2_x0_5()
    torch.save(theirs.state_dict(), cache / FILE)
    config, model = ModelConfig(model=name), build_model(ModelConfig(model=name), 1000)
    start_from(model, config, pretrained_file(name), "file")
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in model.state_dict().items())
    ten = build_model(config, 10)
    with pytest.raises(CheckpointError, match=r"tells 1000 classes apart, this network 10; .* --init-head fresh"):
        start_from(ten, config, pretrained_file(name), "file")
    start_from(ten, config, pretrained_file(name), "fresh")
    assert torch.equal(ten.conv1[0].weight, theirs.conv1[0].weight)
    assert ten.fc.weight.shape == (10, 1024)


def test_without_a_network_one_line_says_what_is_missing_and_where(cache: Path) -> None:
    with pytest.raises(EnvironmentFault) as error:
        pretrained_file("resnet18")
    url, path = "https://download.pytorch.org/models/resnet18-f37072fd.pth", cache / "resnet18-f37072fd.pth"
    assert f"{url} cannot be fetched" in str(error.value)
    assert f"there is no {path}" in str(error.value)
    assert "--init-from FILE" in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(cache.glob("*.pth"))


def test_a_file_is_fetched_once_and_its_sum_compared(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def download(url: str, path: str, hash_prefix: str) -> None:
        fetched.append((url.rsplit("/")[-1], hash_prefix))
        Path(path).write_bytes(b"weights")

    monkeypatch.setattr("models.pretrained.urlopen", lambda request, timeout: io.BytesIO())
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert pretrained_file("resnet18") == pretrained_file("resnet18") == cache / "resnet18-f37072fd.pth"
    assert fetched == [("resnet18-f37072fd.pth", "f37072fd")]


def test_a_wrong_sum_is_told_in_one_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(url: str, path: str, hash_prefix: str) -> None:
        raise RuntimeError("invalid hash value")

    monkeypatch.setattr("models.pretrained.urlopen", lambda request, timeout: io.BytesIO())
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(EnvironmentFault, match="cannot be fetched \\(invalid hash value\\)"):
        pretrained_file("resnet18")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet20", "torchvision has no weights for resnet20, nearest are those for"),
        ("timm_resnet50", "torchvision has no weights for timm_resnet50"),
        ("regnet_x_400mf", "torchvision's weights are for --model regnet_x_400mf_torchvision"),
    ],
)
def test_networks_that_are_not_torchvisions_have_no_weights(name: str, message: str, cache: Path) -> None:
    with pytest.raises(UsageError, match=message):
        pretrained_file(name)


def test_dots_in_the_names_of_old_files_are_taken_out() -> None:
    theirs = "features.denseblock1.denselayer1.norm.1.weight"
    assert our_name(theirs, "tv_densenet121") == "features.denseblock1.denselayer1.norm1.weight"


def test_of_several_weights_those_fit_that_the_network_is_built_for(cache: Path) -> None:
    with pytest.raises(EnvironmentFault, match="vit_h_14_lc_swag"):
        pretrained_file("tv_vit_h_14")
    with pytest.raises(EnvironmentFault, match="regnet_x_400mf-"):
        pretrained_file("regnet_x_400mf_torchvision")
    with pytest.raises(EnvironmentFault, match="resnet50-11ad3fa6"):  # IMAGENET1K_V2, torchvision's DEFAULT
        pretrained_file("resnet50")


def test_one_place_to_start_from() -> None:
    with pytest.raises(UsageError, match=r"--pretrained and --init-from weights\.pth are both weights"):
        settings_from(["--pretrained", "--init-from", "weights.pth"])
    with pytest.raises(UsageError, match="--evaluate measures one network"):
        settings_from(["--pretrained", "--evaluate", "--resume", "best.pth"])
    assert settings_from(["--pretrained", "--evaluate", "--init-head", "fresh"])[0].run.has_start


def test_a_machine_without_a_network_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that is reserved for examples, and has no server, in the place of torchvision's."""
    weights = type("Weights", (), {"url": "https://weights.invalid/resnet18-f37072fd.pth"})
    monkeypatch.setattr("models.pretrained.torchvision_weights", lambda name: weights)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    begun = time.monotonic()
    with pytest.raises(EnvironmentFault, match="cannot be fetched"):
        pretrained_file("resnet18")
    assert time.monotonic() - begun < 30
