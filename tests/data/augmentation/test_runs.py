"""Augmentations in whole runs: the same training on any number of processes and workers."""

from pathlib import Path

import launching
import pytest

from scripts.inspect_checkpoint import content_sum
from utils.checkpoint import load_checkpoint

RUN = "--model resnet20 --img-size 16 -b 8 --device cpu --epochs 1 --warmup-epochs 0 --lr 0.1 --shards 2 --exact"


@pytest.mark.parametrize(
    "flags",
    [
        "--color-jitter 0.4 0.4 0.4 0.1 --grayscale 0.2 --gaussian-blur 0.5 --lighting 0.1 --cutout batch",
        "--three-augment --random-erasing 0.5 --erasing-mode pixel --repeated-aug 2",
        "--auto-augment augmix --train-crop random-resized",
    ],
)
def test_augmented_runs_have_the_same_bits_for_0_and_2_workers_and_1_and_2_processes(
    flags: str, image_lmdb: Path, tmp_path: Path
) -> None:
    sums = []
    for processes, workers in ((1, "0"), (1, "2"), (2, "1")):
        output = tmp_path / f"{processes}-{workers}"
        words = [
            *RUN.split(),
            *flags.split(),
            "--data-dir",
            str(image_lmdb),
            "-j",
            workers,
            "--output-dir",
            str(output),
        ]
        run = launching.run(processes, words, tmp_path)
        assert run.codes == [0] * processes, run.text
        sums.append(content_sum(load_checkpoint(output / "last.pth")))
    assert sums[0] == sums[1] == sums[2]
