"""LMDBs as generate_lmdb writes them, whole and damaged."""

import dataclasses
import io
import json
import multiprocessing
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import lmdb
import numpy as np
import pytest

from data import datum
from data.lmdb_format import RECORD, describe, read_index, write_index, write_meta
from data.lmdb_pages import places, read_head
from data.lmdb_store import LmdbStore
from data.lmdb_writer import build, write_split
from data.stores import open_store
from utils.errors import DataError, EnvironmentFault, UsageError


@pytest.fixture
def built(folder: Path, lmdb_of: Callable[[Path], Path]) -> Path:
    return lmdb_of(folder)


def test_lmdb_and_folder_hold_the_same(folder: Path, built: Path):
    for split in ("train", "val"):
        ours, theirs = open_store(built, split), open_store(folder, split)
        assert isinstance(ours, LmdbStore)
        assert ours.classes == theirs.classes and np.array_equal(ours.labels, theirs.labels)
        assert [ours.read(i) for i in range(len(ours))] == [theirs.read(i) for i in range(len(theirs))]
        assert ours.identity()["listing"] == theirs.identity()["listing"]


def test_content_fingerprint_does_not_depend_on_workers_but_on_every_image(folder: Path, built: Path, tmp_path: Path):
    content = open_store(built, "val").identity()["content"]
    build({"val": open_store(folder, "val")}, tmp_path / "again", 2, lambda split, done: None)
    assert open_store(tmp_path / "again", "val").identity()["content"] == content
    shutil.copy(folder / "val" / "a" / "00.JPEG", folder / "val" / "a" / "03.JPEG")
    build({"val": open_store(folder, "val")}, tmp_path / "other", 0, lambda split, done: None)
    assert open_store(tmp_path / "other", "val").identity()["content"] != content


def test_index_holds_label_size_and_checksum_of_each_image(folder: Path, built: Path):
    index = np.load(built / "train" / "index.npy", allow_pickle=False)
    names = sorted((folder / "train").glob("*/*"))
    assert index.dtype == RECORD and index["bytes"].tolist() == [path.stat().st_size for path in names]
    assert index["width"].tolist() == [40 + 7 * int(path.stem) for path in names]
    assert index["height"].tolist() == [90 - 4 * int(path.stem) for path in names]


def test_a_map_that_is_too_small_grows(folder: Path, tmp_path: Path):
    written = write_split(open_store(folder, "train"), tmp_path, 0, lambda done: None, map_size=20_480)
    with lmdb.open(str(tmp_path), readonly=True, lock=False) as environment:
        assert environment.stat()["entries"] == written.count == 12
        assert environment.info()["map_size"] > 20_480


def test_stores_of_the_same_lmdb_work_side_by_side_and_in_forked_and_spawned_processes(built: Path):
    first, second = open_store(built, "train"), open_store(built, "train")
    expected = first.read(3)
    assert second.read(3) == expected
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(first.read, [3, 3, 3]) == [expected] * 3
            assert pool.map(open_store(built, "train").read, [3]) == [expected]
    assert pickle.loads(pickle.dumps(second)).read(3) == expected


def test_an_lmdb_that_was_removed_and_built_again_is_read_anew(folder: Path, built: Path, lmdb_of):
    before = open_store(built, "train")
    before.read(0)
    shutil.rmtree(built)
    shutil.copy(folder / "train" / "c" / "02.JPEG", folder / "train" / "a" / "00.JPEG")
    lmdb_of(folder)
    assert open_store(built, "train").read(0) == (folder / "train" / "c" / "02.JPEG").read_bytes()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may drop its rights to write")
