"""evaluate_knn: real images, what enters the classifier, files with and without one, and mistakes in one line."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models import build_model
from scripts.evaluate_knn import NeighbourConfig, evaluate
from utils.config import ModelConfig
from utils.neighbours import directions
from utils.script import run_script

VAL_STRIDE, SIDE = 5, 32


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 scans of handwritten digits, 8x8 pixels made 32x32, as scripts.demo writes them."""
    found = pytest.importorskip("sklearn.datasets").load_digits()
    folder = tmp_path_factory.mktemp("digits")
    for number, (pixels, label) in enumerate(zip(found.images[:600], found.target[:600], strict=True)):
        path = folder / ("train" if number % VAL_STRIDE else "val") / str(label) / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((255 * pixels / 16).round().astype(np.uint8)).convert("RGB")
        image.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fresh weights: even so, a network's features of equal digits are more alike than of others."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "fresh.pth"
    torch.save(build_model(ModelConfig(model="resnet20"), 10).state_dict(), path)
    return path


def command(*words: object) -> int:
    return run_script(NeighbourConfig, evaluate, [*map(str, words)])


def told(capsys: pytest.CaptureFixture[str]) -> tuple[float, float]:
    """Top-1 and top-5 of the last line, percent."""
    words = capsys.readouterr().out.splitlines()[-1].replace(",", "").split()
    return float(words[words.index("top-1") + 1]), float(words[words.index("top-5") + 1])


def test_validation_images_are_told_by_training_images(digits: Path, weights: Path, capsys) -> None:
    flags = ("--model", "resnet20", "--data-dir", digits, "--img-size", SIDE, "--neighbours", 5)
    assert command("--init-from", weights, *flags) == 0
    top1, top5 = told(capsys)
    assert 50 < top1 < top5 <= 100


def test_a_file_of_features_alone_tells_the_same(digits: Path, weights: Path, tmp_path: Path, capsys) -> None:
    state = torch.load(weights, weights_only=True)
    torch.save({name: value for name, value in state.items() if not name.startswith("fc.")}, tmp_path / "f.pth")
    flags = ("--model", "resnet20", "--data-dir", digits, "--img-size", SIDE, "--neighbours", 5)
    assert command("--init-from", weights, *flags) == command("--init-from", tmp_path / "f.pth", *flags) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == lines[2:]


def test_leave_one_out_is_counted_without_oneself(digits: Path, weights: Path, tmp_path: Path, capsys) -> None:
    """Against a network whose features are computed here, in a loop over images."""
    (tmp_path / "val").symlink_to(digits / "val")  # training images need not exist
    flags = ("--model", "resnet20", "--data-dir", tmp_path, "--img-size", SIDE, "--neighbours", 1, "--leave-one-out")
    assert command("--init-from", weights, *flags) == 0
    top1, _ = told(capsys)
    model = build_model(ModelConfig(model="resnet20"), 10)
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.fc = torch.nn.Identity()
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    paths = sorted((digits / "val").glob("*/*.png"))
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(path))) for path in paths]) / 255
    with torch.no_grad():
        features = directions(model.eval()(((pixels - mean) / std).permute(0, 3, 1, 2)))
    cosines = (features @ features.T).fill_diagonal_(-1)
    labels = torch.tensor([int(path.parent.name) for path in paths])
    expected = 100 * (labels[cosines.argmax(1)] == labels).double().mean().item()
    assert top1 == pytest.approx(expected, abs=1.0)  # percent; equal images may be ranked in another order


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--neighbours", 481), "--neighbours 481: there are only 480 other images"),
        (("--neighbours", 120, "--leave-one-out"), "there are only 119 other images"),
        (("--norm", "gn", "--norm-groups", 8), "do not fit the network"),
    ],
)
def test_mistakes_are_one_line(digits: Path, weights: Path, capsys, words: tuple[object, ...], reason: str) -> None:
    flags = ("--model", "resnet20", "--data-dir", digits, "--img-size", SIDE)
    assert command("--init-from", weights, *flags, *words) in (2, 4)
    complaint = capsys.readouterr().err
    assert reason in complaint
    assert complaint.count("\n") == 1
