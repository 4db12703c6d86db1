"""Whole runs: killed and resumed, on other numbers of processes, stopped, and refused."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import launching
import pytest
import torch
from launching import Launch

from scripts.inspect_checkpoint import content_sum
from utils.checkpoint import load_checkpoint
from utils.log import read_history

NETWORK = ["--model", "resnet20", "--img-size", "16", "-b", "8", "-j", "0", "--device", "cpu"]
SCHEDULE = ["--epochs", "2", "--warmup-epochs", "1", "--lr", "0.1", "--log-interval", "3"]


def flags(data: Path, output: Path, *more: str) -> list[str]:
    return [*NETWORK, *SCHEDULE, "--data-dir", str(data), "--output-dir", str(output), *more]


def final(output: Path) -> str:
    return content_sum(load_checkpoint(output / "last.pth"))


def steps_saved(output: Path) -> int:
    return max((int(path.stem[5:]) for path in output.glob("step_*.json")), default=0)


def used_images(output: Path) -> dict[tuple[int, int], list[int]]:
    """(step, shard) -> images, from all ranks' logs; each pair once."""
    lines = [json.loads(line) for path in output.glob("indices_rank*.jsonl") for line in path.read_text().splitlines()]
    found = {(line["step"], line["shard"]): line["indices"] for line in lines}
    assert len(found) == len(lines)
    return found


@pytest.mark.parametrize(("processes", "workers"), [(1, "0"), (2, "1"), (4, "0")])
def test_killed_and_resumed_run_equals_the_run_left_alone(
    processes: int, workers: str, image_folder: Path, image_lmdb: Path, tmp_path: Path
) -> None:
    tricks = ["--model-ema", "--mixup", "0.2", "--label-smoothing", "0.1", "--shards", "4"]
    alone = flags(image_lmdb, tmp_path / "alone", *tricks)
    assert launching.run(processes, alone, tmp_path).codes == [0] * processes
    killed = flags(image_folder, tmp_path / "killed", *tricks, "--save-every", "1", "--resume", "auto", "-j", workers)
    for step in (2, 7):
        run = launching.start(processes, killed, tmp_path)
        run.kill_when(lambda step=step: steps_saved(tmp_path / "killed") >= step)
        assert steps_saved(tmp_path / "killed") < 10
    assert launching.run(processes, killed, tmp_path).codes == [0] * processes
    assert final(tmp_path / "killed") == final(tmp_path / "alone")
    assert told(tmp_path / "killed") == told(tmp_path / "alone")


@pytest.mark.parametrize("engine", ["native", "torch", "dali-cpu"])
def test_run_killed_twice_in_an_epoch_equals_the_run_left_alone_with_every_engine(
    engine: str, image_folder: Path, image_lmdb: Path, tmp_path: Path
) -> None:
    if engine == "native":
        pytest.importorskip("data.region_decoder")
    if engine == "dali-cpu":
        pytest.importorskip("nvidia.dali")
    chosen = ["--loader", engine, "-j", "1", "--epochs", "1", "--warmup-epochs", "0"]
    assert launching.run(1, flags(image_lmdb, tmp_path / "alone", *chosen), tmp_path).codes == [0]
    killed = flags(image_folder, tmp_path / "killed", *chosen, "--save-every", "1", "--resume", "auto")
    for step in (3, 9):
        run = launching.start(1, killed, tmp_path)
        run.kill_when(lambda step=step: steps_saved(tmp_path / "killed") >= step)
        assert steps_saved(tmp_path / "killed") < 20
    assert launching.run(1, killed, tmp_path).codes == [0]
    assert final(tmp_path / "killed") == final(tmp_path / "alone")
    assert told(tmp_path / "killed") == told(tmp_path / "alone")


@pytest.fixture
def broken_folder(image_folder: Path, tmp_path: Path) -> Path:
    """The images with three broken ones in training and two in validation."""
    shutil.copytree(image_folder, tmp_path / "broken")
    for split, count in (("train", 3), ("val", 2)):
        for path in sorted((tmp_path / "broken" / split).glob("*/*.jpg"))[5 : 5 + count]:
            path.write_bytes(path.read_bytes()[:-60])
    return tmp_path / "broken"


