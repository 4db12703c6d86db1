"""Checkpoints: whole or absent, never executed, and always one good one left."""

import collections
import errno
import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from utils import checkpoint
from utils.checkpoint import Keeper, find_checkpoint, find_newest, load_checkpoint, manifest_of, prune, save_checkpoint
from utils.errors import CheckpointError

ROOT = Path(__file__).resolve().parents[2]


def some_state(step: int = 1, **more: object) -> dict[str, object]:
    """All kinds of things that a checkpoint holds; the weights tell the step."""
    weights = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5) + step
    tensors = {"w": weights, "half": weights.half(), "counter": torch.tensor(step), "last": weights.mT}
    plain = {"format": 1, "arch": "resnet20", "epoch": step, "none": None, "yes": True, "rates": [0.1, (1, "a")]}
    return {"state_dict": tensors, **plain, "nested": {"deep": {0: 1.5}}, **more}


def assert_same(ours: object, theirs: object) -> None:
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    elif isinstance(ours, dict):
        assert list(ours) == list(theirs)
        for key in ours:
            assert_same(ours[key], theirs[key])
    else:
        assert ours == theirs
        assert type(ours) is type(theirs)


def refused(path: Path) -> str:
    """The one line that a file is refused with."""
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    assert error.value.exit_code == 4
    line = str(error.value)
    assert len(line.splitlines()) == 1
    assert path.name in line
    return line


