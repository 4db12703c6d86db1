"""Choices that cannot be, in one line that names the flag."""

import pytest

from models import build_model
from utils.config import ModelConfig
from utils.errors import UsageError

MISTAKES = [
    (ModelConfig(model="reset50"), r"--model reset50 is not known; did you mean resnet50\?"),
    (ModelConfig(norm="batch"), r"--norm batch is not known"),
    (ModelConfig(model="resnet20", norm="gn"), r"--norm-groups 32 does not divide the 16 channels.* 1, 2, 4, 8, 16$"),
    (ModelConfig(norm_groups=8), r"--norm-groups 8 has no effect on resnet50 with --norm bn"),
    (ModelConfig(norm="ln", norm_groups=8), r"--norm-groups 8 has no effect"),
    (ModelConfig(pws_gamma=0.5), r"--pws-gamma 0.5 has no effect on resnet50 with --norm bn"),
    (ModelConfig(norm="ws", pws_equiv="off"), r"--pws-equiv off has no effect"),
    (ModelConfig(pws_fan="out"), r"--pws-fan out has no effect"),
    (ModelConfig(pws_gain="one"), r"--pws-gain one has no effect"),
    (ModelConfig(norm="pws", zero_gamma=True), r"--zero-gamma: resnet50 with --norm pws"),
    (ModelConfig(norm="none", zero_gamma=True), r"--zero-gamma"),
    (ModelConfig(norm="wn", zero_gamma=True), r"--zero-gamma"),
    (ModelConfig(norm="in", zero_gamma=True), r"--zero-gamma"),
    (ModelConfig(block_order="pre", zero_gamma=True), r"--zero-gamma: .*--block-order pre"),
    (ModelConfig(model="resnet50v2", zero_gamma=True), r"--zero-gamma: resnet50v2"),
    (ModelConfig(model="resnet18", width=0.001), r"--width 0.001 leaves a layer of resnet18 no channels"),
]


@pytest.mark.parametrize(("config", "message"), MISTAKES, ids=[message for _, message in MISTAKES])
def test_a_choice_that_nothing_can_use_is_one_line_about_its_flag(config: ModelConfig, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        build_model(config, 10)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("norm", ["bn", "syncbn", "gn", "in_affine", "ln", "ws", "ws_bn"])
@pytest.mark.parametrize("order", ["post", "relu-first"])
def test_zero_gamma_zeroes_the_last_gain_of_each_branch(norm: str, order: str) -> None:
    model = build_model(ModelConfig(model="resnet18", norm=norm, block_order=order, zero_gamma=True), 10)
    zero = {name for name, parameter in model.named_parameters() if name.endswith("weight") and not parameter.any()}
    assert zero == {f"layer{i}.{j}.bn2.weight" for i in (1, 2, 3, 4) for j in (0, 1)}


@pytest.mark.parametrize(
    ("config", "order"),
    [
        (ModelConfig(), "post"),
        (ModelConfig(model="resnet50v2"), "pre"),
        (ModelConfig(norm="pws"), "relu-first"),
        (ModelConfig(norm="pws", block_order="post"), "post"),
    ],
    ids=str,
)
def test_automatic_order_is_the_networks_own_or_the_norms(config: ModelConfig, order: str) -> None:
    block = build_model(config, 10).layer1[0]
    assert bool(block.closing) == (order == "post")
    assert block.opening == {"post": [], "pre": ["bn1", "act1"], "relu-first": ["act"]}[order]