def test_bad_images_are_replaced_alike_and_counted_on_any_number_of_processes(
    broken_folder: Path, tmp_path: Path
) -> None:
    skip = ["--on-bad-image", "skip", "--shards", "2", "--exact", "--log-indices"]
    one = launching.run(1, flags(broken_folder, tmp_path / "one", *skip, "--loader", "torch"), tmp_path)
    assert one.codes == [0]
    assert "6 bad images were replaced by others" in one.text  # three in each of two epochs
    assert "(195 images, 2 bad ones left out)" in one.text
    moving = flags(
        broken_folder, tmp_path / "moving", *skip, "--loader", "torch", "--resume", "auto", "--save-every", "1"
    )
    run = launching.start(2, moving, tmp_path)
    run.kill_when(lambda: steps_saved(tmp_path / "moving") >= 4)
    assert launching.run(1, moving, tmp_path).codes == [0]
    assert used_images(tmp_path / "moving") == used_images(tmp_path / "one")
    assert final(tmp_path / "moving") == final(tmp_path / "one")
    assert told(tmp_path / "moving") == told(tmp_path / "one")
    assert load_checkpoint(tmp_path / "one" / "last.pth")["bad_images"] == 6


def test_more_bad_images_than_the_budget_stop_the_run_with_3(broken_folder: Path, tmp_path: Path) -> None:
    skip = ["--on-bad-image", "skip", "--bad-image-budget", "2"]
    run = launching.run(2, flags(broken_folder, tmp_path / "run", *skip), tmp_path)
    assert run.codes == [3, 3]
    assert run.text.count("bad images in 1 epochs, more than --bad-image-budget 2") == 1


def told(output: Path) -> list[dict[str, float]]:
    """The history without what depends on the clock."""
    return [
        {k: v for k, v in line.items() if not k.startswith(("perf", "time", "mem"))} for line in read_history(output)
    ]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_exact_run_has_the_same_bits_at_any_number_of_processes(
    precision: str, image_lmdb: Path, tmp_path: Path
) -> None:
    exact = ["--exact", "--shards", "4", "--precision", precision, "--norm", "pws" if precision == "fp32" else "bn"]
    assert launching.run(1, flags(image_lmdb, tmp_path / "one", *exact), tmp_path).codes == [0]
    moving = flags(image_lmdb, tmp_path / "moving", *exact, "--save-every", "1", "--resume", "auto")
    for processes, step in ((1, 2), (2, 4), (4, 6)):
        run = launching.start(processes, moving, tmp_path)
        run.kill_when(lambda step=step: steps_saved(tmp_path / "moving") >= step)
    assert launching.run(1, moving, tmp_path).codes == [0]
    assert final(tmp_path / "moving") == final(tmp_path / "one")


def test_shards_make_runs_the_same_training_on_any_number_of_processes(image_lmdb: Path, tmp_path: Path) -> None:
    doubles = ["--shards", "2", "--precision", "fp64", "--log-indices", "--epochs", "3"]
    assert launching.run(1, flags(image_lmdb, tmp_path / "one", *doubles), tmp_path).codes == [0]
    moving = flags(image_lmdb, tmp_path / "moving", *doubles, "--save-every", "1", "--resume", "auto")
    for processes, step in ((1, 3), (2, 12)):
        run = launching.start(processes, moving, tmp_path)
        run.kill_when(lambda step=step: steps_saved(tmp_path / "moving") >= step)
    assert launching.run(1, moving, tmp_path).codes == [0]
    assert used_images(tmp_path / "moving") == used_images(tmp_path / "one")
    ours, theirs = (load_checkpoint(tmp_path / name / "last.pth")["state_dict"] for name in ("moving", "one"))
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-9, atol=1e-9, msg=name)


