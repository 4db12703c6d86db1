"""DALI under our order and our plan, on the CPU; of the GPU's pipeline only the definition."""

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data import dali_loader, loaders
from data.batches import Batch
from data.dali_loader import DaliLoader, graph
from data.order import Request
from data.plan import Plan, training_plan, validation_plan
from data.source import Source
from data.stores import open_store
from data.torch_loader import TorchLoader
from utils.config.data import DataConfig
from utils.errors import DataError, EnvironmentFault, UsageError

dali = pytest.importorskip("nvidia.dali")

TRAIN = training_plan(DataConfig(img_size=72), seed=3)
VAL = validation_plan(DataConfig(img_size=72))
LIMIT = 0.3  # of 255: Pillow rounds between its two passes, which alone may change a quarter of the pixels by 1


def source_of(data_dir: Path, plan: Plan, split: str = "train", skips: bool = False) -> Source:
    return Source(open_store(data_dir, split), plan, skips)


def requests_of(*sizes: int, count: int = 12) -> list[Request]:
    """Requests of these sizes for images drawn at random, each of another epoch."""
    draw = np.random.default_rng(0)
    return [Request(epoch, draw.integers(count, size=size)) for epoch, size in enumerate(sizes)]


def same(left: Batch, right: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def all_same(left: list[Batch], right: list[Batch]) -> bool:
    return all(same(*pair) for pair in zip(left, right, strict=True))


def close(left: Batch, right: Batch) -> bool:
    difference = (left.images.float() - right.images.float()).abs().mean((1, 2, 3))
    return same(left._replace(images=right.images), right) and bool((difference <= LIMIT).all())


def test_batches_are_the_same_for_any_number_of_threads_and_from_folder_or_lmdb(folder: Path, lmdb_of: Callable):
    requests = requests_of(4, 4, 4, 3, 1)
    expected = list(DaliLoader(source_of(folder, TRAIN), 0, None).batches(requests))
    assert [len(batch.labels) for batch in expected] == [4, 4, 4, 3, 1]
    for data_dir, threads in ((folder, 1), (lmdb_of(folder), 2)):
        assert all_same(list(DaliLoader(source_of(data_dir, TRAIN), threads, None).batches(requests)), expected)


@pytest.mark.parametrize("start", [1, 3, 6])
def test_batches_from_the_middle_of_an_epoch_are_those_of_a_whole_one(start: int, folder: Path):
    """In sizes that make DALI's pipeline too small for later ones, so that it is built again."""
    requests = requests_of(2, 4, 1, 4, 6, 2, 5)
    loader = DaliLoader(source_of(folder, TRAIN), 2, None)
    assert all_same(list(loader.batches(requests[start:])), list(loader.batches(requests))[start:])


@pytest.mark.parametrize(
    ("plan", "split"),
    [
        (TRAIN, "train"),
        (VAL, "val"),
        (training_plan(DataConfig(img_size=72, interpolation="bicubic"), 3), "train"),
        (validation_plan(DataConfig(img_size=72, interpolation="bicubic", val_resize=72)), "val"),
        (training_plan(DataConfig(img_size=72, train_crop="pad", pad=9), 3), "train"),
    ],
    ids=["train", "val", "train, bicubic", "val, bicubic", "pad"],
)
def test_batches_are_those_of_the_torch_engine(plan: Plan, split: str, folder: Path):
    source = source_of(folder, plan, split)
    requests = requests_of(6, 6, 1, count=len(source.store))
    ours, theirs = DaliLoader(source, 1, None), TorchLoader(source, 0)
    for left, right in zip(ours.batches(requests), theirs.batches(requests), strict=True):
        assert close(left, right)


def test_photographs_are_those_of_the_torch_engine(photographs: Path, tmp_path: Path):
    (tmp_path / "val").symlink_to(photographs)
    source = source_of(tmp_path, validation_plan(DataConfig()), "val")
    request = Request(0, np.arange(0, len(source.store), 25))
    ours, theirs = (next(loader.batches([request])) for loader in (DaliLoader(source, 1, None), TorchLoader(source, 0)))
    assert close(ours, theirs)


def test_images_that_are_not_resized_are_pillows_pixels_with_zeros_around(tmp_path: Path, picture, encoded):
    for number in range(6):
        path = tmp_path / "train" / "a" / f"{number}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(number, 32, 32)))
    source = source_of(tmp_path, training_plan(DataConfig(img_size=32, pad=4), 3))
    requests = requests_of(6, 6, count=6)
    assert all_same(list(DaliLoader(source, 1, None).batches(requests)), list(TorchLoader(source, 0).batches(requests)))


@pytest.fixture
def odd(folder: Path, picture, encoded) -> Path:
    """A folder with images among the others that DALI is not given, or takes in other ways if not told."""
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        "png": encoded(picture(0, 90, 60), "PNG"),
        "cmyk": encoded(picture(1, 90, 60).convert("CMYK")),
        "grey": encoded(picture(2, 90, 60, "L")),
        "turned": encoded(picture(3, 90, 60), exif=exif),
        "pixel": encoded(picture(4, 1, 1)),
    }
    for name, content in files.items():
        (folder / "train" / "b" / f"{name}.JPEG").write_bytes(content)
    return folder


