"""What drops: shares of zeros, one draw a sample, means kept, rates over blocks and steps, nothing in evaluation."""

from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth, drop_block2d

from models import DropBlockRamp, build_model
from models.batch_norms import refuse_ghosts
from models.folding import fold
from models.layers.dropping import DropBlock, DropPath, drop_blocks, gamma, kept
from models.layers.ghost import GhostBatchNorm2d
from models.layers.octave import BothDropped, Octave
from utils.config.model import ModelConfig
from utils.errors import UsageError


def drop_path(rate: float) -> DropPath:
    path = DropPath(1)
    path.rate = rate
    return path


def built(name: str, **settings: object) -> nn.Module:
    return build_model(ModelConfig(model=name, **settings), 4)


def rates(model: nn.Module) -> list[float]:
    return [module.rate for module in model.modules() if isinstance(module, DropPath)]


def outputs(model: nn.Module, size: int = 32, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    with torch.no_grad():
        return model(torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1)))


def test_drop_path_is_torchvisions_stochastic_depth_by_row() -> None:
    ours, theirs = drop_path(0.3).train(), StochasticDepth(0.3, "row").train()
    x = torch.ones(20000, 2, 1, 1, dtype=torch.float64)
    for drop in (ours, theirs):
        y = drop(x)
        assert y.unique().tolist() == pytest.approx([0, 1 / 0.7], rel=1e-7)
        assert (y[:, 0] == y[:, 1]).all()
        assert y.mean().item() == pytest.approx(1, abs=0.02)  # 4 standard errors are 0.019
    assert ours.eval()(x) is x


def test_both_frequencies_of_an_octave_share_their_draw() -> None:
    x = Octave(torch.ones(64, 2, 4, 4), torch.ones(64, 3, 2, 2))
    y = BothDropped(drop_path(0.5)).train()(x)
    assert 0 < (y.high[:, 0, 0, 0] == 0).sum() < 64
    assert torch.equal(y.high[:, 0, 0, 0], y.low[:, 0, 0, 0])


def test_rates_are_linear_over_blocks_as_in_the_papers() -> None:
    assert rates(built("resnet20", drop_path=0.9)) == pytest.approx([0.9 * i / 9 for i in range(1, 10)])
    with torch.device("meta"):
        found = rates(built("efficientnet_b0", drop_path=0.2))
    numbers = [2, 4, 6, 7, 9, 10, 12, 13, 14]  # of the 16 blocks, counted from 0, those with a shortcut
    assert found == pytest.approx([0.2 * i / 16 for i in numbers])


def test_efficientnets_rates_are_torchvisions() -> None:
    from torchvision.models import efficientnet_b0

    with torch.device("meta"):
        ours = rates(built("efficientnet_b0", drop_path=0.2))
        theirs = efficientnet_b0()  # has 0.2 of itself
    blocks = [m for m in theirs.modules() if type(m).__name__ == "MBConv" and m.use_res_connect]
    assert ours == pytest.approx([block.stochastic_depth.p for block in blocks])


def test_blocks_are_dropped_at_the_wanted_share_and_are_whole() -> None:
    for size, side in product((2, 3, 5), (6, 9)):
        torch.manual_seed(size)
        x = torch.ones(400, 8, side, side, dtype=torch.float64)
        drop = DropBlock(0.05, size).train()
        y = drop(x)
        share = (y == 0).double().mean().item()
        assert share == pytest.approx(expected_share(0.05, size, side), rel=0.1)  # 3200 maps: blocks are few
        assert y.mean().item() == pytest.approx(1, rel=1e-12)
        assert len(y.unique(dim=0)) > 50  # samples have draws of their own
        zeros = 1 - kept(_one(side), size)
        assert zeros.sum() == size**2


def expected_share(rate: float, size: int, side: int) -> float:
    """The share of zeros, exactly: a position is left by all the blocks that would cover it."""
    places = side - size + 1
    start = rate * side**2 / (size**2 * places**2)
    covering = [sum(first <= at < first + size for first in range(places)) for at in range(side)]
    left = [(1 - start) ** (rows * columns) for rows, columns in product(covering, covering)]
    return 1 - sum(left) / side**2


