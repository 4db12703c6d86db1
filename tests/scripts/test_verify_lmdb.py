"""verify_lmdb: what it measures, against numpy; that it finds damage anywhere; that a run goes by what it kept."""

import json
import os
import shutil
from pathlib import Path

import launching
import numpy as np
import pytest
from PIL import Image

from data import datum
from data.lmdb_format import describe, fingerprint, read_index, write_index, write_meta
from data.stores import open_store
from scripts.generate_lmdb import BuildConfig, generate
from scripts.verify_lmdb import LISTED, VerifyConfig, verify
from utils.script import run_script

PAGE = 4096


@pytest.fixture
def built(image_lmdb: Path, tmp_path: Path) -> Path:
    """A data set to damage."""
    return Path(shutil.copytree(image_lmdb, tmp_path / "lmdb"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """An LMDB of noisy JPEGs of several pages each, in two classes, one of which cannot be decoded."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for number in range(6):
            path = tmp_path / "folder" / split / "ab"[number % 2] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(256, size=(90 + number, 120, 3), dtype=np.uint8)).save(path)
    (tmp_path / "folder" / "train" / "a" / "bad.jpg").write_bytes(b"text")
    generate(BuildConfig(tmp_path / "folder", tmp_path / "photos", workers=1, on_bad_image="keep"))
    return tmp_path / "photos"


def wrong(data_dir: Path, capsys: pytest.CaptureFixture[str], **options: object) -> list[str]:
    """What is printed of damage; the exit code fits to it."""
    capsys.readouterr()
    code = verify(VerifyConfig(data_dir, workers=0, **options))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("wrong: ")]
    assert code == (3 if lines else 0)
    return lines


def flip(path: Path, place: int) -> None:
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 0x20]))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_whole_lmdb_is_measured_and_what_was_measured_is_kept(
    workers: int, built: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
):
    assert verify(VerifyConfig(built, workers=workers, classes=True)) == 0
    printed = capsys.readouterr().out
    meta = describe(built / "train").meta
    images = [np.asarray(Image.open(path)) / 255 for path in sorted((image_folder / "train").glob("*/*"))]
    pixels = np.stack(images).reshape(-1, 3)
    assert meta.mean == pytest.approx(pixels.mean(axis=0), abs=1e-6)
    assert meta.std == pytest.approx(pixels.std(axis=0), abs=1e-6)
    assert f"{' '.join(map(str, meta.std))}, kept in meta.json" in printed
    assert meta.fingerprint in printed and printed.count("damage       none") == 2
    assert "4, from 40 (class_0) to 40 (class_0) images" in printed
    assert "    3       40  class_3" in printed and "width        16 16 16 16 16" in printed


def test_sizes_are_those_of_the_images_and_images_that_were_kept_bad_are_no_damage(photos: Path, capsys):
    assert wrong(photos, capsys) == []
    verify(VerifyConfig(photos, workers=0))
    printed = capsys.readouterr().out
    assert "height       90 90 92 95 95" in printed
    assert "undecodable  1 images, kept on purpose" in printed and "undecodable  none" in printed


def test_nothing_is_kept_without_decoding_or_with_damage_or_of_a_read_only_data_set(built: Path, capsys, monkeypatch):
    assert wrong(built, capsys, no_decode=True) == []
    assert describe(built / "train").meta.mean is None

    def refuse(folder: Path, meta: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("scripts.verify_lmdb.write_meta", refuse)
        assert verify(VerifyConfig(built, workers=0)) == 0
    assert "not kept, for meta.json cannot be written: Permission denied" in capsys.readouterr().out
    flip(built / "train" / "data.mdb", _offset(built, 3) + 20)
    assert len(wrong(built, capsys)) == 1
    assert describe(built / "train").meta.mean is None and describe(built / "val").meta.mean is not None


def _offset(data_dir: Path, number: int) -> int:
    return int(read_index(data_dir / "train")["offset"][number])


def test_each_damaged_record_is_a_line(photos: Path, capsys):
    path = photos / "train" / "data.mdb"
    for number in (1, 4):
        flip(path, _offset(photos, number) + 5000)
    label = _offset(photos, 5) + int(read_index(photos / "train")["bytes"][5]) + 1  # its key, then its value
    flip(path, label)
    lines = wrong(photos, capsys, no_decode=True)
    assert [line.split()[2] for line in lines] == ["00000001", "00000004", "00000005"]
    assert "crc32" in lines[0] and "another label or size" in lines[2]


def test_many_damages_are_counted(built: Path, capsys):
    path = built / "train" / "data.mdb"
    for number in range(LISTED + 7):
        flip(path, _offset(built, number) + 20)
    lines = wrong(built, capsys, no_decode=True)
    assert len(lines) == LISTED + 1 and lines[-1] == "wrong: and 7 more"


def test_a_damaged_head_of_any_page_that_is_used_is_found(photos: Path, capsys):
    """LMDB's own engine dies of these; ours goes by index.npy, but must not call them well."""
    path = photos / "train" / "data.mdb"
    content = path.read_bytes()
    heads = [place for place in range(2 * PAGE, len(content), PAGE) if content[place + 10] in (1, 2, 4)]
    heads = [place for place in heads if int.from_bytes(content[place : place + 8], "little") == place // PAGE]
    used = 0
    for place in heads:
        for byte in (0, 10, 12):
            flip(path, place + byte)
            lines = wrong(photos, capsys, no_decode=True)
            used += bool(lines)
            assert not lines or any(f"page {place // PAGE} is not" in line for line in lines)
            path.write_bytes(content)
    assert used >= 3 * 7  # six images in pages of their own, and the leaf that leads to them
    assert wrong(photos, capsys, no_decode=True) == []


def test_damage_of_the_head_of_the_file_is_found(photos: Path, capsys):
    path = photos / "train" / "data.mdb"
    content = path.read_bytes()
    newer = max(0, PAGE, key=lambda place: int.from_bytes(content[place + 144 : place + 152], "little"))
    for field in (92, 94, 96, 104, 112, 120, 128, 136):  # flags, depth, pages of three kinds, records, root, last page
        flip(path, newer + field)
        assert wrong(photos, capsys, no_decode=True), field
        path.write_bytes(content)


def test_a_split_that_cannot_be_opened_is_damage_and_the_other_is_checked(built: Path, capsys):
    os.truncate(built / "train" / "data.mdb", 5000)
    capsys.readouterr()
    assert verify(VerifyConfig(built, workers=0)) == 3
    printed = capsys.readouterr().out
    assert "train: cannot be opened" in printed and "truncated copy" in printed
    assert "val: LMDB" in printed and "damage       none" in printed


def test_an_index_that_says_other_than_the_records_is_found(photos: Path, capsys):
    """A builder that was wrong, or a label that was changed by hand: every checksum of a file is right."""
    split = photos / "train"
    index, meta = read_index(split), describe(split).meta
    for field, told in (("label", "another label or size"), ("offset", "crc32"), ("width", "another label or size")):
        changed = index.copy()
        changed[field][1] = 1 - changed[field][1] if field == "label" else changed[field][1] + 1
        write_index(split, changed)
        write_meta(split, meta)
        lines = wrong(photos, capsys)
        assert told in "".join(lines)
        assert ("has fingerprint" in "".join(lines)) == (field != "offset")
        assert fingerprint(meta.classes, changed) in "".join(lines) or field == "offset"


def test_records_in_other_places_than_the_index_says_are_found(photos: Path, capsys):
    """Two images of the same bytes: reading is right, but the places are exchanged."""
    split = photos / "train"
    index, meta = read_index(split), describe(split).meta
    path = split / "data.mdb"
    content = bytearray(path.read_bytes())
    row, place = (
        index[0],
        int(index["offset"][0]) - datum.prefix(*(int(index[0][n]) for n in ("height", "width", "bytes"))),
    )
    length = int(row["offset"]) + int(row["bytes"]) + 4 - place
    content += bytes(-len(content) % PAGE) + content[place : place + length] + bytes(PAGE)
    moved = len(content) - PAGE - length
    path.write_bytes(content)
    index["offset"][0] = moved + int(row["offset"]) - place
    write_index(split, index)
    write_meta(split, type(meta)(**{**vars(meta), "data_bytes": len(content)}))
    assert open_store(photos, "train").read(0)
    assert any("record 00000000" in line and "not where index.npy says" in line for line in wrong(photos, capsys))


def test_a_folder_is_refused(image_folder: Path, capsys):
    arguments = ["--data-dir", str(image_folder)]
    assert run_script(VerifyConfig, verify, arguments) == 2
    assert "is an image folder, no LMDB" in capsys.readouterr().err


def test_a_run_is_normalized_by_what_was_kept_and_goes_on_with_nothing_else(built: Path, tmp_path: Path):
    run = ["--model", "resnet20", "--img-size", "16", "-b", "80", "-j", "0", "--device", "cpu", "--epochs", "2"]
    run += ["--warmup-epochs", "1", "--data-dir", str(built), "--output-dir", str(tmp_path / "run")]
    assert launching.run(1, run, tmp_path).codes == [0]
    assert _saved(tmp_path)["mean"] == [0.485, 0.456, 0.406]
    assert verify(VerifyConfig(built, workers=0)) == 0
    meta = describe(built / "train").meta
    again = launching.run(1, [*run, "--resume", "auto"], tmp_path)
    assert again.codes == [4] and "mean was [0.485, 0.456, 0.406], is " in again.text
    shutil.rmtree(tmp_path / "run")
    done = launching.run(1, run, tmp_path)
    assert done.codes == [0] and f"normalized by mean {' '.join(map(str, meta.mean))}, standard" in done.text
    assert _saved(tmp_path)["mean"] == list(meta.mean) and _saved(tmp_path)["std"] == list(meta.std)


def _saved(tmp_path: Path) -> dict[str, object]:
    return json.loads((tmp_path / "run" / "config.json").read_text())["data"]