def test_odd_images_among_others_are_those_of_the_torch_engine(odd: Path):
    source = source_of(odd, TRAIN)
    requests = [Request(0, np.arange(17)), Request(1, np.arange(4, 10))]
    for loader in (DaliLoader(source, 1, None), DaliLoader(source, 0, None)):
        for left, right in zip(loader.batches(requests), TorchLoader(source, 0).batches(requests), strict=True):
            assert close(left, right)


def no_tables(content: bytes) -> bytes:
    """A JPEG whose header is in order but for the quantization tables, which are not there: no decoder takes it."""
    start = content.index(b"\xff\xdb")
    return content[:start] + content[start + 2 + int.from_bytes(content[start + 2 : start + 4]) :]


@pytest.fixture
def damaged(folder: Path) -> tuple[Path, list[Request]]:
    """A folder in which images 5 and 6 are bad, one to be seen before and one after DALI tries; and requests."""
    (folder / "train" / "b" / "04.JPEG").write_bytes(b"no image")
    path = folder / "train" / "b" / "07.JPEG"
    path.write_bytes(no_tables(path.read_bytes()))
    groups = ([0, 1, 2], [3, 5, 4], [7, 8, 6], [9, 10, 11], [6, 0, 5], [1, 2, 3])
    return folder, [Request(epoch, np.array(group)) for epoch, group in enumerate(groups)]


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("bad", [(5, "04.JPEG is no image but 8 bytes"), (6, "07.JPEG cannot be decoded: ")])
def test_a_bad_image_is_told_as_by_the_torch_engine_where_its_batch_would_come(
    threads: int, bad: tuple[int, str], damaged: tuple[Path, list[Request]]
):
    data_dir, requests = damaged
    left_out = 11 - bad[0]  # the other of the two
    requests = [request for request in requests if left_out not in request.indices]
    first = next(number for number, request in enumerate(requests) if bad[0] in request.indices)
    source = source_of(data_dir, TRAIN)
    batches = DaliLoader(source, threads, None).batches(requests)
    assert len(list(itertools.islice(batches, first))) == first
    with pytest.raises(DataError, match=bad[1]) as caught:
        next(batches)
    with pytest.raises(DataError) as theirs:
        list(TorchLoader(source, 0).batches(requests))
    assert str(caught.value) == str(theirs.value)


@pytest.mark.parametrize("split", ["train", "val"])
def test_bad_images_are_skipped_as_by_the_torch_engine(split: str, damaged: tuple[Path, list[Request]]):
    data_dir, requests = damaged
    source = source_of(data_dir, TRAIN if split == "train" else VAL, skips=True)
    for threads in (0, 2):
        ours = list(DaliLoader(source, threads, None).batches(requests))
        theirs = list(TorchLoader(source, 0).batches(requests))
        assert [batch.bad.tolist() for batch in ours] == [[], [5], [6], [], [6, 5], []]
        for left, right in zip(ours, theirs, strict=True):
            assert close(left, right._replace(bad=left.bad)) and set(left.bad.tolist()) == set(right.bad.tolist())


def test_a_batch_that_dali_fails_on_changes_no_other(damaged: tuple[Path, list[Request]]):
    data_dir, requests = damaged
    loader = DaliLoader(source_of(data_dir, TRAIN, skips=True), 1, None)
    alone = [next(loader.batches([request])) for request in (requests[0], requests[3], requests[5])]
    together = list(loader.batches(requests))
    assert all_same(alone, [together[0], together[3], together[5]])


def test_other_failures_of_dali_are_told_in_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dali_loader, "UNDECODED", "something else")
    path = folder / "train" / "a" / "00.JPEG"
    path.write_bytes(no_tables(path.read_bytes()))
    with pytest.raises(EnvironmentFault, match=r"^DALI failed: .*; use --loader native or torch$"):
        list(DaliLoader(source_of(folder, TRAIN), 1, None).batches([Request(0, np.arange(2))]))