@pytest.fixture(scope="module")
def trained(image_lmdb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two processes."""
    folder = tmp_path_factory.mktemp("trained")
    assert launching.run(2, flags(image_lmdb, folder / "run", "--class-accuracy"), folder).codes == [0, 0]
    return folder / "run"


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_evaluation_counts_each_image_once_and_equals_the_logged_number(
    processes: int, trained: Path, image_lmdb: Path, tmp_path: Path
) -> None:
    measure = ["--evaluate", "--resume", str(trained / "last.pth"), "--data-dir", str(image_lmdb)]
    run = launching.run(processes, measure, tmp_path)
    assert run.codes == [0] * processes
    last = [line for line in read_history(trained) if "val/top1" in line][-1]
    assert f"top-1 {last['val/top1']:.3f} %  top-5 {last['val/top5']:.3f} %  loss {last['val/loss']:.4f}" in run.text
    assert "(197 images)" in run.text


def test_another_trainers_file_of_the_same_weights_measures_the_same(
    trained: Path, image_lmdb: Path, tmp_path: Path
) -> None:
    weights = load_checkpoint(trained / "last.pth")["state_dict"]
    torch.save({"model": {f"module.{name}": value for name, value in weights.items()}}, tmp_path / "theirs.pt")
    measure = [*NETWORK, "--evaluate", "--init-from", str(tmp_path / "theirs.pt"), "--data-dir", str(image_lmdb)]
    run = launching.run(1, measure, tmp_path)
    assert run.codes == [0]
    last = [line for line in read_history(trained) if "val/top1" in line][-1]
    assert f"top-1 {last['val/top1']:.3f} %  top-5 {last['val/top5']:.3f} %  loss {last['val/loss']:.4f}" in run.text


def test_shards_come_from_the_checkpoint_and_more_loaders_than_cores_are_no_news(
    image_lmdb: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    run = launching.start(2, flags(image_lmdb, output, "--save-every", "1"), tmp_path)
    run.kill_when(lambda: steps_saved(output) >= 3)
    run = launching.run(1, flags(image_lmdb, output, "--resume", "auto", "-j", "3"), tmp_path)
    assert run.codes == [0]
    assert "2 shards of 8 images on 1 processes" in run.text
    assert "Warning" not in run.text


def test_class_accuracy_adds_up_to_the_whole(trained: Path) -> None:
    rows = [line.split("\t") for line in (trained / "class_accuracy.tsv").read_text().splitlines()[1:]]
    images, correct = sum(int(row[1]) for row in rows), sum(int(row[2]) for row in rows)
    last = [line for line in read_history(trained) if "val/top1" in line][-1]
    assert images == 197
    assert 100 * correct / images == pytest.approx(last["val/top1"])


def test_finished_run_is_left_as_it_is(trained: Path, image_lmdb: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in trained.iterdir() if path.suffix in (".pth", ".jsonl")}
    again = flags(image_lmdb, trained, "--shards", "2", "--class-accuracy", "--resume", "auto")
    run = launching.run(1, again, tmp_path)
    assert run.codes == [0]
    assert "already complete: 2/2 epochs" in run.text
    assert before == {path.name: path.read_bytes() for path in trained.iterdir() if path.suffix in (".pth", ".jsonl")}


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_signal_to_one_rank_saves_the_same_step_on_all_and_ends_with_75(
    name: str, image_lmdb: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    run = launching.start(2, flags(image_lmdb, output, "--epochs", "200", "--save-every", "1"), tmp_path)
    deadline = time.monotonic() + 60
    while steps_saved(output) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(run.ranks[1].pid, getattr(signal, name))
    assert run.wait(30).codes == [75, 75]
    status = json.loads((output / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("stopped", 75)
    assert load_checkpoint(output / status["checkpoint"])["step"] == status["step"]
    assert len(run.lines) == 1


def test_error_on_one_rank_is_told_once_and_ends_all(image_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(image_folder, broken)
    victim = sorted(broken.glob("train/class_2/*.jpg"))[5]
    victim.write_bytes(victim.read_bytes()[:100])
    started = time.monotonic()
    run = launching.run(2, flags(broken, tmp_path / "run"), tmp_path, 60)
    assert time.monotonic() - started < 40
    assert run.codes == [3, 3]
    (line,) = run.lines
    assert line.startswith("error: rank ")
    assert str(victim) in line
    assert json.loads((tmp_path / "run" / "status.json").read_text())["exit_code"] == 3


def test_killed_rank_ends_the_others_in_ten_seconds(image_lmdb: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    run = launching.start(2, flags(image_lmdb, output, "--epochs", "200", "--save-every", "1"), tmp_path)
    deadline = time.monotonic() + 60
    while steps_saved(output) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(run.ranks[1].pid, signal.SIGKILL)
    run.wait(10)
    assert run.codes == [6, -9]
    assert len(run.lines) == 1
    assert "--resume auto" in run.lines[0]


def failing(run: Launch, code: int, *words: str) -> None:
    """One line, this code, these words."""
    assert run.codes == [code], run.text
    (line,) = run.lines
    assert line.startswith("error: ")
    for word in words:
        assert word in line


MISTAKES = [
    (["--lable-smoothing", "0.1"], 2, ["--lable-smoothing", "did you mean --label-smoothing?"]),
    (["--batch-size", "0"], 2, ["--batch-size 0", "greater than or equal to 1"]),
    (["--label-smoothing", "1.3"], 2, ["--label-smoothing 1.3", "less than 1"]),
    (["--data-dir", "/nowhere"], 2, ["no data set at /nowhere"]),
    (["--resume", "/nowhere/last.pth"], 4, ["no checkpoint at /nowhere/last.pth"]),
    (["--batch-size", "1000"], 2, ["160 training images", "1000"]),
    (["--model", "resnet21"], 2, ["--model resnet21"]),
    (["--shards", "3", "--grad-accum-steps", "2"], 2, ["--shards 3", "--grad-accum-steps 2"]),
    (["--lr-base", "0.1"], 2, ["--lr 0.1", "--lr-base 0.1"]),
    (["--num-classes", "3"], 2, ["--num-classes 3", "4 classes"]),
    (["--warmup-epochs", "2"], 2, ["--warmup-epochs 2"]),
    (["--exact", "--shards", "3"], 2, ["power of two"]),
    (["--norm", "syncbn", "--shards", "2"], 2, ["--norm syncbn", "found 1 and 2"]),
    (["--milestones", "3"], 2, ["--milestones", "--sched step"]),
    (["--model-ema-decay", "0.9"], 2, ["--model-ema-decay 0.9", "--model-ema"]),
    (["--scale", "0.5", "1"], 2, ["--scale", "--train-crop pad"]),
    (["--alpha-wd", "0.1"], 2, ["--alpha-wd 0.1", "pws"]),
    (["--resume-allow", "epoch"], 2, ["--resume-allow epoch", "epochs"]),
    (["--evaluate"], 2, ["--resume"]),
    (["--precision", "tf32"], 7, ["tf32"]),
]


@pytest.mark.parametrize(("mistake", "code", "words"), MISTAKES, ids=lambda value: str(value)[:40])
def test_mistake_is_one_line_with_its_code_and_leaves_nothing(
    mistake: list[str], code: int, words: list[str], image_lmdb: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    failing(launching.run(1, flags(image_lmdb, output, *mistake), tmp_path), code, *words)
    assert not output.exists()


def test_mistyped_recipe_key_is_told_with_the_nearest_name(image_lmdb: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("[optim]\nwieght_decay = 1e-4\n")
    run = launching.run(1, flags(image_lmdb, tmp_path / "run", "--config", str(recipe)), tmp_path)
    failing(run, 2, "recipe.toml", "wieght_decay", "did you mean weight_decay")


def test_start_up_mistake_of_all_ranks_is_told_once(image_lmdb: Path, tmp_path: Path) -> None:
    run = launching.run(2, flags(image_lmdb, tmp_path / "run", "--shards", "3"), tmp_path, 30)
    assert run.codes == [2, 2]
    assert len(run.lines) == 1


def test_unfinished_and_truncated_lmdb_are_refused(image_lmdb: Path, tmp_path: Path) -> None:
    unfinished, truncated = tmp_path / "unfinished", tmp_path / "truncated"
    for copy in (unfinished, truncated):
        shutil.copytree(image_lmdb, copy)
    (unfinished / "train" / "meta.json").unlink()
    failing(launching.run(1, flags(unfinished, tmp_path / "run"), tmp_path), 3, "unfinished")
    os.truncate(truncated / "train" / "data.mdb", 50_000)
    failing(launching.run(1, flags(truncated, tmp_path / "run"), tmp_path), 3, "50000 bytes", "truncated")
    assert not (tmp_path / "run").exists()


def test_class_missing_in_validation_is_refused(image_folder: Path, tmp_path: Path) -> None:
    lacking = tmp_path / "lacking"
    shutil.copytree(image_folder, lacking)
    shutil.rmtree(lacking / "val" / "class_1")
    failing(launching.run(1, flags(lacking, tmp_path / "run"), tmp_path), 2, "class_1")


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, with one checkpoint more: that of its first epoch."""
    shutil.copytree(trained, tmp_path / "copied", symlinks=True)
    return tmp_path / "copied"


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_damaged_checkpoint_is_passed_over_for_the_one_before(copied: Path, image_lmdb: Path, tmp_path: Path) -> None:
    whole = final(copied)
    newest, before = sorted(copied.glob("step_*.pth"), reverse=True)
    flip_a_byte(newest)
    resume = flags(image_lmdb, copied, "--shards", "2", "--resume", "auto")
    run = launching.run(1, resume, tmp_path)
    assert run.codes == [0]
    assert f"warning: passed over a newer checkpoint: {newest} is damaged" in run.text
    assert f"going on from {before}" in run.text
    flip_a_byte(newest)
    flip_a_byte(before)
    failing(launching.run(1, resume, tmp_path), 4, "no checkpoint in", "is good")
    assert whole


def test_resume_of_another_run_names_both_values(copied: Path, image_lmdb: Path, tmp_path: Path) -> None:
    same = flags(image_lmdb, copied, "--shards", "2", "--resume", "auto")
    failing(launching.run(1, [*same, "--model", "resnet32"], tmp_path), 4, "model was resnet20, is resnet32")
    failing(launching.run(1, [*same, "--seed", "7"], tmp_path), 4, "seed was 0, is 7")
    failing(launching.run(1, [*same, "--lr", "0.2"], tmp_path), 4, "lr was 0.1, is 0.2", "--resume-allow lr")
    allowed = [*same, "--lr", "0.2", "--resume-allow", "lr", "--val-interval", "2"]
    assert launching.run(1, allowed, tmp_path).codes == [0]


def test_resume_with_other_images_is_refused(copied: Path, image_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(image_folder, other)
    image = next(other.glob("train/class_0/*.jpg"))
    image.rename(image.with_name("renamed.jpg"))
    resume = flags(other, copied, "--shards", "2", "--resume", "auto")
    failing(launching.run(1, resume, tmp_path), 4, "data was a set with listing")


def test_folder_with_checkpoints_needs_resume(copied: Path, image_lmdb: Path, tmp_path: Path) -> None:
    failing(launching.run(1, flags(image_lmdb, copied), tmp_path), 2, "holds the checkpoints of a run", "--resume auto")


def test_second_run_in_a_folder_is_refused_and_the_first_goes_on(image_lmdb: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    endless = flags(image_lmdb, output, "--epochs", "500", "--save-every", "1")
    first = launching.start(1, endless, tmp_path)
    deadline = time.monotonic() + 60
    while steps_saved(output) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    failing(launching.run(1, [*endless, "--resume", "auto"], tmp_path), 2, "is in use by process")
    reached = steps_saved(output)
    deadline = time.monotonic() + 30
    while steps_saved(output) <= reached and time.monotonic() < deadline:
        time.sleep(0.05)
    assert steps_saved(output) > reached
    first.kill()


def test_poisoned_run_stops_with_5_and_keeps_its_good_checkpoint(image_lmdb: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    mad = flags(image_lmdb, output, "--lr", "1e30", "--epochs", "20", "--save-every", "1", "--norm", "none")
    run = launching.run(1, mad, tmp_path)
    assert run.codes == [5], run.text
    for path in output.glob("step_*.pth"):
        for name, weight in load_checkpoint(path)["state_dict"].items():
            assert weight.isfinite().all(), name
