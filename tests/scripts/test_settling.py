"""What auto stands for: found out once, told, and kept."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import launching
import pytest
import torch

from data.loaders import open_validation
from scripts import settling
from scripts.network import Network
from scripts.settling import seconds_of, settled, step_seconds
from utils.checkpoint import Found, load_checkpoint
from utils.config import Config, DataConfig, ModelConfig, TrainingConfig
from utils.distributed import World
from utils.layout import lay_out
from utils.randomness import seed_torch

CPU = torch.device("cpu")
COLOURS = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}
SYNTHETIC = DataConfig(loader="synthetic", synthetic_images=80, synthetic_classes=4, img_size=16, **COLOURS)
FLAGS = ["--model", "resnet20", "--img-size", "16", "-b", "16", "-j", "0", "--device", "cpu", "--warmup-epochs", "0"]


def network(**training: object) -> Network:
    config = Config(
        model=ModelConfig(model="resnet20", drop_path=0.3),
        data=SYNTHETIC,
        training=TrainingConfig(batch_size=4, device="cpu", model_ema=True, **training),
    )
    return Network(config, World(0, 1, 0, CPU), open_validation(config.data, 0))


def is_first(tensor: torch.Tensor) -> bool:
    return tensor.is_contiguous() and not tensor.is_contiguous(memory_format=torch.channels_last)


def test_probe_takes_both_layouts_through_whole_steps_and_leaves_no_trace() -> None:
    probed = network()
    start = {name: value.clone() for name, value in probed.model.state_dict().items()}
    seed_torch(0, 0, 0, CPU)
    expected = torch.rand(3)
    seed_torch(0, 0, 0, CPU)
    seen = []

    def timer(step: Callable[[], None], device: torch.device) -> float:
        _, model, normalize, pixels = step.args
        step()
        assert all(parameter.grad is not None for parameter in model.parameters())
        seen.append([is_first(tensor) for tensor in (model.layer1[0].conv1.weight, normalize(pixels))])
        assert pixels.shape == (4, 16, 16, 3)
        return 2.0 - len(seen)

    assert step_seconds(probed, timer) == {"on": 1.0, "off": 0.0}
    assert seen == [[False, False], [True, True]]
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, start[name]) for name, value in probed.model.state_dict().items())
    assert all(parameter.grad is None for parameter in probed.model.parameters())


def test_probe_times_steps_after_some_that_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    ticks = iter([10.0, 14.0])
    monkeypatch.setattr(settling.time, "perf_counter", lambda: next(ticks))
    steps = []
    assert seconds_of(lambda: steps.append(1), CPU) == 4.0 / settling.TIMED
    assert len(steps) == settling.WARM + settling.TIMED


@pytest.mark.parametrize(("times", "chosen"), [({"on": 0.04, "off": 0.05}, "on"), ({"on": 0.09, "off": 0.03}, "off")])
def test_on_a_gpu_auto_is_the_faster_layout(
    times: dict[str, float], chosen: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    probed = network()
    probed.world = dataclasses.replace(probed.world, device=torch.device("cuda"))
    monkeypatch.setattr(settling, "step_seconds", lambda network: times)
    assert settled(probed, None, 1).channels_last == chosen
    assert f"channels last {1000 * times['on']:.1f} ms a step" in capfd.readouterr().out


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_exact_runs_and_runs_on_a_cpu_do_not_choose_by_time(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    probed = network(exact=device == "cuda")
    probed.world = dataclasses.replace(probed.world, device=torch.device(device))
    monkeypatch.delattr(settling, "step_seconds")
    assert settled(probed, None, 1).channels_last == "on"


@pytest.mark.parametrize(("saved", "chosen"), [({"channels_last": "off"}, "off"), ({}, "on")])
def test_a_run_that_goes_on_takes_its_layout_from_the_checkpoint(saved: dict[str, str], chosen: str) -> None:
    found = Found(Path("step.pth"), {"config": {"training": saved}})
    assert settled(network(), found, 1).channels_last == chosen


def test_settling_lays_out_network_averages_and_images_in_place() -> None:
    settling_down = network()
    held = settling_down.average.pairs[0]
    settling_down.settle(dataclasses.replace(settling_down.config.training, channels_last="off"))
    pixels = torch.zeros(2, 16, 16, 3, dtype=torch.uint8)
    for model in (settling_down.model, settling_down.average.network):
        assert is_first(model.layer1[0].conv1.weight)
    assert is_first(settling_down.normalize(pixels))
    assert held[0] is settling_down.average.network.conv1.weight and is_first(held[0])
    assert held[1] is settling_down.model.conv1.weight
    assert settling_down.config.training.channels_last == "off"


def test_laying_out_keeps_values_and_goes_both_ways() -> None:
    model = network().model
    start = {name: value.clone(memory_format=torch.preserve_format) for name, value in model.state_dict().items()}
    for layout in (torch.contiguous_format, torch.channels_last):
        lay_out(model, layout)
        assert all(torch.equal(value, start[name]) for name, value in model.state_dict().items())
    assert all(value.stride() == start[name].stride() for name, value in model.state_dict().items())


def test_layout_is_kept_told_and_not_changed_in_passing(image_lmdb: Path, tmp_path: Path) -> None:
    """Killed or not, a run with its channels first goes on with them first, and says auto what it stands for."""
    run = [*FLAGS, "--data-dir", str(image_lmdb), "--model-ema", "--epochs", "1"]
    off = [*run, "--output-dir", str(tmp_path / "off")]
    launching.run(1, [*off, "--channels-last", "off"], tmp_path)
    saved = load_checkpoint(tmp_path / "off" / "last.pth")
    assert saved["config"]["training"]["channels_last"] == "off"
    assert is_first(saved["state_dict"]["layer1.0.conv1.weight"])
    assert is_first(saved["state_dict_ema"]["layer1.0.conv1.weight"])
    on = launching.run(1, [*off, "--channels-last", "on", "--resume", "auto"], tmp_path)
    assert on.codes == [4]
    assert "channels_last was off, is on" in on.text
    again = launching.run(1, [*off, "--resume", "auto"], tmp_path)
    assert again.codes == [0]
    assert "already complete" in again.text
    auto = launching.run(1, [*run, "--output-dir", str(tmp_path / "auto")], tmp_path)
    assert "layout     channels last" in auto.text
    saved = load_checkpoint(tmp_path / "auto" / "last.pth")
    assert saved["config"]["training"]["channels_last"] == "on"
    assert '"channels_last": "on"' in (tmp_path / "auto" / "config.json").read_text()