def test_requests_are_asked_for_a_few_at_a_time(folder: Path):
    asked = []

    def without_end() -> Iterator[Request]:
        for number in itertools.count():
            asked.append(number)
            yield Request(number, np.array([number % 12, 3]))

    for threads, most in ((0, 6), (2, 10)):
        asked.clear()
        batches = DaliLoader(source_of(folder, TRAIN), threads, None).batches(without_end())
        assert len(list(itertools.islice(batches, 5))) == 5
        assert len(asked) <= most
        batches.close()


def test_loaders_work_side_by_side(folder: Path):
    train = DaliLoader(source_of(folder, TRAIN), 1, None)
    val = DaliLoader(source_of(folder, VAL, "val"), 1, None)
    requests = requests_of(3, 3, 3, 3, count=7)
    alone = list(train.batches(requests)), list(val.batches(requests))
    together = list(zip(train.batches(requests), val.batches(requests), strict=True))
    assert all_same(alone[0], [pair[0] for pair in together]) and all_same(alone[1], [pair[1] for pair in together])


def test_our_feed_goes_on_from_dalis_own_checkpoint(folder: Path):
    """The engine needs none, but what DALI feeds on must not be lost where someone keeps one: BatchInfo numbers it."""
    loader = DaliLoader(source_of(folder, TRAIN), 1, None)
    feeds = [loader._prepare(request).columns for request in requests_of(3, 3, 3, 3, 3, 3)]

    def pipeline(checkpoint: str | None = None) -> dali.Pipeline:
        made = dali.Pipeline(batch_size=3, num_threads=1, enable_checkpointing=True, checkpoint=checkpoint)
        with made:
            made.set_outputs(graph(lambda info: feeds[info.iteration], TRAIN, "cpu"))
        return made

    whole = pipeline()
    first = [np.array(whole.run()[0].as_tensor()) for _ in range(2)]
    saved = whole.checkpoint()
    second = [np.array(whole.run()[0].as_tensor()) for _ in range(2)]
    restored = pipeline(saved)
    assert all(np.array_equal(restored.run()[0].as_tensor(), batch) for batch in second)
    assert not np.array_equal(first[0], second[0])


@pytest.mark.filterwarnings("ignore:nvidia-dali-cuda")  # where no CUDA is, that it is not there
@pytest.mark.parametrize("plan", [TRAIN, VAL])
def test_the_pipeline_of_a_gpu_can_be_defined_and_serialized(plan: Plan):
    """All of it that can be seen without a GPU: DALI refuses to build what it is given here."""
    pipeline = dali.Pipeline(batch_size=256, num_threads=4, device_id=None)
    with pipeline:
        pipeline.set_outputs(graph(lambda info: None, plan, "mixed"))
    serialized = pipeline.serialize()
    for word in (b"image_slice", b"mixed", b"device_memory_padding", b"preallocate_width_hint", b"adjust_orientation"):
        assert word in serialized
    with pytest.raises(RuntimeError, match=r"GPU|CUDA"):
        dali.Pipeline.deserialize(serialized).build()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_batches_made_on_a_gpu_stay_there_and_are_near_those_of_the_torch_engine(photographs: Path, tmp_path: Path):
    """nvJPEG's inverse DCT and upsampling are its own: 2 of 255 in the mean is what other decoders differ by."""
    (tmp_path / "val").symlink_to(photographs)
    source = source_of(tmp_path, validation_plan(DataConfig()), "val")
    requests = [Request(0, np.arange(first, first + 16)) for first in (0, 100, 200)]
    pairs = zip(DaliLoader(source, 2, 0).batches(requests), TorchLoader(source, 0).batches(requests), strict=True)
    for ours, theirs in pairs:
        assert ours.images.is_cuda and torch.equal(ours.indices, theirs.indices)
        assert (ours.images.cpu().float() - theirs.images.float()).abs().mean() < 2


def test_without_dali_the_package_to_install_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(EnvironmentFault, match=r"pip install nvidia-dali-cuda130 .*pip install -e '\.\[dali\]'"):
        DaliLoader(source_of(folder, TRAIN), 1, None)


def test_decoding_on_a_gpu_is_refused_where_there_is_none(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = DataConfig(data_dir=str(folder), loader="dali-gpu", img_size=72)
    with pytest.raises(EnvironmentFault, match=r"--loader dali-gpu .*use --loader dali-cpu") as caught:
        loaders.open_data(config, 0)
    assert caught.value.exit_code == 7
    with pytest.raises(UsageError, match=r"--loader dali-gpu .*--device is cpu; use --loader dali-cpu"):
        loaders.refuse_device(config, torch.device("cpu"))


def test_the_log_says_which_engine_it_is(folder: Path):
    assert DaliLoader(source_of(folder, TRAIN), 3, None).describe() == "DALI on the CPU, 3 threads, 2 batches ahead"
