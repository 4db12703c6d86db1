"""Lambda ResNets: sizes, a lambda layer against sums written out, norms that it needs."""

import pytest
import torch

from models import build_model
from models.lambdanet import LAMBDANETS
from models.layers import Layers
from models.layers.lambda_layer import GlobalPositions, LambdaLayer, LocalPositions
from models.layers.normalization import NORMALIZATIONS
from utils.config import ModelConfig
from utils.errors import UsageError

# seeds.md 5.5, where the first is called 18 and the second has two names.
SIZES = {
    "lambda_resnet26": 10_083_048,
    "lambda_resnet50": 14_910_472,
    "lambda_resnet101": 24_559_400,
    "lambda_resnet152": 32_539_976,
}
NORMLESS = ("none", "wn")
GROUPS = {"gn": 4, "ws": 4, "evonorm_s0": 4}


@pytest.mark.parametrize("name", LAMBDANETS)
def test_every_row_has_its_size(name: str, size) -> None:
    assert size(ModelConfig(model=name)) == SIZES[name]


@pytest.mark.parametrize("norm", [norm for norm in NORMALIZATIONS if norm not in NORMLESS])
def test_a_step_reaches_every_parameter(norm: str, unreached) -> None:
    torch.manual_seed(0)
    config = ModelConfig(model="lambda_resnet26", width=0.25, norm=norm, norm_groups=GROUPS.get(norm, 32))
    model = build_model(config, 10)
    assert unreached(model) == []
    assert all(p.ndim <= 1 or name.endswith("weight") for name, p in model.named_parameters())


@pytest.mark.parametrize("norm", NORMLESS)
def test_norms_without_one_for_queries_are_refused(norm: str) -> None:
    with pytest.raises(UsageError, match=f"--norm {norm} has no norm for the queries"):
        build_model(ModelConfig(model="lambda_resnet26", norm=norm), 10)


def test_groups_are_refused() -> None:
    with pytest.raises(UsageError, match="--attention lambda has no groups"):
        build_model(ModelConfig(model="resnext50_32x4d", attention="lambda"), 10)


@pytest.mark.parametrize("size", [(3, 4), (5, 1)], ids=str)
def test_outputs_are_queries_times_what_each_position_sees(size: tuple[int, int]) -> None:
    """y[p, o] = sum over k of q[p, o, k] (sum over m of (softmax(k)[m, k] + e[p, m, k]) v[m]), paper's equation 1."""
    torch.manual_seed(0)
    positions, heads, keys = size[0] * size[1], 2, 3
    layers = Layers(ModelConfig(norm="ln"))
    layer = LambdaLayer(5, 8, heads, keys, GlobalPositions(keys, positions), layers).double()
    x = torch.randn(2, 5, *size, dtype=torch.float64)
    q = layer.norm_q(layer.to_q(x)).flatten(2)  # (n, heads k, p)
    k = layer.to_k(x).flatten(2).softmax(2)  # (n, k, m)
    v = layer.norm_v(layer.to_v(x)).flatten(2)  # (n, v, m)
    seen = k.transpose(1, 2)[:, None] + layer.positions.embedding  # (n, p, m, k)
    lambdas = seen.transpose(2, 3) @ v.transpose(1, 2)[:, None]  # (n, p, k, v)
    heads_of = q.unflatten(1, (heads, keys)).permute(0, 3, 1, 2)  # (n, p, heads, k)
    expected = (heads_of @ lambdas).permute(0, 2, 3, 1).reshape(2, 8, *size)
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


def test_local_positions_are_global_ones_that_depend_on_distance() -> None:
    torch.manual_seed(0)
    height, width, keys, context = 4, 3, 2, 5
    local = LocalPositions(keys, context).double()
    values = torch.randn(2, 3, height, width, dtype=torch.float64)
    everywhere = GlobalPositions(keys, height * width).double()
    with torch.no_grad():
        for p in range(height * width):
            for m in range(height * width):
                down, right = m // width - p // width + context // 2, m % width - p % width + context // 2
                inside = 0 <= down < context and 0 <= right < context
                everywhere.embedding[p, m] = local.conv.weight[:, 0, down, right] if inside else 0
    expected = everywhere(values) + local.conv.bias.view(1, keys, 1, 1)
    torch.testing.assert_close(local(values), expected, rtol=1e-12, atol=1e-12)


def test_a_stride_is_an_average_behind() -> None:
    torch.manual_seed(0)
    layer = LambdaLayer(4, 8, 2, 3, LocalPositions(3, 3), Layers(ModelConfig()), stride=2).eval()
    x = torch.randn(2, 4, 7, 6)
    strided, layer.pool = layer(x), torch.nn.Identity()
    torch.testing.assert_close(strided, torch.nn.functional.avg_pool2d(layer(x), 3, 2, padding=1))
