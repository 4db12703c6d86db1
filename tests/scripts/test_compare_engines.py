"""compare_engines: what it finds of engines that agree, of those that do not, and what it refuses."""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data import loaders
from data.batches import Batch
from data.header import JpegHeader
from data.order import Request
from data.source import Source
from data.torch_loader import TorchLoader
from models import build_model
from scripts import compare_engines
from scripts.compare_engines import LIMIT, CompareConfig, Pair, compare
from utils.checkpoint import save_checkpoint
from utils.config import Config
from utils.config.data import DataConfig
from utils.config.model import ModelConfig
from utils.config.parsing import settings_of
from utils.errors import EnvironmentFault
from utils.script import run_script


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """9 training and 7 validation JPEGs of soft colours, one of each cut off."""
    rows, columns = np.mgrid[:70, :90]
    for split, count in (("train", 9), ("val", 7)):
        for number in range(count):
            waves = [127 + 90 * np.sin(rows / (5 + number) + columns / (9 + channel)) for channel in range(3)]
            path = tmp_path / "images" / split / "ab"[number % 2] / f"{number}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.stack(waves, 2).astype(np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:-300])
    return tmp_path / "images"


def config_of(images: Path, **others: object) -> CompareConfig:
    usual = {"engines": ("torch", "dali-cpu"), "img_size": 72, "batch_size": 4, "workers": 0}
    return CompareConfig(**{"data_dir": images, **usual, **others})


class Changed:
    """The torch engine, but for what `change` does to its batches."""

    def __init__(self, source: Source, change: Callable[[Batch], Batch]) -> None:
        self.loader, self.change = TorchLoader(source, 0), change

    def batches(self, requests: Iterable[Request]) -> Iterator[Batch]:
        return map(self.change, self.loader.batches(requests))


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Batch], Batch]], None]:
    """Puts the torch engine with changed batches in the place of DALI's: changed(change)."""
    return lambda change: monkeypatch.setitem(loaders.ENGINES, "dali-cpu", lambda source, _: Changed(source, change))


def test_engines_that_are_here_agree_on_images_and_on_bad_ones(images: Path, capsys: pytest.CaptureFixture[str]):
    assert compare(config_of(images, engines=("native", "torch", "dali-cpu"), img_size=96)) == 0
    text = capsys.readouterr().out
    assert "train: 9 crops of 96 pixels, windows identical" in text
    assert "val: 7 crops of 96 pixels, windows identical" in text
    means = [float(mean) for mean in re.findall(r"mean difference ([\d.]+) of 255", text)]
    assert means and max(means) <= LIMIT and "MISSED" not in text and text.endswith("any two engines\n")


def brighter(share: int) -> Callable[[Batch], Batch]:
    """Adds 10 to each `share`-th column: `10 / share` in the mean."""

    def change(batch: Batch) -> Batch:
        images = batch.images.clone()
        images[:, :, ::share] += 10  # the waves end at 217
        return batch._replace(images=images)

    return change


@pytest.mark.parametrize(("share", "code", "mean"), [(8, 1, "1.2500"), (72, 0, "0.1389")])
def test_a_difference_is_measured_and_held_against_the_limit(
    share: int, code: int, mean: str, images: Path, changed: Callable, capsys: pytest.CaptureFixture[str]
):
    changed(brighter(share))
    assert compare(config_of(images)) == code
    text = capsys.readouterr().out
    assert text.count(f"torch - dali-cpu     mean difference {mean} of 255, largest 10, most in {images}/") == 2
    assert text.count("MISSED") == 3 * code


def test_an_image_that_one_engine_refuses_is_named(images: Path, changed: Callable, capsys: pytest.CaptureFixture[str]):
    def refuse_the_first(batch: Batch) -> Batch:
        kept = batch.indices != 0
        return Batch(batch.images[kept], batch.labels[kept], batch.indices[kept], batch.indices[~kept])

    for split in ("train", "val"):  # none is bad for both
        for path in (images / split).glob("*/*"):
            if not path.read_bytes().endswith(b"\xff\xd9"):
                path.unlink()
    changed(refuse_the_first)
    assert compare(config_of(images)) == 1
    text = capsys.readouterr().out
    assert f"1 images are refused by one only, or have other labels: {images}/train/a/0.JPEG" in text
    assert "mean difference 0.0000 of 255" in text and "MISSED" in text


