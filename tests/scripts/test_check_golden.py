"""check_golden: it accepts what is right, refuses what is wrong, and says what is not ours."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.check_golden import CheckConfig, check, find_items, matches
from scripts.golden import mistakes
from scripts.golden.mistakes import mistake_of
from scripts.golden.models import ancestor_state, golden_images
from utils.script import run_script

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden numbers are not beside this checkout")


def write_layer(folder: Path, name: str, cls: str = "models.layers.Conv2d", error: float = 0.0) -> None:
    """A WS convolution of one filter that sees the whole image, by its formula."""
    drawn = np.random.default_rng(0)
    x, weight, direction = (drawn.standard_normal(shape) for shape in ((2, 3, 2, 2), (1, 3, 2, 2), (2, 1, 1, 1)))
    kernel = (weight - weight.mean()) / (weight.std(ddof=1) + 1e-5)
    y = (x * kernel).sum((1, 2, 3)).reshape(2, 1, 1, 1)
    meta = {"cls": cls, "mode": "train", "ctor": {"in_channels": 3, "out_channels": 1, "kernel_size": 2, "bias": False}}
    arrays = {
        "in.x": x,
        "param.weight": weight,
        "gradout.y": direction,
        "out.y": y + error,
        "grad.x": direction * kernel,
    }
    (folder / "layers").mkdir(exist_ok=True)
    np.savez(folder / "layers" / f"{name}.npz", meta=json.dumps(meta), **arrays)


def write_model(folder: Path, name: str, params: int) -> None:
    """A CIFAR ResNet-8 of one block a stage, without logits."""
    shapes = [["conv1.weight", [16, 3, 3, 3]], *norm_shapes("bn1", 16)]
    for stage, (c_in, c_out) in enumerate([(16, 16), (16, 32), (32, 64)], start=1):
        block = f"layer{stage}.0"
        shapes += [[f"{block}.conv1.weight", [c_out, c_in, 3, 3]], *norm_shapes(f"{block}.bn1", c_out)]
        shapes += [[f"{block}.conv2.weight", [c_out, c_out, 3, 3]], *norm_shapes(f"{block}.bn2", c_out)]
        if c_in != c_out:
            shapes += [
                [f"{block}.downsample.0.weight", [c_out, c_in, 1, 1]],
                *norm_shapes(f"{block}.downsample.1", c_out),
            ]
    shapes += [["fc.weight", [10, 64]], ["fc.bias", [10]]]
    facts = {"params": params, "macs": 12_501_632, "input": [1, 3, 32, 32], "state_dict": shapes, "golden": None}
    (folder / "models").mkdir(exist_ok=True)
    (folder / "models" / f"{name}.json").write_text(json.dumps(facts))


def norm_shapes(name: str, channels: int) -> list[list]:
    one = [[f"{name}.{field}", [channels]] for field in ("weight", "bias", "running_mean", "running_var")]
    return [*one, [f"{name}.num_batches_tracked", []]]


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    code = run_script(CheckConfig, check, [str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_right_layers_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_layer(tmp_path, "ws__one")
    code, text = run(capsys, tmp_path, "--strict")
    assert code == 0
    assert "1 items: 1 ok, 0 wrong, 0 not ours yet" in text


def test_wrong_layers_fail_and_name_the_array(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_layer(tmp_path, "ws__one", error=1e-7)
    write_layer(tmp_path, "ws__two")
    code, text = run(capsys, tmp_path)
    assert code == 1
    assert "wrong: out.y" in text
    assert "2 items: 1 ok, 1 wrong, 0 not ours yet" in text
    assert run(capsys, tmp_path, "--only", "ws__two")[0] == 0


def test_layers_of_no_class_of_ours_fail_only_if_strict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_layer(tmp_path, "xx__one", cls="models.unheard.Of")
    assert "not ours yet: nothing of ours is a models.unheard.Of" in run(capsys, tmp_path)[1]
    assert run(capsys, tmp_path)[0] == 0
    assert run(capsys, tmp_path, "--strict")[0] == 1
    assert run(capsys, tmp_path, "--strict", "--skip", "yy__*")[0] == 1
    assert run(capsys, tmp_path, "--strict", "--skip", "yy__*,xx__*")[0] == 0
    assert run(capsys, tmp_path, "--strict", "--skip", "yy__*", "--skip", "layers/xx__*")[0] == 0


@pytest.mark.parametrize(("params", "code"), [(78_042, 0), (78_043, 1)])
def test_networks_of_other_sizes_are_built_from_their_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], params: int, code: int
) -> None:
    write_model(tmp_path, "ws__cifar_resnet8", params)
    found, text = run(capsys, tmp_path)
    assert found == code, text
    assert "logits not kept" in text or "params 78042, expected 78043" in text


def test_weights_that_do_not_map_are_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(tmp_path, "ws__cifar_resnet14", 0)
    code, text = run(capsys, tmp_path)
    assert code == 1
    assert "CheckpointError: the weights do not fit the network" in text
    assert "missing: layer1.1.conv1.weight (16, 16, 3, 3)" in text


def test_where_an_ancestor_is_mistaken_ours_follows_the_paper(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(tmp_path, "mz__resnet101v2", 0)
    code, text = run(capsys, tmp_path, "--strict")
    assert code == 0
    assert "ours follows the paper: the ancestor's is built from post-activation blocks" in text
    assert "1 items: 0 ok, 0 wrong, 0 not ours yet, 1 where ours follows the paper" in text


def test_a_network_that_should_follow_the_paper_and_has_another_size_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path, "mz__resnet101v2", 0)
    row = mistake_of("models/mz__resnet101v2")
    monkeypatch.setattr(mistakes, "MISTAKES", (replace(row, parameters=row.parameters + 1),))
    code, text = run(capsys, tmp_path)
    assert code == 1
    assert "wrong: params 44541608, expected 44541609" in text


def test_nothing_to_check_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, tmp_path)[0] == 2
    write_layer(tmp_path, "ws__one")
    code, text = run(capsys, tmp_path, "--only", "pws__*")
    assert code == 2
    assert "--only pws__* matches none of the 1 items" in text


def test_patterns_mean_items_with_and_without_folder() -> None:
    assert matches("models/pws__x", ["pws__*"])
    assert matches("models/pws__x", ["a", "b,models/*"])
    assert not matches("models/pws__x", ["layers/*", "ws__*"])


def test_states_follow_the_rules_of_the_readme() -> None:
    shapes = [("conv.weight", [4, 2, 3, 3]), ("bn.weight", [4]), ("bn.bias", [4]), ("bn.running_var", [4])]
    state = ancestor_state([*shapes, ("bn.num_batches_tracked", []), ("c.alpha", [4, 1, 1, 1])])
    drawn = [
        np.random.Generator(np.random.Philox(key=i)).standard_normal(size=[4, 2, 3, 3][: 4 - 3 * (i > 0)])
        for i in range(4)
    ]
    expected = [drawn[0] * (2 / 18) ** 0.5, 1 + 0.1 * drawn[1], 0.1 * drawn[2], 1 + 0.1 * np.abs(drawn[3])]
    for (name, _), value in zip(shapes, expected, strict=True):
        np.testing.assert_allclose(state[name], value, rtol=1e-6)
    assert state["bn.num_batches_tracked"].dtype == torch.int64
    assert (state["c.alpha"] - 1).abs().max() < 1
    assert golden_images(32).shape == (2, 3, 32, 32)


@needs_golden
@pytest.mark.parametrize(
    "pattern",
    [
        "layers/pws__*,layers/ws__*,layers/pi__WSConv2d*,layers/mz__ResNet*",
        "layers/mz__Oct*,layers/mz__Spl*,layers/mz__Lambda*",
        "layers/mz__Lookahead,layers/mz__SGD*,layers/pi__LSGD*,layers/*_groups",
        "layers/mz__Label*,layers/pi__SoftCross*,layers/mz__mixup*,layers/pi__mixup*,layers/pi__cutmix*",
        "models/pws__cifar_pws*_w16,models/ws__cifar_resnet20,models/ws__cifar_resnet29*,models/mz__resnet18*",
        "checkpoints/pws__*,checkpoints/ws__*",
    ],
)
def test_golden_numbers_hold(capsys: pytest.CaptureFixture[str], pattern: str) -> None:
    code, text = run(capsys, GOLDEN, "--only", pattern, "--strict")
    assert code == 0, text


@needs_golden
def test_every_golden_file_is_an_item() -> None:
    files = [path for kind in ("layers", "models", "checkpoints") for path in (GOLDEN / kind).iterdir()]
    assert len(find_items(GOLDEN, "*")) == len([path for path in files if "expected" not in path.name])
