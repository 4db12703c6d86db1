"""ResNets in the ancestors' files: every tensor finds its place by name and shape, and ours keep their names."""

import json
from pathlib import Path

import pytest
import torch

from models import build_model
from models.interop import misfits, our_name, our_tensor, unwrap
from models.layers.attending import ATTENTIONS
from scripts.golden.networks import build_network, our_network
from utils.config import ModelConfig

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "models"
FILES = (
    "pi__se_resnet18",
    "pi__cbam_resnet50",
    "pi__bam_resnet18",
    "pi__sge_resnet18",
    "pi__sk_resnet50",
    "pi__sk_resnet18",
    "pi__ws_resnet18",
    "pidet__detbackbone_ResNetGC_50",
    "pidet__detbackbone_ResNetBAM_50",
    "mz__evo_resnet18",
    "mz__evo_resnet50_bnrelu",
    "mz__evo_resnext50_32x4d",
    "ws__cifar_resnet29_bottleneck",
    "ws__cifar_preresnet29_bottleneck",
    "ws__cifar_wrn_16_2",
    "ws__cifar_resnext29_8x64d",
)


@pytest.mark.parametrize("name", FILES)
def test_every_tensor_of_an_ancestor_has_its_place(name: str) -> None:
    if not GOLDEN.is_dir():
        pytest.skip("no golden numbers here")
    shapes = json.loads((GOLDEN / f"{name}.json").read_text())["state_dict"]
    classes = dict(shapes).get("fc.bias", [10])[0]  # only ResNeXt-29 calls its classifier so
    with torch.device("meta"):
        network = build_network(name, classes)
        saved = {f"module.{key}": torch.zeros(shape) for key, shape in shapes}
        weights = unwrap({"state_dict": saved, "epoch": 3}, our_network(name))
        assert misfits(network, weights) == {}


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_names_and_shapes_of_our_own_files_stay(attention: str) -> None:
    groups = {"attention_groups": 8} if "attention_groups" in ATTENTIONS[attention].settings else {}
    with torch.device("meta"):
        config = ModelConfig(model="resnet29_bottleneck", attention=attention, **groups)
        state = build_model(config, 10).state_dict()
        for name, value in state.items():
            assert our_name(name, "resnet29_bottleneck") == name
            assert our_tensor(name, value).shape == value.shape


@pytest.mark.parametrize("norm", ["evonorm_b0", "evonorm_s0", "frn", "switchnorm", "a1", "pws"])
@pytest.mark.parametrize("model", ["preresnet20", "wrn16_2"])
def test_names_stay_with_every_norm(model: str, norm: str) -> None:
    groups = {"norm_groups": 8} if norm == "evonorm_s0" else {}
    with torch.device("meta"):
        names = list(build_model(ModelConfig(model=model, norm=norm, **groups), 10).state_dict())
    assert [our_name(name, model) for name in names] == names
