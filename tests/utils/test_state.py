"""What a checkpoint says of its run, and what it refuses to be resumed as."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from utils import checkpoint, state
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.config.parsing import read_config
from utils.distributed import World
from utils.errors import CheckpointError, NumericsError
from utils.state import Identity, Position, changed_numerics, compared_among_ranks, gather, give_back, numerics

DATA = {"listing": "a" * 64, "content": "b" * 64}


def identity(flags: str = "", shards: int = 4, data: dict[str, str] = DATA) -> Identity:
    return Identity(read_config(flags.split())[0], shards, data)


def refusal(saved: Identity, now: Identity) -> str:
    with pytest.raises(CheckpointError) as error:
        now.refuse_other(saved.facts(), "run/last.pth")
    line = str(error.value)
    assert len(line.splitlines()) == 1
    assert line.startswith("run/last.pth is of another run: ")
    return line


REFUSED = [
    ("--model resnet18", "model was resnet50, is resnet18"),
    ("--norm gn", "norm was bn, is gn"),
    ("--seed 7", "seed was 0, is 7"),
    ("--lr 0.2", "lr was None, is 0.2"),
    ("--momentum 0.8", "momentum was None, is 0.8"),
    ("--epochs 3", "epochs was 90, is 3"),
    ("-b 64", "batch_size was 128, is 64"),
    ("--amp", "precision was fp32, is fp16"),
    ("--milestones 3", "milestones was [30, 60, 80], is [3]"),
    ("--exact", "exact was False, is True"),
]


@pytest.mark.parametrize(("flags", "words"), REFUSED)
def test_another_run_is_refused_with_both_values_and_the_way_out(flags: str, words: str) -> None:
    line = refusal(identity(), identity(flags))
    assert words in line
    name = words.split()[0]
    assert line.endswith(f"--resume-allow {name}")
    identity(f"{flags} --resume-allow {name}").refuse_other(identity().facts(), "x")


def test_all_differences_are_told_at_once() -> None:
    line = refusal(identity(), identity("--seed 7 --lr 0.2", shards=8))
    for words in ("seed was 0, is 7", "lr was None, is 0.2", "shards was 4, is 8"):
        assert words in line


def test_the_same_run_on_another_machine_is_not_refused() -> None:
    flags = "--data-dir elsewhere -j 9 --device cpu --threads 1 --timeout 9 --shards 4 --val-crop 256 --val-interval 3 "
    flags += "--output-dir moved --save-every 5 --keep-epochs 2 --log-interval 1 --log-indices --resume auto --debug"
    identity(flags).refuse_other(identity().facts(), "x")


def test_another_number_of_shards_is_refused() -> None:
    assert "shards was 4, is 8" in refusal(identity(), identity(shards=8))
    identity("--resume-allow shards", shards=8).refuse_other(identity().facts(), "x")


def test_another_data_set_is_refused() -> None:
    other = {"listing": "a" * 64, "content": "c" * 64}
    line = refusal(identity(), identity(data=other))
    assert "data was a set with content bbbbbbbbbbbb, is cccccccccccc" in line
    identity("--resume-allow data", data=other).refuse_other(identity().facts(), "x")


def test_another_teacher_is_refused_and_the_same_elsewhere_is_not() -> None:
    ours, theirs = (dataclasses.replace(identity("--teacher a.pth"), teacher=letter * 64) for letter in "ab")
    assert "teacher was aaaaaaaaaaaa, is bbbbbbbbbbbb" in refusal(ours, theirs)
    assert "teacher was none, is aaaaaaaaaaaa" in refusal(identity(), ours)
    assert "teacher was aaaaaaaaaaaa, is none" in refusal(ours, identity())
    allowed = dataclasses.replace(identity("--teacher a.pth --resume-allow teacher"), teacher="b" * 64)
    allowed.refuse_other(ours.facts(), "x")
    moved = dataclasses.replace(identity("--teacher resnet18 --teacher-weights b.pth"), teacher=ours.teacher)
    moved.refuse_other(ours.facts(), "x")
    older = identity().facts()
    del older["teacher"]
    identity().refuse_other(older, "x")


def test_folder_and_lmdb_of_the_same_images_are_the_same_data() -> None:
    folder = {"listing": "a" * 64}
    identity(data=folder).refuse_other(identity().facts(), "x")
    identity().refuse_other(identity(data=folder).facts(), "x")
    assert "listing" in refusal(identity(), identity(data={"listing": "d" * 64}))


def test_facts_survive_a_checkpoint(tmp_path: Path) -> None:
    facts = identity("--lr 0.2 --scale 0.2 1").facts()
    assert (facts["arch"], facts["seed"], facts["shards"]) == ("resnet50", 0, 4)
    path = save_checkpoint(tmp_path, 1, facts | {"state_dict": {}})
    identity("--lr 0.2 --scale 0.2 1").refuse_other(load_checkpoint(path), path)


def parts(seed: int) -> dict[str, object]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    return {"state_dict": model, "optimizer": optimizer}


def test_what_is_gathered_is_given_back(tmp_path: Path) -> None:
    ours, theirs = parts(0), parts(1)
    position = Position(step=30, epoch=3, best=71.5, best_step=20)
    saved = gather(ours, position, torch.ones(2, 3)) | {"format": 1}
    loaded = load_checkpoint(save_checkpoint(tmp_path, 30, saved))
    assert give_back(theirs, loaded, "x") == position
    for name, value in ours["state_dict"].state_dict().items():
        assert torch.equal(value, theirs["state_dict"].state_dict()[name])
    momenta = [part["optimizer"].state_dict()["state"] for part in (ours, theirs)]
    for number in momenta[0]:
        assert torch.equal(momenta[0][number]["momentum_buffer"], momenta[1][number]["momentum_buffer"])
    assert (loaded["metric"], loaded["epoch"]) == (71.5, 3)
    assert torch.equal(loaded["sums"], torch.ones(2, 3))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_saved(value: float) -> None:
    poisoned = parts(0)
    poisoned["state_dict"][1].running_var[2] = value
    with pytest.raises(NumericsError, match=r"1.running_var is not finite at step 9; no checkpoint is written of it"):
        gather(poisoned, Position(step=9), torch.zeros(1))


def test_network_of_another_shape_is_told_in_one_line() -> None:
    saved = gather(parts(0), Position(), torch.zeros(1))
    other = {"state_dict": nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))}
    with pytest.raises(CheckpointError, match=r"run/x.pth does not fit in state_dict: .*size mismatch") as error:
        give_back(other, saved, "run/x.pth")
    assert len(str(error.value).splitlines()) == 1


def test_part_that_was_not_saved_is_told() -> None:
    saved = gather(parts(0), Position(), torch.zeros(1))
    with pytest.raises(CheckpointError, match="x has no state_dict_ema; it was written without it"):
        give_back(parts(0) | {"state_dict_ema": nn.Linear(1, 1)}, saved, "x")


def test_optimizer_of_other_groups_is_told() -> None:
    saved = gather(parts(0), Position(), torch.zeros(1))
    theirs = parts(0)
    theirs["optimizer"] = torch.optim.SGD([{"params": [p]} for p in theirs["state_dict"].parameters()], lr=0.1)
    with pytest.raises(CheckpointError, match="x does not fit in optimizer: "):
        give_back(theirs, saved, "x")


def test_changes_of_what_bits_depend_on_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    saved = {"numerics": numerics()}
    assert changed_numerics(saved) == ""
    then = copy.deepcopy(saved)
    then["numerics"] |= {"torch": "2.11.0", "threads": "64"}
    told = changed_numerics(then)
    assert f"torch was 2.11.0, is {torch.__version__}" in told
    assert f"threads was 64, is {torch.get_num_threads()}" in told
    assert "python" not in told
    assert all(type(value) is str for value in numerics().values())


def test_numerics_of_an_older_checkpoint_may_lack_a_name() -> None:
    older = {"numerics": {name: value for name, value in numerics().items() if name != "threads"}}
    assert "threads" in changed_numerics(older)


def test_ranks_compare_settings_data_and_versions() -> None:
    world = World(1, 2, 1, torch.device("cpu"))
    facts = compared_among_ranks(identity("--lr 0.2"), world)
    assert facts["--lr"] == "0.2"
    assert facts["data set listing"] == "a" * 64
    assert facts["device"] == "cpu"
    assert facts["torch"] == torch.__version__
    other = compared_among_ranks(identity("--lr 0.3"), world)
    assert {name for name in facts if facts[name] != other[name]} == {"--lr"}
    assert all(type(value) is str for value in facts.values())


def test_format_of_facts_is_the_format_of_checkpoints() -> None:
    assert state.FORMAT == checkpoint.FORMAT