def with_manifest(path: Path, content: bytes) -> Path:
    """A file with a right manifest: what is in it is all that can be wrong."""
    path.write_bytes(content)
    manifest = {"format": 1, "step": 1, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest_of(path).write_text(json.dumps(manifest))
    return path


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    state = some_state(7)
    path = save_checkpoint(tmp_path, 7, state)
    assert path == tmp_path / "step_00000007.pth"
    assert_same(state, load_checkpoint(path))
    assert_same(state, load_checkpoint(tmp_path / "last.pth"))
    assert sorted(os.listdir(tmp_path)) == ["last.pth", "step_00000007.json", "step_00000007.pth"]


def test_states_of_optimizers_and_networks_are_loaded_with_their_bits(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(2, 3, 5, 5)).square().sum().backward()
    optimizer.step()
    state = {"format": 1, "state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}
    loaded = load_checkpoint(save_checkpoint(tmp_path, 1, state))
    assert_same(dict(state["state_dict"]), dict(loaded["state_dict"]))
    assert_same(state["optimizer"], loaded["optimizer"])
    assert loaded["state_dict"]["0.weight"].is_contiguous(memory_format=torch.channels_last)


def test_manifest_tells_size_and_sum(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 7, some_state(7))
    content = path.read_bytes()
    expected = {"format": 1, "step": 7, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert json.loads((tmp_path / "step_00000007.json").read_text()) == expected


def test_same_content_has_the_same_bytes_under_any_name(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    ours, theirs = save_checkpoint(tmp_path, 1, some_state()), save_checkpoint(tmp_path / "other", 22, some_state())
    assert ours.name != theirs.name
    assert ours.read_bytes() == theirs.read_bytes()


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, some_state())
    size = path.stat().st_size
    for kept in (size - 1, size // 2, 0):
        os.truncate(path, kept)
        assert f"is damaged: it has {kept} bytes, {size} were written" in refused(path)


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, some_state())
    content = path.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(content), 60):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(place) % 8
        path.write_bytes(flipped)
        assert "is damaged: its sha256 is" in refused(path)
    path.write_bytes(content)
    assert load_checkpoint(path)["epoch"] == 1


def test_file_without_manifest_does_not_exist(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, some_state(1))
    newer = save_checkpoint(tmp_path, 2, some_state(2))
    manifest_of(newer).unlink()
    found = find_newest(tmp_path)
    assert (found.path.name, found.passed_over) == ("step_00000001.pth", ())
    assert "has no readable manifest step_00000002.json" in refused(newer)
    manifest_of(found.path).unlink()
    assert find_newest(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "{}", '{"size": 3}', "\x00", "[]"])
def test_unreadable_manifest_is_told(text: str, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, some_state())
    manifest_of(path).write_text(text)
    assert "has no readable manifest" in refused(path)


def test_missing_file_is_told(tmp_path: Path) -> None:
    assert "no checkpoint at" in refused(tmp_path / "missing.pth")
    assert "no checkpoint at" in refused(tmp_path)


class Evil:
    """What a pickle may do to whoever loads it."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def saved(content: object, **options: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["pickle", "zip", "legacy", "inside a state"])
@pytest.mark.parametrize("forced", [False, True])
def test_malicious_file_is_refused_and_not_executed(
    kind: str, forced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "executed"
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    content = {
        "pickle": lambda: pickle.dumps(Evil(marker)),
        "zip": lambda: saved(Evil(marker)),
        "legacy": lambda: saved(Evil(marker), _use_new_zipfile_serialization=False),
        "inside a state": lambda: saved(some_state(evil=Evil(marker))),
    }[kind]()
    line = refused(with_manifest(tmp_path / "step_00000001.pth", content))
    assert "is not a checkpoint of this trainer" in line
    assert not marker.exists()
    pickle.loads(pickle.dumps(Evil(marker)))
    assert marker.exists(), "the trap does not work"


def test_malicious_file_is_not_executed_in_a_process_born_with_the_variable(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    path = with_manifest(tmp_path / "step_00000001.pth", saved(Evil(marker)))
    code = (
        f"from pathlib import Path; from utils.checkpoint import load_checkpoint; load_checkpoint(Path({str(path)!r}))"
    )
    environment = os.environ | {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 1
    assert "CheckpointError" in run.stderr.splitlines()[-1]
    assert not marker.exists()


def scripted() -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), file)
    return file.getvalue()


STRANGERS = {
    "empty": b"",
    "text": b"hello\n",
    "html": b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n",
    "json": b'{"format": 1, "state_dict": {}}',
    "zip without content": b"PK\x05\x06" + bytes(18),
    "gzip": b"\x1f\x8b\x08\x00" + bytes(30),
    "zeros": bytes(4096),
    "LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n",
}


@pytest.mark.parametrize("name", STRANGERS)
def test_files_that_are_something_else_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    path = with_manifest(tmp_path / "step_00000001.pth", STRANGERS[name])
    assert "is not a checkpoint of this trainer" in refused(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_torchscript_is_refused_in_one_line(tmp_path: Path) -> None:
    assert "is not a checkpoint of this trainer" in refused(with_manifest(tmp_path / "step_00000001.pth", scripted()))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_random_bytes_are_refused_in_one_line(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for number in range(300):
        content = draw.bytes(int(draw.integers(1, 200)))
        start = [b"", b"\x80\x02", b"PK\x03\x04", b"\x80\x02}q\x00("][number % 4]
        refused(with_manifest(tmp_path / "step_00000001.pth", start + content))


@pytest.mark.parametrize("state", [[1], {"weights": torch.ones(1)}, {"state_dict": {}}, {"format": 1}, torch.ones(2)])
def test_other_states_are_refused(state: object, tmp_path: Path) -> None:
    path = with_manifest(tmp_path / "step_00000001.pth", saved(state))
    assert "it has no format and state_dict" in refused(path)


def test_newer_format_is_refused_with_both_numbers(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, some_state(format=2))
    assert "has format 2, this version reads up to 1" in refused(path)


Pair = collections.namedtuple("Pair", "a b")
ODD = {
    "numpy number": np.float64(1),
    "numpy array": np.ones(2),
    "path": Path("x"),
    "set": {1},
    "class": Evil(Path("x")),
    "torch size": torch.device("cpu"),
    "function": len,
    "pair": Pair(1, 2),
    "defaultdict": collections.defaultdict(list),
}


@pytest.mark.parametrize("name", ODD)
def test_what_could_not_be_loaded_is_not_saved(name: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"state\.nested.* is a .*, which a checkpoint must not hold"):
        save_checkpoint(tmp_path, 1, some_state(nested={"part": [ODD[name]]}))
    assert os.listdir(tmp_path) == []


class FullDisk(io.FileIO):
    """A file on a disk that takes 1,000 bytes more."""

    def write(self, data: bytes) -> int:
        if self.tell() + len(data) > 1000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def fill(monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """From now on files with names that end like this are on a full disk."""
    real = open

    def opened(path: object, mode: str = "r", *rest: object, **more: object) -> object:
        full = mode == "wb" and str(path).endswith(suffix)
        return FullDisk(path, "w") if full else real(path, mode, *rest, **more)

    monkeypatch.setattr("utils.files.open", opened, raising=False)


def test_full_disk_keeps_the_checkpoint_before_and_names_the_free_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, 1, some_state(1))
    before = sorted(os.listdir(tmp_path))
    fill(monkeypatch, ".pth.staged.tmp")
    with pytest.raises(CheckpointError) as error:
        save_checkpoint(tmp_path, 2, some_state(2))
    line = str(error.value)
    assert len(line.splitlines()) == 1
    for words in ("step_00000002.pth could not be written", "No space left on device", "MiB are free"):
        assert words in line
    assert sorted(os.listdir(tmp_path)) == before
    assert find_newest(tmp_path).state["epoch"] == 1


def test_disk_without_room_for_another_is_told_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_checkpoint(tmp_path, 1, some_state(1))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=path.stat().st_size))
    with pytest.raises(CheckpointError, match=r"no space for a checkpoint in .*: need 0.0 MiB, have 0.0 MiB"):
        save_checkpoint(tmp_path, 2, some_state(2))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2 * path.stat().st_size))
    save_checkpoint(tmp_path, 2, some_state(2))


def test_full_disk_keeps_the_checkpoint_of_the_same_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run stopped at the end of an epoch saves that step again once it is resumed and validated."""
    save_checkpoint(tmp_path, 1, some_state(1))
    fill(monkeypatch, ".pth.staged.tmp")
    with pytest.raises(CheckpointError):
        save_checkpoint(tmp_path, 1, some_state(2))
    assert find_newest(tmp_path).state["epoch"] == 1
    assert load_checkpoint(tmp_path / "last.pth")["epoch"] == 1


def test_step_saved_again_is_the_new_one(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, some_state(1))
    save_checkpoint(tmp_path, 1, some_state(5))
    assert find_newest(tmp_path).state["epoch"] == 5


def test_newest_good_one_is_found_and_the_bad_ones_are_told(tmp_path: Path) -> None:
    paths = [save_checkpoint(tmp_path, step, some_state(step)) for step in (9, 10, 100)]
    assert find_newest(tmp_path).path == paths[2]
    os.truncate(paths[2], 10)
    found = find_newest(tmp_path)
    assert (found.path, found.state["epoch"]) == (paths[1], 10)
    (told,) = found.passed_over
    assert str(paths[2]) in told
    assert "is damaged" in told
    for path in paths[:2]:
        os.truncate(path, 10)
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is good") as error:
        find_newest(tmp_path)
    assert all(path.name in str(error.value) for path in paths)
    assert len(str(error.value).splitlines()) == 1


def test_resume_names_what_is_looked_for(tmp_path: Path) -> None:
    assert find_checkpoint(None, tmp_path) is None
    assert find_checkpoint("auto", tmp_path) is None
    save_checkpoint(tmp_path, 3, some_state(3))
    save_checkpoint(tmp_path, 4, some_state(4))
    assert find_checkpoint(None, tmp_path) is None
    assert find_checkpoint("auto", tmp_path).state["epoch"] == 4
    assert find_checkpoint(str(tmp_path / "step_00000003.pth"), tmp_path / "elsewhere").state["epoch"] == 3
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        find_checkpoint(str(tmp_path / "missing.pth"), tmp_path)


def steps(folder: Path) -> list[int]:
    """The steps whose checkpoint is there; file and manifest go together."""
    files, manifests = ({path.stem for path in folder.glob(f"step_*.{kind}")} for kind in ("pth", "json"))
    assert files == manifests
    return sorted(int(name[5:]) for name in files)


def test_two_newest_and_linked_ones_are_kept(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, keep_epochs=2)
    best_of = {1: True, 2: False, 3: True}
    for epoch in range(1, 8):
        keeper.save(10 * epoch, some_state(epoch), best_of.get(epoch, False), end_of_epoch=True)
        keeper.save(10 * epoch + 5, some_state(epoch), False, end_of_epoch=False)
        assert keeper.failed is None
    assert steps(tmp_path) == [20, 30, 40, 60, 70, 75]
    linked = {path.name: os.readlink(path) for path in tmp_path.glob("*.pth") if path.is_symlink()}
    assert linked == {
        "last.pth": "step_00000075.pth",
        "best.pth": "step_00000030.pth",
        "epoch_0002.pth": "step_00000020.pth",
        "epoch_0004.pth": "step_00000040.pth",
        "epoch_0006.pth": "step_00000060.pth",
    }
    assert load_checkpoint(tmp_path / "best.pth")["epoch"] == 3


def test_leftovers_of_a_killed_save_are_removed(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, some_state(step))
    for name in ("step_00000004.pth.tmp", "step_00000004.json.tmp"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / "last.pth.tmp").symlink_to("step_00000003.pth")
    (tmp_path / "notes.txt").write_text("mine")
    prune(tmp_path)
    assert not list(tmp_path.glob("*.tmp"))
    assert steps(tmp_path) == [2, 3]
    assert (tmp_path / "notes.txt").exists()


def test_files_that_a_killed_save_left_without_manifest_are_removed(tmp_path: Path) -> None:
    orphan = save_checkpoint(tmp_path, 1, some_state(1))
    manifest_of(orphan).unlink()
    for step in (2, 3, 4):
        save_checkpoint(tmp_path, step, some_state(step))
    prune(tmp_path)
    assert not orphan.exists()


def test_damaged_file_does_not_count_as_one_of_the_two(tmp_path: Path) -> None:
    """Without a manifest it does not exist: the two before it are the newest."""
    for step in (1, 2, 3):
        newest = save_checkpoint(tmp_path, step, some_state(step))
    manifest_of(newest).unlink()
    prune(tmp_path)
    assert [path.stem for path in sorted(tmp_path.glob("step_*.json"))] == ["step_00000001", "step_00000002"]


def test_failed_save_is_remembered_until_one_succeeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Keeper(tmp_path, keep_epochs=0)
    keeper.save(1, some_state(1), True, True)
    fill(monkeypatch, ".pth.staged.tmp")
    keeper.save(2, some_state(2), True, True)
    assert "No space left" in str(keeper.failed)
    assert os.readlink(tmp_path / "best.pth") == "step_00000001.pth"
    monkeypatch.undo()
    keeper.save(3, some_state(3), False, True)
    assert keeper.failed is None
    assert steps(tmp_path) == [1, 3]


def test_link_that_the_disk_does_not_take_is_remembered_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper, real = Keeper(tmp_path, keep_epochs=0), checkpoint.link_atomically

    def link(name: Path, target: Path) -> None:
        if name.name == "best.pth":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(name, target)

    monkeypatch.setattr(checkpoint, "link_atomically", link)
    keeper.save(1, some_state(1), True, True)
    assert "No space left" in str(keeper.failed)