def test_an_lmdb_is_read_without_permission_to_write(built: Path):
    def read_as_nobody(data_dir: Path) -> None:
        os.setuid(65534)
        assert not os.access(data_dir / "train", os.W_OK)
        assert open_store(data_dir, "train").read(0)

    with tempfile.TemporaryDirectory() as public:  # tmp_path is closed to others
        os.chmod(public, 0o755)
        shutil.copytree(built, f"{public}/lmdb")
        process = multiprocessing.get_context("fork").Process(target=read_as_nobody, args=(Path(public) / "lmdb",))
        process.start()
        process.join()
    assert process.exitcode == 0


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no meta.json": (lambda split: (split / "meta.json").unlink(), "no meta.json: build unfinished after 12 records"),
    "half of data.mdb": (lambda split: os.truncate(split / "data.mdb", 8192), "8192 bytes, needs .* truncated copy"),
    "a byte of data.mdb missing": (
        lambda split: os.truncate(split / "data.mdb", (split / "data.mdb").stat().st_size - 1),
        "truncated copy",
    ),
    "less than a page of data.mdb": (lambda split: os.truncate(split / "data.mdb", 1000), "truncated copy"),
    "empty data.mdb": (lambda split: os.truncate(split / "data.mdb", 0), "truncated copy"),
    "no data.mdb": (lambda split: (split / "data.mdb").unlink(), "without data.mdb"),
    "data.mdb of another kind": (lambda split: (split / "data.mdb").write_bytes(b"x" * 9999), "is no LMDB"),
    "no index.npy": (lambda split: (split / "index.npy").unlink(), "index.npy cannot be read"),
    "half of index.npy": (lambda split: os.truncate(split / "index.npy", 200), "index.npy cannot be read"),
    "empty index.npy": (lambda split: os.truncate(split / "index.npy", 0), "index.npy cannot be read"),
    "pickled index.npy": (
        lambda split: np.save(split / "index.npy", np.array([{}]), allow_pickle=True),
        "index.npy cannot be read",
    ),
    "index.npy of numbers": (lambda split: np.save(split / "index.npy", np.zeros(12)), "does not hold records"),
    "index.npy of another build": (
        lambda split: np.save(split / "index.npy", np.zeros(7, RECORD)),
        "meta.json 12, index.npy 7 records",
    ),
    "index.npy of zeros": (lambda split: np.save(split / "index.npy", np.zeros(12, RECORD)), "index.npy is damaged"),
    "meta.json cut": (lambda split: os.truncate(split / "meta.json", 40), "meta.json cannot be read"),
    "meta.json of another version": (lambda split: edit(split, version=1), "format version 1, this program reads 3"),
    "meta.json of another data.mdb": (lambda split: rewrite(split, data_bytes=4096), "4096 when it was built"),
    "meta.json of another count": (lambda split: rewrite(split, count=11), "meta.json 11, index.npy 12 records"),
    "meta.json without classes": (lambda split: edit(split, classes=3), "meta.json is damaged"),
    "meta.json with another class": (lambda split: edit(split, classes=["a", "b", "x"]), "meta.json is damaged"),
    "meta.json with another mean": (lambda split: edit(split, mean=[0.1, 0.2, 0.3]), "meta.json is damaged"),
    "meta.json with fewer classes": (lambda split: rewrite(split, classes=("a", "b")), "label 2, expected 0 to 1"),
    "meta.json of lists in lists": (lambda split: (split / "meta.json").write_text("[" * 10**5), "cannot be read"),
    "meta.json of a number": (lambda split: (split / "meta.json").write_text("3"), "cannot be read"),
    "another label in index.npy": (lambda split: reindex(split, "label", 2), "index.npy is damaged"),
    "another place in index.npy": (lambda split: reindex(split, "offset", 2**63), "index.npy is damaged"),
    "index.npy that is a zip": (lambda split: (split / "index.npy").write_bytes(b"PK\x03\x04"), "cannot be read"),
    "index.npy that claims terabytes": (
        lambda split: (split / "index.npy").write_bytes(npy_head(10**12) + b"0" * 99),
        "index.npy cannot be read",
    ),
    "the record count of data.mdb": (
        lambda split: overwrite(split / "data.mdb", MAIN_RECORDS, bytes(8)),
        "meta.json 12, data.mdb 0 records",
    ),
    "pages of 3 bytes in data.mdb": (
        lambda split: overwrite(split / "data.mdb", PAGE_SIZE, b"\3\0\0\0"),
        "its pages would have 3 bytes",
    ),
}
PAGE_SIZE = (40, 4096 + 40)  # places in data.mdb: of each of the two meta pages, whichever holds
MAIN_RECORDS = (120, 4096 + 120)


