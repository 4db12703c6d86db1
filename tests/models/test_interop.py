"""Weights of other files: names, prefixes, containers, shapes, and errors that say what does not fit."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models import build_model
from models.interop import load_weights, our_name, read, unwrap
from utils.config import ModelConfig
from utils.errors import CheckpointError


def network(norm: str = "bn") -> nn.Module:
    return build_model(ModelConfig(model="resnet20", norm=norm), 10)


def random_state(norm: str = "bn", seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {name: torch.randn(value.shape).to(value.dtype) for name, value in network(norm).state_dict().items()}


def pwsconv_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of seeds.md 7, row 000, for a network of ours."""
    theirs = {}
    for name, value in state.items():
        if name.startswith("fc."):
            theirs[f"head.{name}"] = value
        elif name.startswith("bn_last."):
            theirs[name.replace("bn_last", "neck.norm")] = value
        elif name.endswith("alpha"):
            theirs[f"backbone.{name}"] = value.view(-1, 1, 1, 1)
        else:
            theirs[f"backbone.{name.replace('bn', 'norm')}"] = value
    return theirs


def assert_holds(model: nn.Module, state: dict[str, Tensor]) -> None:
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("module.layer1.0.conv1.weight", "layer1.0.conv1.weight"),
        ("_orig_mod.module.fc.bias", "fc.bias"),
        ("module._orig_mod.fc.bias", "fc.bias"),
        ("features.module.0.weight", "features.0.weight"),
        ("backbone.layer3.1.norm2.running_var", "layer3.1.bn2.running_var"),
        ("backbone.layer2.0.downsample.1.weight", "layer2.0.downsample.1.weight"),
        ("neck.norm.weight", "bn_last.weight"),
        ("head.fc.weight", "fc.weight"),
        ("layer1.0.bn1.weight", "layer1.0.bn1.weight"),
        ("submodule.weight", "submodule.weight"),
    ],
)
def test_names_become_ours(theirs: str, ours: str) -> None:
    assert our_name(theirs) == ours


@pytest.mark.parametrize("norm", ["bn", "pws"])
def test_pwsconv_files_load(norm: str) -> None:
    state, model = random_state(norm), network(norm)
    load_weights(model, unwrap({"state_dict": pwsconv_names(state), "epoch": 4, "optimizer": {"state": {}}}))
    assert_holds(model, state)


@pytest.mark.parametrize("wrap", [dict, lambda s: {"state_dict": s, "acc": 1.0}, lambda s: {"model": s, "scaler": {}}])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_containers_and_prefixes_do_not_matter(wrap, prefix: str) -> None:
    state, model = random_state(), network()
    load_weights(model, unwrap(wrap({prefix + name: value for name, value in state.items()})))
    assert_holds(model, state)


def test_halves_become_floats() -> None:
    state = {name: value.half() if value.is_floating_point() else value for name, value in random_state().items()}
    found = unwrap(state)
    assert {value.dtype for value in found.values()} == {torch.float32, torch.int64}
    assert torch.equal(found["fc.weight"], state["fc.weight"].float())


def test_old_files_without_counters_load() -> None:
    state = {name: value for name, value in random_state().items() if not name.endswith("num_batches_tracked")}
    model = network()
    load_weights(model, unwrap(state))
    assert model.bn1.num_batches_tracked == 0
    assert torch.equal(model.bn1.running_var, state["bn1.running_var"])


def test_what_does_not_fit_is_named_with_its_shape_and_nothing_is_loaded() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = random_state()
    state["stranger.weight"] = torch.zeros(3)
    state["fc.weight"] = torch.zeros(1000, 64)
    del state["conv1.weight"]
    with pytest.raises(CheckpointError) as error:
        load_weights(model, unwrap(state))
    message = str(error.value)
    assert "1 missing: conv1.weight (16, 3, 3, 3)" in message
    assert "1 unexpected: stranger.weight (3,)" in message
    assert "1 other shape: fc.weight (1000, 64) for (10, 64)" in message
    assert_holds(model, before)


def test_another_norm_is_an_error_with_counts() -> None:
    with pytest.raises(CheckpointError, match=r"\d+ missing: .* and \d+ more; \d+ unexpected"):
        load_weights(network("pws"), unwrap(random_state("bn")))


def test_backbone_files_load_only_when_asked_for() -> None:
    state = random_state("pws")
    backbone = {name: value for name, value in pwsconv_names(state).items() if name.startswith("backbone.")}
    weights, model = unwrap({"state_dict": backbone, "author": "somebody"}), network("pws")
    with pytest.raises(CheckpointError, match=r"4 missing: bn_last.weight"):
        load_weights(model, weights)
    head = {name: value.clone() for name, value in model.state_dict().items() if name.startswith(("fc", "bn_last"))}
    load_weights(model, weights, may_lack=head)
    assert_holds(model, {**state, **head})
    del weights["conv1.alpha"]
    with pytest.raises(CheckpointError, match=r"1 missing: conv1.alpha"):
        load_weights(model, weights, may_lack=head)


def test_one_name_twice_is_an_error() -> None:
    with pytest.raises(CheckpointError, match="same name"):
        unwrap({"module.fc.bias": torch.zeros(1), "fc.bias": torch.zeros(1)})


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"state_dict": {"fc.bias": "text"}}])
def test_files_without_weights_are_an_error(content: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="no weights"):
        unwrap(content)


def test_files_are_read_and_bad_ones_named(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.pth", tmp_path / "bad.pth"
    state = random_state()
    torch.save({"state_dict": state}, good)
    assert torch.equal(read(good)["fc.weight"], state["fc.weight"])
    for content in (b"", b"not a checkpoint", good.read_bytes()[:1000]):
        bad.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"bad\.pth cannot be read"):
            read(bad)
    with pytest.raises(CheckpointError, match=r"absent\.pth cannot be read"):
        read(tmp_path / "absent.pth")
    torch.save([torch.zeros(2)], bad)
    with pytest.raises(CheckpointError, match="holds a list"):
        read(bad)
    torch.save(nn.Linear(2, 2), bad)
    with pytest.raises(CheckpointError, match=r"bad\.pth cannot be read"):
        read(bad)