def test_other_windows_are_noticed(images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def turned(encoded: bytes, name: str) -> JpegHeader:
        return JpegHeader(width=70, height=90, plain=True, progressive=False, scan=0)

    monkeypatch.setattr(compare_engines, "read_jpeg_header", turned)
    monkeypatch.setitem(loaders.ENGINES, "dali-cpu", loaders.ENGINES["torch"])
    assert compare(config_of(images)) == 1
    assert "val: 7 crops of 72 pixels, 6 windows differ" in capsys.readouterr().out  # the seventh is bad


def test_pairs_are_compared_image_by_image():
    draw = np.random.default_rng(0)
    left, right = (torch.from_numpy(draw.integers(256, size=(4, 5, 5, 3), dtype=np.uint8)) for _ in range(2))
    labels, none = torch.arange(4), torch.empty(0, dtype=torch.int64)
    pair = Pair(("one", "other"))
    pair.add(
        Batch(left, labels, torch.tensor([7, 8, 9, 3]), none), Batch(right, labels, torch.tensor([7, 8, 9, 3]), none)
    )
    difference = np.abs(left.numpy().astype(float) - right.numpy())
    assert pair.mean == pytest.approx(difference.mean(), rel=1e-6) and pair.most == difference.max()
    means = difference.mean((1, 2, 3))
    assert pair.index == [7, 8, 9, 3][means.argmax()] and pair.worst == pytest.approx(means.max(), rel=1e-6)
    # In another order, and one left out, they are matched by their numbers.
    again = Pair(("one", "other"))
    order = [3, 1, 0]
    again.add(
        Batch(left, labels, torch.tensor([7, 8, 9, 3]), none),
        Batch(right[order], labels[order], torch.tensor([3, 8, 7]), torch.tensor([9])),
    )
    assert again.mean == pytest.approx(means[order].mean(), rel=1e-6) and again.disputed == {9}


def test_absent_engines_are_named_with_the_reason(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def absent(source: Source, threads: int) -> TorchLoader:
        raise EnvironmentFault("it was not built")

    monkeypatch.setitem(loaders.ENGINES, "native", absent)
    monkeypatch.setitem(loaders.ENGINES, "dali-cpu", loaders.ENGINES["torch"])
    assert compare(config_of(images, engines=("native", "torch", "dali-cpu"))) == 0
    assert capsys.readouterr().out.count("native is absent: it was not built\n") == 1


MISTAKES = {
    "one engine": (["--engines", "torch"], "two are needed"),
    "unknown engine": (["--engines", "torch", "dali"], "--engines dali is not known; did you mean dali-"),
    "no data": (["--data-dir", "/nowhere"], "no data set at /nowhere"),
    "no folder for the picture": (["--output", "/nowhere/worst.png"], "must be a .png in a folder that exists"),
}


@pytest.mark.parametrize(("flags", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_told_in_one_line(
    flags: list[str], message: str, images: Path, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("matplotlib")
    given = [] if "--data-dir" in flags else ["--data-dir", str(images)]
    assert run_script(CompareConfig, compare, [*given, *flags, "--workers", "0"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_worst_image_is_drawn_by_each_engine_and_the_difference(images: Path, changed: Callable, tmp_path: Path):
    pytest.importorskip("matplotlib")

    def brighter_three(batch: Batch) -> Batch:
        return brighter(2)(batch) if 3 in batch.indices else batch

    changed(brighter_three)
    assert compare(config_of(images, batch_size=1, output=tmp_path / "worst.png")) == 1
    width, height = Image.open(tmp_path / "worst.png").size
    assert width > 2 * height


def test_a_network_gives_its_accuracy_by_each_engine(
    images: Path, changed: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """One that takes every image for class 1, whatever it shows."""
    model = ModelConfig(model="resnet20")
    channels = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}
    config = Config(model=model, data=DataConfig(img_size=72, data_dir="elsewhere", **channels))
    torch.manual_seed(0)
    network = build_model(model, 2)
    torch.nn.init.zeros_(network.fc.weight)
    network.fc.bias.data = torch.tensor([0.0, 1.0])
    position = {"step": 1, "epoch": 0, "metric": 0.0, "metric_step": -1, "bad_images": 0}
    state = {"format": 1, "config": settings_of(config), "state_dict": network.state_dict(), **position}
    path = save_checkpoint(tmp_path, 1, state)
    changed(brighter(72))
    assert compare(config_of(images, img_size=None, checkpoint=path)) == 0
    # Numbers 1, 3 and 5 of 6 are of class b; number 6 is bad.
    expected = r"images/s, top-1 50\.000 % \(\+0\.000, 0 of 6 answers differ\)"
    assert len(re.findall(expected, capsys.readouterr().out)) == 2
