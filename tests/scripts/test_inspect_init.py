"""inspect_init: moments by their formulas, gains of PWS as in training, one picture for several norms."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from models import build_model
from scripts.inspect_init import InspectConfig, draw, inspect, measure, measured_layers, read_batch
from utils.config import DataConfig, ModelConfig
from utils.script import run_script

SMALL = {"model": "resnet20", "num_classes": 10, "batch_size": 8, "data": DataConfig(img_size=16)}
BLOCKS = ["conv1", *(f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1, 2)), "fc"]


def command(*words: object) -> int:
    small = ("--model", "resnet20", "--batch-size", 8, "--img-size", 16)
    return run_script(InspectConfig, inspect, [*map(str, (*small, *words))])


def network(norm: str, **settings: object) -> tuple[torch.nn.Module, InspectConfig]:
    config = InspectConfig(**SMALL, **settings)
    torch.manual_seed(0)
    return build_model(config.of(norm), 10), config


def test_blocks_and_the_layers_outside_of_them_are_measured_in_the_order_of_execution() -> None:
    model, config = network("bn")
    assert [layer.name for layer in measure(model, read_batch(config), "blocks")] == BLOCKS


def test_every_convolution_is_measured_where_asked_for() -> None:
    model, config = network("none")
    convolutions = measure(model, read_batch(config), "convolutions")
    assert len(convolutions) == len(measured_layers(model, "convolutions")) == 22  # 19, projections of two stages, fc
    assert convolutions[1].name == "layer1.0.conv1"


def test_blocks_that_give_two_tensors_are_measured_over_both() -> None:
    config = InspectConfig(**SMALL | {"model": "oct_resnet26", "batch_size": 2, "data": DataConfig(img_size=64)})
    found = measure(build_model(config.of("bn"), 10), read_batch(config), "blocks")
    assert [layer.name for layer in found[1:3]] == ["layer1.0", "layer1.1"]


def test_moments_are_those_of_what_a_layer_gives_and_of_the_gradient_there() -> None:
    model, config = network("bn")
    batch = read_batch(config)
    found = {layer.name: layer for layer in measure(model, batch, "blocks")}
    stages = torch.nn.Sequential(model.conv1, model.bn1, model.act1, model.layer1, model.layer2)
    activation = stages(batch.images)
    loss = F.cross_entropy(model.classify(model.layer3(activation)), batch.labels)
    (gradient,) = torch.autograd.grad(loss, activation)
    for values, moments in ((activation, found["layer2.2"].activation), (gradient, found["layer2.2"].gradient)):
        mean = values.double().sum().item() / values.numel()
        assert moments.mean == pytest.approx(mean, rel=1e-5, abs=1e-12)
        squares = (values.double() - mean).square().sum().item()
        assert moments.variance == pytest.approx(squares / (values.numel() - 1), rel=1e-5)


def test_gains_of_pws_start_from_the_batch_as_in_training() -> None:
    model, config = network("pws")
    found = {layer.name: layer for layer in measure(model, read_batch(config), "blocks")}
    assert found["conv1"].activation.variance == pytest.approx(2, rel=1e-4)
    model, config = network("pws", pws_gain="one")
    assert measure(model, read_batch(config), "blocks")[0].activation.variance != pytest.approx(2, rel=1e-2)


def test_pws_keeps_the_mean_of_activations_at_zero_where_no_norm_lets_it_grow() -> None:
    found = {norm: measure(*_with_batch(norm), "blocks") for norm in ("none", "pws")}
    farthest = {norm: max(abs(layer.activation.mean) for layer in layers) for norm, layers in found.items()}
    assert farthest["pws"] < 0.5 < farthest["none"]


def _with_batch(norm: str) -> tuple[torch.nn.Module, object]:
    model, config = network(norm)
    return model, read_batch(config)


def test_all_norms_are_on_one_picture_and_in_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    output = tmp_path / "init.png"
    assert command("--norm", "bn", "pws", "none", "--output", output) == 0
    assert Image.open(output).size[0] > 1000
    numbers = json.loads(output.with_suffix(".json").read_text())
    assert list(numbers["norms"]) == ["bn", "pws", "none"]
    assert [row["layer"] for row in numbers["norms"]["pws"]] == BLOCKS
    assert set(numbers["norms"]["bn"][3]["gradient"]) == {"mean", "variance"}
    assert str(output) in capsys.readouterr().out


def test_each_panel_has_a_curve_for_each_norm() -> None:
    pytest.importorskip("matplotlib")
    found = {norm: measure(*_with_batch(norm), "blocks") for norm in ("bn", "pws")}
    panels = draw(found, "title").axes
    assert len(panels) == 4
    for panel in panels:
        assert [len(line.get_xdata()) for line in panel.lines] == [len(BLOCKS)] * 2
        assert len({line.get_color() for line in panel.lines}) == 2


def test_runs_are_repeatable_and_norms_do_not_depend_on_their_order() -> None:
    one, other = (measure(*_with_batch("ws_bn"), "blocks") for _ in range(2))
    assert one == other


def test_real_images_are_those_of_the_first_training_batch(image_folder: Path) -> None:
    config = InspectConfig(
        **{**SMALL, "num_classes": None, "data": DataConfig(data_dir=str(image_folder), img_size=16)}
    )
    batch = read_batch(config)
    assert batch.images.shape == (8, 3, 16, 16)
    assert batch.classes == 4
    assert set(batch.labels.tolist()) <= set(range(4))
    assert batch.images.abs().max() < 4  # normalized


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--norm", "bm"), "--norm bm is not known; did you mean bn?"),
        (("--norm", "bn", "bm"), "--norm bm is not known; did you mean bn?"),
        (("--norm", "bn", "--output", "init.jpg"), "must end in .png"),
        (("--norm", "bn", "--pws-fan", "out"), "--pws-fan out has no effect"),
        (("--norm", "bn", "--batch-size", 1), "--batch-size 1: must be greater"),
        (("--norm", "bn", "--data-dir", "/nowhere"), "/nowhere"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, words: tuple[object, ...], reason: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(*words) in (2, 3)
    printed, told = capsys.readouterr()
    assert printed == "", "a mistake is told before anything is measured"
    assert reason in told
    assert told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_config_of_one_norm_is_a_network_like_any_other() -> None:
    config = InspectConfig(model="resnet20", norm=("pws", "bn"), stem="small")
    assert config.of("pws") == ModelConfig(model="resnet20", norm="pws", stem="small")
