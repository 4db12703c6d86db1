"""Files as the ancestors', timm's and torchvision's trainers write them; and what a file may not do."""

import argparse
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from models import build_model
from models.interop import load_weights, read
from models.interop.files import load_file, save_file
from utils.config import ModelConfig
from utils.errors import CheckpointError

State = dict[str, Tensor]


def drawn(model: nn.Module) -> State:
    torch.manual_seed(0)
    return {
        name: torch.rand_like(value) if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }


def assert_loads(path: Path, config: ModelConfig, expected: State) -> None:
    model = build_model(config, 10)
    load_weights(model, read(path, config.model))
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name


SMALL = ModelConfig(model="resnet18", stem="small")


def wn_network(config: ModelConfig, pooled: bool) -> tuple[State, State]:
    """What the WN ancestor writes, seeds.md 6 and 7, and what it is under our names: a bare list of torchvision's
    layers, with the pooling of the stem or without."""
    state = drawn(build_model(config, 10))
    parts = ["conv1", "bn1", "relu", *(["maxpool"] if pooled else []), "layer1", "layer2", "layer3", "layer4"]
    numbers = {part: f"feature.{number}" for number, part in enumerate(parts)}
    named = [name.partition(".") for name in state]
    theirs = [f"{numbers[part]}.{rest}" if part in numbers else f"{part}.{rest}" for part, _, rest in named]
    return dict(zip(theirs, state.values(), strict=True)), state


@pytest.mark.parametrize("norm", ["bn", "in", "none"])
@pytest.mark.parametrize("pooled", [True, False])
def test_the_lists_of_the_wn_ancestor_load(tmp_path: Path, norm: str, pooled: bool) -> None:
    config = ModelConfig(model="resnet18", norm=norm, stem="imagenet" if pooled else "small")
    theirs, ours = wn_network(config, pooled)
    torch.save(theirs, tmp_path / "model.pth")
    assert_loads(tmp_path / "model.pth", config, ours)


def modelzoo(state: State) -> dict[str, object]:
    """ModelZoo.pytorch: `model`, optimizer, scaler and scheduler of a run with DDP."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    scaler = torch.amp.GradScaler("cpu")
    weights = {f"module.{name}": value for name, value in state.items()}
    rest = {"optimizer": optimizer.state_dict(), "scaler": scaler.state_dict(), "lr_scheduler": {"last_iter": 5}}
    return {"model": weights, **rest}


# Each trainer's file of a ResNet's state.
TRAINERS: dict[str, Callable[[State], dict[str, object]]] = {
    "WS, its trainer": lambda state: {
        "epoch": 90,
        "state_dict": {f"module.{name}": value for name, value in state.items()},
        "acc": 76.0,
        "best_acc": torch.tensor(76.1),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
    },
    "WS, released": lambda state: {f"module.{name}": value for name, value in state.items()},
    "ModelZoo": modelzoo,
    "timm": lambda state: (
        {"epoch": 3, "arch": "resnet18", "state_dict": state, "version": 2, "metric": 76.5}
        | {"args": argparse.Namespace(model="resnet18", lr=0.1), "amp_scaler": {"scale": 65536.0}}
    ),
    "torchvision": lambda state: {"model": state, "epoch": 3, "args": argparse.Namespace(amp=True), "scaler": {}},
    "numpy's numbers": lambda state: {"state_dict": state, "best_acc": np.float64(76.1), "epoch": np.int64(3)},
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("trainer", TRAINERS)
def test_files_of_other_trainers_load_in_both_of_torchs_formats(tmp_path: Path, trainer: str, zipped: bool) -> None:
    state = drawn(build_model(SMALL, 10))
    torch.save(TRAINERS[trainer](state), tmp_path / "theirs.pth", _use_new_zipfile_serialization=zipped)
    assert_loads(tmp_path / "theirs.pth", SMALL, state)


@pytest.mark.parametrize("name", ["state_dict_ema", "model_ema", "state_dict_swa"])
def test_averages_are_read_where_timm_and_torchvision_keep_them(tmp_path: Path, name: str) -> None:
    state = drawn(build_model(SMALL, 10))
    average = {f"module.{key}": value + 1 for key, value in state.items()} | {"n_averaged": torch.tensor(7)}
    torch.save({"state_dict": state, name: average}, tmp_path / "both.pth")
    assert torch.equal(read(tmp_path / "both.pth")["fc.bias"], state["fc.bias"])
    found = read(tmp_path / "both.pth", average=True)
    assert set(found) == set(state)
    assert torch.equal(found["fc.bias"], state["fc.bias"] + 1)
    torch.save({"state_dict": state}, tmp_path / "one.pth")
    with pytest.raises(CheckpointError, match=r"one\.pth holds no average"):
        read(tmp_path / "one.pth", average=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_of_safetensors_become_floats(tmp_path: Path, dtype: torch.dtype) -> None:
    pytest.importorskip("safetensors")
    state = {name: value.to(dtype) for name, value in drawn(nn.Linear(2, 3)).items()}
    save_file(tmp_path / "half.safetensors", state, {})
    assert load_file(tmp_path / "half.safetensors")["state_dict"]["weight"].dtype == dtype
    assert torch.equal(read(tmp_path / "half.safetensors")["weight"], state["weight"].float())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_written_is_read_again_with_its_facts(tmp_path: Path, suffix: str) -> None:
    view = torch.arange(12.0).view(3, 4).T  # neither contiguous nor a tensor of its own
    path = tmp_path / f"file{suffix}"
    save_file(path, {"a": view, "b": view}, {"config": {"model": {"norm": "pws"}}, "classes": 10})
    found = load_file(path)
    assert found["config"] == {"model": {"norm": "pws"}}
    assert found["classes"] == 10
    assert torch.equal(found["state_dict"]["a"], view)
    assert torch.equal(found["state_dict"]["b"], view)


def test_safetensors_takes_torchvisions_network_back(tmp_path: Path) -> None:
    from_file = pytest.importorskip("safetensors.torch").load_file
    model = torchvision.models.resnet18()
    save_file(tmp_path / "tv.safetensors", drawn(model), {})
    model.load_state_dict(from_file(tmp_path / "tv.safetensors"), strict=True)


def test_objects_of_other_classes_are_refused_by_name_without_bad_advice(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(2)}, "path": Path("x")}, tmp_path / "theirs.pth")
    with pytest.raises(CheckpointError, match=r"it holds a pathlib\.\w+; only tensors and plain values are read"):
        read(tmp_path / "theirs.pth")
    (tmp_path / "text.pth").write_text("these are no weights")
    with pytest.raises(CheckpointError, match="damaged, or was not written by torch"):
        read(tmp_path / "text.pth")


class Attack:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable, tuple[str]]:
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


@pytest.mark.parametrize("forced", [True, False])
@pytest.mark.parametrize("how", ["zipped", "legacy", "pickled"])
def test_nothing_in_a_file_is_executed(tmp_path: Path, monkeypatch, how: str, forced: bool) -> None:
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    content = {"state_dict": {"a": torch.zeros(2)}, "args": Attack(tmp_path / "done")}
    path = tmp_path / "attack.pth"
    if how == "pickled":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zipped")
    with pytest.raises(CheckpointError, match=r"attack\.pth cannot be read as weights"):
        read(path)
    assert not (tmp_path / "done").exists()
