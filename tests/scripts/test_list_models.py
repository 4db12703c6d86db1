"""The listing of networks, and the layer table of one."""

import json
from pathlib import Path

import pytest
import torch

import train_dist
from scripts.layer_table import layer_table
from scripts.list_models import ListConfig, list_models
from utils.config import Config, DataConfig, ModelConfig
from utils.errors import UsageError


def listed(capsys: pytest.CaptureFixture[str], **options: object) -> list[str]:
    list_models(ListConfig(**options))
    return capsys.readouterr().out.splitlines()


def test_table_tells_size_and_paper(capsys: pytest.CaptureFixture[str]) -> None:
    head, row, total = listed(capsys, filter="regnet_x_200mf")
    assert head.split() == [
        "name",
        "family",
        "parameters",
        "multiply-adds",
        "activations",
        "pixels",
        "classes",
        "paper",
    ]
    assert row.split()[:4] == ["regnet_x_200mf", "RegNet", "2.68", "M"]
    assert row.endswith("224     1000  arXiv 2003.13678")
    assert total == "1 networks"


def test_networks_for_small_images_are_measured_on_them(capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads("\n".join(listed(capsys, filter="resnet20", json=True)))
    assert list(facts) == ["resnet20", "preresnet20"]
    assert facts["resnet20"]["parameters"] == 272_474  # seeds.md 3.3
    assert (facts["resnet20"]["image_size"], facts["resnet20"]["classes"]) == (32, 10)


def test_part_of_a_name_or_a_pattern_chooses(capsys: pytest.CaptureFixture[str]) -> None:
    assert [line.split()[0] for line in listed(capsys, filter="*net18*")[1:-1]] == ["resnet18", "resnet18v2"]


def test_filter_without_a_network_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="--filter rexnet50 matches no network; did you mean resnet50"):
        list_models(ListConfig(filter="rexnet50"))


def test_layer_table_is_for_the_runs_image_size_and_classes() -> None:
    config = Config(model=ModelConfig(model="resnet20", num_classes=7), data=DataConfig(img_size=64))
    lines = layer_table(config).splitlines()
    assert lines[0] == "resnet20, norm bn, 7 classes, one image of 64 x 64 pixels"
    assert lines[2].split()[:9] == ["conv1", "Conv2d", "1", "x", "16", "x", "64", "x", "64"]
    assert lines[-1].split()[:2] == ["total", f"{272_474 - 3 * 65:,}"]


def test_model_info_touches_neither_data_nor_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folders = ["--data-dir", str(tmp_path / "absent"), "--output-dir", str(tmp_path / "run")]
    train_dist.main(["--model", "resnet20", "--model-info", *folders])
    assert capfd.readouterr().out.splitlines()[-1].split()[:2] == ["total", "336,824"]
    assert list(tmp_path.iterdir()) == []
    assert not torch.distributed.is_initialized()