def edit(split: Path, **changes: object) -> None:
    """Change entries of meta.json by hand."""
    path = split / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(split: Path, **changes: object) -> None:
    """Change entries of meta.json as a builder that is wrong would write them."""
    write_meta(split, dataclasses.replace(describe(split).meta, **changes))


def reindex(split: Path, field: str, value: int) -> None:
    """Change the fifth row of index.npy."""
    index = read_index(split)
    index[field][4] = value
    write_index(split, index)


def npy_head(count: int) -> bytes:
    """The head of an index.npy of `count` rows."""
    file = io.BytesIO()
    head = {"descr": RECORD.descr, "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, head)
    return file.getvalue()


def overwrite(path: Path, places: tuple[int, ...], content: bytes) -> None:
    """Put `content` at places of a file, which stays the same file."""
    with open(path, "r+b") as file:
        for place in places:
            file.seek(place)
            file.write(content)


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_found_when_the_lmdb_is_opened(damage: Callable[[Path], object], message: str, built: Path):
    damage(built / "train")
    with pytest.raises(DataError, match=message) as caught:
        open_store(built, "train")
    assert "\n" not in str(caught.value) and str(built) in str(caught.value)
    assert len(open_store(built, "val")) == 7


def test_a_flipped_byte_of_an_image_is_found_when_it_is_read(folder: Path, built: Path):
    path = built / "train" / "data.mdb"
    content = bytearray(path.read_bytes())
    content[content.index((folder / "train" / "b" / "04.JPEG").read_bytes()) + 700] ^= 0x10
    path.write_bytes(content)
    store = open_store(built, "train")
    with pytest.raises(DataError, match=r"record 00000005 of .*data\.mdb .*crc32 .*expected \w{8}, found \w{8}"):
        store.read(5)
    assert len(store.read(4)) > 0


def test_files_that_are_written_over_while_open_give_errors_or_what_was_built(folder: Path, built: Path, lmdb_of):
    """Fault 11: another build is copied over this one in place, and then cut: no memory is mapped that could vanish."""
    store = open_store(built, "train")
    expected, labels = [store.read(index) for index in range(12)], store.labels.tolist()
    other = Path(shutil.move(built, built.with_name("mine")))
    shutil.copy(folder / "train" / "c" / "02.JPEG", folder / "train" / "a" / "00.JPEG")
    another = lmdb_of(folder)
    for name in ("data.mdb", "index.npy", "meta.json"):
        shutil.copyfile(another / "train" / name, other / "train" / name)  # keeps the file, replaces its content
    refused = 0
    for index in range(12):
        try:
            assert store.read(index) == expected[index]
        except DataError as error:
            refused += "crc32" in str(error)
    assert refused > 0 and store.labels.tolist() == labels
    for name in ("data.mdb", "index.npy", "meta.json"):
        os.truncate(other / "train" / name, 0)
    with pytest.raises(DataError, match=r"record 00000000 .* found 00000000"):
        store.read(0)
    assert store.labels.tolist() == labels


def test_files_that_are_replaced_while_open_are_read_as_they_were(folder: Path, built: Path, lmdb_of):
    store = open_store(built, "train")
    expected = [store.read(index) for index in range(12)]
    shutil.rmtree(built)
    shutil.copy(folder / "train" / "c" / "02.JPEG", folder / "train" / "a" / "00.JPEG")
    lmdb_of(folder)
    assert [store.read(index) for index in range(12)] == expected


@pytest.mark.parametrize("change", [{"label": 2}, {"width": 2}, {"data": b"other"}, {"data": bytes(9999)}])
def test_a_record_that_was_written_over_gives_an_error_or_what_was_built(change: dict[str, object], built: Path):
    original = open_store(built, "train").read(0)
    record = datum.encode(datum.Datum(90, 40, 0, original)._replace(**change))
    with (
        lmdb.open(str(built / "train"), map_size=1 << 24, lock=False) as environment,
        environment.begin(write=True) as writing,
    ):
        writing.put(b"00000000", record)
    try:
        found = open_store(built, "train").read(0)
    except DataError as error:
        assert "crc32" in str(error) or "when it was built" in str(error)
    else:
        assert found == original


def test_records_are_counted_from_the_head_of_the_file(built: Path):
    assert read_head(built / "train" / "data.mdb").records == 12


@pytest.mark.parametrize(("count", "size"), [(0, 1), (1, 10), (300, 3), (3000, 20), (40, 3000), (7, 100_000)])
def test_places_are_those_of_lmdbs_own_engine(count: int, size: int, tmp_path: Path):
    values = [bytes([number % 256]) * (size + number % 9) for number in range(count)]
    with lmdb.open(str(tmp_path), map_size=1 << 26) as environment, environment.begin(write=True) as writing:
        for number, value in enumerate(values):
            writing.put(b"%08d" % number, value)
    content = (tmp_path / "data.mdb").read_bytes()
    found = list(places(tmp_path / "data.mdb"))
    assert [place.key for place in found] == [b"%08d" % number for number in range(count)]
    assert [content[place.offset : place.offset + place.length] for place in found] == values


def test_lmdb_of_another_data_version_names_both(tmp_path: Path):
    with lmdb.open(str(tmp_path / "train"), map_size=1 << 20, lib_version=1):
        pass
    with pytest.raises(EnvironmentFault, match=r"data version \d+, this program reads 1"):
        open_store(tmp_path, "train")


def test_a_finished_lmdb_is_not_overwritten(folder: Path, built: Path, lmdb_of):
    with pytest.raises(UsageError, match="finished LMDB"):
        lmdb_of(folder)
    assert open_store(built, "train").read(0)


def test_a_folder_that_holds_something_else_is_not_overwritten(folder: Path):
    sources = {"train": open_store(folder, "train")}
    with pytest.raises(UsageError, match="not an unfinished build's"):
        build(sources, folder, 0, lambda split, done: None)
    assert len(open_store(folder, "train")) == 12


def test_a_bad_image_stops_the_build_by_name_and_the_next_build_starts_anew(folder: Path, lmdb_of, tmp_path: Path):
    path = folder / "val" / "b" / "04.JPEG"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(DataError, match=r"val/b/04\.JPEG is truncated"):
        lmdb_of(folder)
    for split in ("train", "val"):
        with pytest.raises(DataError, match=r"unfinished"):
            open_store(tmp_path / "lmdb", split)
    path.write_bytes(whole)
    assert len(open_store(lmdb_of(folder), "val")) == 7


def test_dalis_caffe_reader_opens_the_lmdb(built: Path):
    dali = pytest.importorskip("nvidia.dali")
    from nvidia.dali import fn

    @dali.pipeline_def(batch_size=12, num_threads=1, device_id=None)
    def pipeline() -> tuple[object, object]:
        images, labels = fn.readers.caffe(path=str(built / "train"), random_shuffle=False)
        return images, labels

    made = pipeline()
    made.build()
    images, labels = made.run()
    store = open_store(built, "train")
    assert [np.asarray(images[row]).tobytes() for row in range(12)] == [store.read(row) for row in range(12)]
    assert [int(np.asarray(labels[row])[0]) for row in range(12)] == store.labels.tolist()