def _one(side: int) -> Tensor:
    one = torch.zeros(1, 1, side, side, dtype=torch.float64)
    one[..., side // 2, side // 2] = 1
    return one


def test_gamma_is_the_papers_formula() -> None:
    assert gamma(0.1, 7, 14, 14) == pytest.approx(0.1 / 49 * 14**2 / (14 - 7 + 1) ** 2)
    assert gamma(0.1, 7, 7, 7) == pytest.approx(0.1)  # one place to start from, which is one block


def test_drop_block_at_all_places_equals_torchvisions() -> None:
    torch.manual_seed(0)
    x, size = torch.randn(8, 4, 9, 9, dtype=torch.float64), 3
    torch.manual_seed(7)
    theirs = drop_block2d(x, 0.2, size, eps=0.0)
    torch.manual_seed(7)
    rate = gamma(0.2, size, 9, 9)
    starts = torch.empty(8, 4, 7, 7, dtype=torch.float64).bernoulli_(rate)
    torch.testing.assert_close(drop_blocks(x, nn.functional.pad(starts, (1,) * 4), size), theirs)


def test_ramp_is_a_function_of_the_step() -> None:
    model = built("resnet20", drop_block=0.2, drop_block_size=3).train()
    blocks = [module for module in model.modules() if isinstance(module, DropBlock)]
    assert {block.rate for block in blocks} == {0.05, 0.2}  # of the last but one stage, and of the last
    assert len(blocks) == 2 * 3 * 3  # two convolutions and the shortcut of three blocks
    ramp = DropBlockRamp(model, 10)
    plain = built("resnet20")
    plain.load_state_dict(model.state_dict())
    ramp(0)
    assert torch.equal(outputs(model), outputs(plain.train()))
    ramp(5)
    assert {block.ramp for block in blocks} == {0.5}
    half = outputs(model)
    assert not torch.equal(half, outputs(plain))
    ramp(9)
    ramp(5)
    assert torch.equal(outputs(model), half)


FLAGS = (
    ("resnet20", {"dropout": 0.5}),
    ("resnet20", {"drop_path": 0.5}),
    ("resnet20", {"drop_block": 0.5, "drop_block_size": 3}),
    ("wrn16_2", {"conv_dropout": 0.3}),
    ("cifar_vgg11", {"dropout": 0.5}),
    ("shufflenet_v1_g1", {"drop_path": 0.5, "dropout": 0.5, "width": 0.25}),
    ("shufflenet_v2_x0_5", {"dropout": 0.5}),
    ("regnet_x_200mf", {"drop_path": 0.5, "dropout": 0.5}),
    ("ghostnet", {"drop_path": 0.5, "width": 0.5}),
    ("oct_resnet26", {"drop_path": 0.5}),
)


@pytest.mark.parametrize(("name", "settings"), FLAGS, ids=str)
def test_flag_acts_in_training_alone_and_adds_no_weight(name: str, settings: dict[str, float]) -> None:
    width = {"width": settings["width"]} if "width" in settings else {}
    torch.manual_seed(0)
    plain = built(name, **width)
    torch.manual_seed(0)
    dropping = built(name, **settings)
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    assert before.keys() == dropping.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in dropping.state_dict().items())
    assert torch.equal(outputs(dropping.eval(), 64), outputs(plain.eval(), 64))
    first = outputs(dropping.train(), 64)
    dropping.load_state_dict(before)
    assert torch.equal(first, outputs(dropping, 64))
    dropping.load_state_dict(before)
    assert not torch.equal(first, outputs(dropping, 64, seed=1))


def test_wide_resnets_drop_between_activation_and_convolution() -> None:
    block = built("wrn16_2", conv_dropout=0.3).layer1[0]
    assert block.opening + block.branch[:-1] == ["bn1", "act1", "conv1", "bn2", "act2", "dropout2", "conv2"]


