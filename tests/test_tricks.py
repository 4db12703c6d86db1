"""Every trick in a whole run: killed and resumed it equals the run left alone, on any number of processes.

A trick is a row: its flags. Several that do not touch each other share one, so that there are few runs.
"""

from pathlib import Path

import launching
import pytest
import torch

from scripts.inspect_checkpoint import content_sum
from utils.checkpoint import load_checkpoint

RUN = "--model resnet20 --img-size 16 -b 16 -j 0 --device cpu --epochs 2 --warmup-epochs 1 --lr 0.1 --log-interval 3"
RUN += " --val-interval 2 --val-batch-size 100"

# {teacher} is a file with the weights of a ResNet-20.
TRICKS = {
    "mixing": "--mixup 0.2 --cutmix 1 --mix-switch-prob 0.6 --mix-prob 0.8 --mix-per image --bce --bce-threshold 0.2",
    "cutmix": "--cutmix 1 --mixup-off-epoch 1 --bce --bce-sum --label-smoothing 0.1",
    "distillation": "--teacher resnet20 --teacher-weights {teacher} --distill-alpha 0.3 --distillation-tau 3 --mixup 1",
    "averages": "--model-ema --model-ema-warmup ratio --model-ema-buffers reestimate --swa 1 --swa-lr 0.02",
    "averages of copies": "--model-ema --model-ema-decay 0.9 --model-ema-warmup power --model-ema-buffers copy",
    "dropping": "--dropout 0.2 --drop-path 0.3 --drop-block 0.3 --drop-block-size 3 --ghost-batch 8 --weight-stats",
    "norms": "--precise-bn 3 --bn-momentum 0.2 --bn-eps 1e-4 --model-ema",
    "restarts": "--cycles 2 --cycle-decay 0.5 --cooldown-epochs 0.2 --warmup-method constant --warmup-lr 0.03",
    "loss-scale": "--precision fp16 --loss-scale 128 --norm none -b 8 --epochs 1 --warmup-epochs 0",
    "sam": "--opt nesterov --sam 0.05 --lookahead 3 0.5 --gc all --clip-grad 0.02 --clip-mode agc",
    "el2": "--norm ws --norm-groups 8 --el2 --el2-eps 0.01 --wd-skip fc --no-wd-bias --clip-grad 0.1 --clip-mode value",
    "muon": "--opt muon --lr 0.01 --wd-skip norm bias",
    "adan": "--opt adan --lr 0.001 --lookahead 2 0.8",
    "lamb": "--opt lamb --lr 0.01",
    "augmentation": "--color-jitter 0.4 --rotation 15 --cutout batch --reprob 0.5 --remode pixel --repeated-aug 2",
    "growing": "--auto-augment ra --train-crop random-resized --img-size-start 8 --img-size-ramp 0 1 -j 1",
    "rmsprop_tf": "--opt rmsprop_tf --lr 0.01 --momentum 0.9 --eps 0.001 --gc conv",
}


def steps_saved(output: Path) -> int:
    return max((int(path.stem[5:]) for path in output.glob("step_*.json")), default=0)


def final(output: Path) -> str:
    return content_sum(load_checkpoint(output / "last.pth"))


@pytest.fixture(scope="module")
def plain(image_lmdb: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The sum of a run without tricks."""
    folder = tmp_path_factory.mktemp("plain")
    flags = [*RUN.split(), "--data-dir", str(image_lmdb), "--shards", "2", "--output-dir", str(folder / "run")]
    assert launching.run(1, flags, folder).codes == [0]
    return final(folder / "run")


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_resume_bit_exactly(trick: str, plain: str, teacher: Path, image_lmdb: Path, tmp_path: Path) -> None:
    chosen = TRICKS[trick].format(teacher=teacher).split()
    both = [*RUN.split(), "--data-dir", str(image_lmdb), "--shards", "2", *chosen, "--output-dir"]
    assert launching.run(1, [*both, str(tmp_path / "alone")], tmp_path).codes == [0]
    killed = [*both, str(tmp_path / "killed"), "--save-every", "1", "--resume", "auto"]
    run = launching.start(1, killed, tmp_path)
    run.kill_when(lambda: steps_saved(tmp_path / "killed") >= 4)
    assert 4 <= steps_saved(tmp_path / "killed") < 10, run.text
    resumed = launching.run(1, killed, tmp_path)
    assert resumed.codes == [0], resumed.text
    assert final(tmp_path / "killed") == final(tmp_path / "alone") != plain


TOGETHER = """--mixup 0.2 --cutmix 1 --mix-per image --label-smoothing 0.1 --teacher resnet20
--teacher-weights {teacher} --model-ema --model-ema-warmup ratio --swa 1 --dropout 0.2 --drop-path 0.2 --drop-block 0.3
--ghost-batch 8 --precise-bn 2 --lookahead 3 0.5 --sam 0.05 --gc all --clip-grad 0.02 --clip-mode agc
--wd-skip norm bias --auto-augment ra --cutout square --random-erasing 0.3 --repeated-aug 2 --exact"""


def test_tricks_together_have_the_same_bits_on_one_and_two_processes(
    teacher: Path, image_lmdb: Path, tmp_path: Path
) -> None:
    flags = [*RUN.split(), *TOGETHER.format(teacher=teacher).split(), "--data-dir", str(image_lmdb), "--shards", "2"]
    for processes in (1, 2):
        run = launching.run(processes, [*flags, "--output-dir", str(tmp_path / f"{processes}")], tmp_path)
        assert set(run.codes) == {0}, run.text
    assert final(tmp_path / "1") == final(tmp_path / "2")


def test_resume_with_another_teacher_is_refused_and_the_teacher_is_not_in_the_checkpoint(
    teacher: Path, image_lmdb: Path, tmp_path: Path
) -> None:
    flags = [*RUN.split(), "--data-dir", str(image_lmdb), "--output-dir", str(tmp_path / "run"), "--epochs", "1"]
    flags += ["--warmup-epochs", "0", "--resume", "auto", "--teacher", "resnet20", "--teacher-weights"]
    run = launching.run(1, [*flags, str(teacher)], tmp_path)
    assert run.codes == [0], run.text
    saved = load_checkpoint(tmp_path / "run" / "last.pth")
    assert len(saved["state_dict"]) == len(torch.load(teacher, weights_only=True))
    assert not any("teacher" in name for name in saved if name != "teacher")
    other = torch.load(teacher, weights_only=True)
    other["fc.bias"][0] += 1
    torch.save(other, tmp_path / "other.pth")
    refused = launching.run(1, [*flags, str(tmp_path / "other.pth")], tmp_path)
    assert refused.codes == [4]
    assert "teacher was" in refused.text
    torch.save(torch.load(teacher, weights_only=True), tmp_path / "moved.pth")
    assert launching.run(1, [*flags, str(tmp_path / "moved.pth")], tmp_path).codes == [0]
    none = flags[: flags.index("--teacher")]
    assert launching.run(1, none, tmp_path).codes == [4]
