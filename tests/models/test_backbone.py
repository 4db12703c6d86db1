"""Backbones: stage outputs that are the network's own, torchvision's detectors on them; what is frozen stays frozen."""

import copy
from pathlib import Path

import launching
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FeaturePyramidNetwork

from models import build_model, gain_parameters
from utils.checkpoint import load_checkpoint
from utils.config import Config, ModelConfig
from utils.distributed import World
from utils.errors import UsageError
from utils.optim import parameter_groups
from utils.replication import replicate

NAMES = ["resnet18", "resnet50v2", "resnext50_32x4d", "regnet_x_200mf", "densenet121"]


def images(*sizes: int) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 3, *sizes)


@pytest.mark.parametrize("name", NAMES)
def test_levels_halve_the_resolution_and_tell_their_channels(name: str) -> None:
    network = build_model(ModelConfig(model=name), 10, out_indices=(0, 1, 2, 3, 4)).eval()
    outputs = network(images(64, 96)).values()
    assert [output.shape[2:] for output in outputs] == [(64 // 2**i, 96 // 2**i) for i in (1, 2, 3, 4, 5)]
    assert [output.shape[1] for output in outputs] == network.channels


@pytest.mark.parametrize("name", NAMES)
def test_a_backbone_is_the_network_without_its_head(name: str) -> None:
    torch.manual_seed(0)
    network = build_model(ModelConfig(model=name), 10).eval()
    body = build_model(ModelConfig(model=name), 10, out_indices=(4,)).eval()
    body.load_state_dict({key: value for key, value in network.state_dict().items() if key in body.state_dict()})
    seen: list[Tensor] = []
    last = list(network.levels)[-1]
    network.get_submodule(last).register_forward_hook(lambda module, inputs, output: seen.append(output))
    network(images(64, 64))
    ((level, output),) = body(images(64, 64)).items()
    assert level == last
    assert torch.equal(output, seen[0])
    assert not any(key.startswith(("fc.", "bn_last.", "classifier.")) for key in body.state_dict())


def test_a_backbone_ends_with_its_last_level() -> None:
    body = build_model(ModelConfig(model="regnet_x_200mf"), 10, out_indices=(2, 1))
    assert list(body(images(64, 64))) == ["trunk_output.block1", "trunk_output.block2"]
    assert not [name for name in body.state_dict() if "block3" in name]
    body = build_model(ModelConfig(model="resnet18"), 10, out_indices=(0,))
    assert {name.split(".")[0] for name in body.state_dict()} == {"conv1", "bn1"}


@pytest.mark.parametrize(
    ("name", "indices", "message"),
    [
        ("resnet18", (5,), r"out_indices \(5,\): the levels of resnet18 are 0 \(act1\), 1 \(layer1\)"),
        ("resnet18", (), r"out_indices \(\)"),
        ("resnet20", (4,), r"the levels of resnet20 are 0 \(act1\), .* 3 \(layer3\)$"),
        ("oct_resnet26", (2, 4), r"out_indices \(2, 4\): layer2 of oct_resnet26 gives maps of two frequencies"),
        ("alexnet", (1,), r"out_indices \(1,\) has no place in alexnet, which has no stages"),
    ],
)
def test_levels_that_are_not_there_are_told_of(name: str, indices: tuple[int, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_model(ModelConfig(model=name), 10, out_indices=indices)


@pytest.mark.parametrize("options", [{}, {"norm": "pws"}, {"frozen_stages": 1, "freeze_norm": True}], ids=str)
def test_faster_rcnn_trains_on_a_backbone(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    body = build_model(ModelConfig(model="resnet18", **options), 10, out_indices=(1, 2, 3, 4))
    names = {f"layer{i}": str(i - 1) for i in (1, 2, 3, 4)}
    detector = FasterRCNN(BackboneWithFPN(body, names, body.channels, 32), 3, min_size=64, max_size=64)
    targets = [
        {"boxes": torch.tensor([[4.0, 4, 40, 40]]), "labels": torch.tensor([1])},
        {"boxes": torch.tensor([[8.0, 2, 30, 60], [1, 1, 9, 9]]), "labels": torch.tensor([2, 1])},
    ]
    trained = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.01)
    before = copy.deepcopy(detector.state_dict())
    for _ in range(2):
        loss = sum(detector.train()(list(images(64, 64)), targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
    moved = {name for name, value in detector.state_dict().items() if not torch.equal(value, before[name])}
    assert {"backbone.body.layer4.1.conv2.weight", "roi_heads.box_predictor.cls_score.weight"} <= moved
    assert ("backbone.body.conv1.weight" in moved) == ("frozen_stages" not in options)


def test_levels_feed_a_feature_pyramid_where_stages_are_no_children() -> None:
    body = build_model(ModelConfig(model="regnet_x_200mf"), 10, out_indices=(2, 3, 4))
    outputs = FeaturePyramidNetwork(body.channels, 16)(body(images(64, 64)))
    assert [output.shape for output in outputs.values()] == [(2, 16, 64 // 2**i, 64 // 2**i) for i in (3, 4, 5)]


def step(model: nn.Module) -> set[str]:
    """The names of what a step of SGD on training batches changes, or a loss would reach."""
    before = copy.deepcopy(model.state_dict())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for _ in range(2):
        F.cross_entropy(model.train()(images(32, 32)), torch.tensor([1, 2])).backward()
        torch.optim.SGD(trained, lr=0.1).step()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize(("stages", "first"), [(0, "layer1"), (1, "layer2"), (3, "layer4"), (4, "fc")])
@pytest.mark.parametrize("norm", ["bn", "switchnorm", "evonorm_b0"])
def test_frozen_stages_do_not_move_and_the_others_do(stages: int, first: str, norm: str) -> None:
    torch.manual_seed(0)
    model = build_model(ModelConfig(model="resnet18", norm=norm, frozen_stages=stages, block_order="post"), 10)
    frozen = ("conv1", "bn1", "act1", *(f"layer{i}" for i in range(1, stages + 1)))
    moved = step(model)
    assert not [name for name in moved if name.startswith(tuple(f"{part}." for part in frozen))]
    expected = {name for name in model.state_dict() if not name.startswith(tuple(f"{part}." for part in frozen))}
    assert {name for name in expected if name.startswith(first)} - moved <= {
        name
        for name in expected
        if name.endswith(("_weight", "v"))  # mixing weights that may be at a balance
    }


def test_frozen_norms_keep_their_statistics_and_train_their_gains() -> None:
    torch.manual_seed(0)
    moved = step(build_model(ModelConfig(model="resnet20", freeze_norm=True), 10))
    assert not [name for name in moved if "running" in name or "tracked" in name]
    assert {"bn1.weight", "bn1.bias", "layer3.2.bn2.weight", "conv1.weight"} <= moved


def test_frozen_parts_stay_so_in_copies_and_under_train_and_eval() -> None:
    model = build_model(ModelConfig(model="resnet20", frozen_stages=1, freeze_norm=True), 10)
    for network in (model, copy.deepcopy(model)):
        network.eval()
        network.train()
        assert network.training
        assert network.layer2[0].training
        assert not network.layer1[0].bn1.training
        assert not network.layer2[0].bn1.training
    changed = copy.deepcopy(model)
    changed.train()
    assert not model.bn1.training
    model.load_state_dict(build_model(ModelConfig(model="resnet20"), 10).state_dict())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ModelConfig(norm="gn", freeze_norm=True), r"--freeze-norm has no effect: resnet50 with --norm gn keeps no st"),
        (ModelConfig(model="resnet20", frozen_stages=4), r"--frozen-stages 4: resnet20 has 3 stages"),
        (ModelConfig(model="alexnet", frozen_stages=1), r"--frozen-stages 1 has no place in alexnet"),
    ],
)
def test_freezing_what_is_not_there_is_refused(config: ModelConfig, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_model(config, 10)


def test_optimizer_and_means_over_shards_leave_out_what_is_frozen() -> None:
    model = build_model(ModelConfig(model="resnet20", norm="pws", frozen_stages=1), 10)
    groups = parameter_groups(model, gain_parameters(model), Config().optim)
    grouped = {id(parameter) for group in groups for parameter in group["params"]}
    assert grouped == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    model = build_model(ModelConfig(model="resnet20", frozen_stages=1), 10)
    replicas = replicate(model, World(0, 1, 0, torch.device("cpu")), 3, exact=False)
    moving = {id(buffer) for buffer in replicas.statistics.moving}
    expected = {name for name, buffer in model.named_buffers() if id(buffer) in moving}
    assert "layer2.0.bn1.running_mean" in expected
    assert not [name for name in expected if name.startswith(("bn1", "layer1"))]


@pytest.mark.parametrize("processes", [1, 3])
def test_a_run_with_frozen_stages_trains_the_rest(processes: int, image_folder: Path, tmp_path: Path) -> None:
    first = ["--model", "resnet20", "--img-size", "16", "-b", "8", "-j", "0", "--device", "cpu"]
    first += ["--warmup-epochs", "0", "--lr", "0.1", "--data-dir", str(image_folder), "--epochs", "1"]
    start = tmp_path / "start"
    assert launching.run(1, [*first, "--output-dir", str(start)], tmp_path).codes == [0]
    # Not as many shards as before: x + x + x is 3 x exactly where x is the third of a number.
    frozen = [*first, "--shards", "3", "--frozen-stages", "2", "--init-from", str(start / "last.pth"), "--model-ema"]
    run = launching.run(processes, [*frozen, "--output-dir", str(tmp_path / "frozen")], tmp_path)
    assert run.codes == [0] * processes, run.text
    before = load_checkpoint(start / "last.pth")["state_dict"]
    checkpoint = load_checkpoint(tmp_path / "frozen" / "last.pth")
    for state in (checkpoint["state_dict"], checkpoint["state_dict_ema"]):
        same = {name for name, value in state.items() if torch.equal(value, before[name])}
        assert same == {name for name in state if name.startswith(("conv1", "bn1", "layer1", "layer2"))}