def test_own_dropout_stays_unless_another_is_given() -> None:
    with torch.device("meta"):
        assert built("efficientnet_b0").classifier[0].p == 0.2
        assert built("efficientnet_b0", dropout=0.0).classifier[0].p == 0.0
        assert [m.p for m in built("vgg11", dropout=0.1).modules() if isinstance(m, nn.Dropout)] == [0.1, 0.1]


REFUSED = (
    ("shufflenet_v2_x0_5", {"drop_path": 0.1}, "--drop-path 0.1"),
    ("densenet121", {"drop_path": 0.1}, "--drop-path 0.1"),
    ("densenet121", {"drop_block": 0.1}, "--drop-block 0.1"),
    ("resnet20", {"drop_block_size": 5}, "--drop-block-size 5"),
    ("oct_resnet26", {"drop_block": 0.1}, "--drop-block 0.1"),
    ("resnet20", {"conv_dropout": 0.1}, "--conv-dropout 0.1"),
    ("tv_resnet18", {"dropout": 0.1}, "--dropout 0.1"),
    ("resnet20", {"norm": "pws", "bn_momentum": 0.2}, "--bn-momentum 0.2"),
    ("resnet20", {"norm": "gn", "norm_groups": 8, "bn_eps": 0.1}, "--bn-eps 0.1"),
    ("resnet20", {"norm": "syncbn", "ghost_batch": 2}, "--ghost-batch 2"),
)


@pytest.mark.parametrize(("name", "settings", "flag"), REFUSED, ids=str)
def test_flag_without_a_place_is_refused(name: str, settings: dict[str, object], flag: str) -> None:
    with pytest.raises(UsageError, match=flag), torch.device("meta"):
        built(name, **settings)


@pytest.mark.parametrize("norm", ["bn", "switchnorm", "evonorm_b0", "ws_bn", "bng2"])
def test_momentum_and_eps_reach_every_batch_norm(norm: str) -> None:
    with torch.device("meta"):
        model = built("resnet20", norm=norm, bn_momentum=0.03, bn_eps=1e-3)
    norms = [module for module in model.modules() if hasattr(module, "running_var")]
    assert len(norms) >= 19
    assert all((module.momentum, module.eps) == (0.03, 1e-3) for module in norms)


def test_ghost_batches_are_shards_of_their_own() -> None:
    torch.manual_seed(0)
    x = 3 + 2 * torch.randn(6, 4, 5, 5, dtype=torch.float64)
    ghost, parts = nn.BatchNorm2d(4).double().train(), [nn.BatchNorm2d(4).double().train() for _ in range(3)]
    ghost.__class__, ghost.group = GhostBatchNorm2d, 2
    expected = torch.cat([norm(part) for norm, part in zip(parts, x.split(2), strict=True)])
    assert torch.equal(ghost(x), expected)
    for name in ("running_mean", "running_var"):
        mean = sum(getattr(part, name) for part in parts) / 3
        torch.testing.assert_close(getattr(ghost, name), mean, rtol=1e-12, atol=0)
    assert ghost.num_batches_tracked == 1
    plain = nn.BatchNorm2d(4).double().eval()
    plain.load_state_dict(ghost.state_dict())
    assert torch.equal(ghost.eval()(x), plain(x))


def test_ghost_batches_divide_a_shard_or_are_refused() -> None:
    refuse_ghosts(ModelConfig(ghost_batch=32), 128)
    refuse_ghosts(ModelConfig(), 128)
    for ghost in (48, 128, 256):
        with pytest.raises(UsageError, match=f"--ghost-batch {ghost} does not divide the 128"):
            refuse_ghosts(ModelConfig(ghost_batch=ghost), 128)


def test_dropping_networks_fold() -> None:
    model = built("resnet20", drop_path=0.5, drop_block=0.1, dropout=0.2, ghost_batch=2).eval().double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    folded = fold(model, images, "bn")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(images), model(images), rtol=1e-9, atol=1e-9)
