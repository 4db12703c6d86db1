"""One verdict of every engine on each odd file that was found in data sets or crafted, and the same pixels."""

import resource
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.batches import Batch, Loader
from data.dali_loader import DaliLoader
from data.native_loader import NativeLoader
from data.order import Request
from data.plan import training_plan, validation_plan
from data.source import Source
from data.stores import open_store
from data.torch_loader import TorchLoader
from utils.config.data import DataConfig
from utils.errors import DataError, EnvironmentFault

ENGINES: dict[str, Callable[[Source], Loader]] = {
    "torch": lambda source: TorchLoader(source, 0),
    "native": lambda source: NativeLoader(source, 1),
    "dali-cpu": lambda source: DaliLoader(source, 1, None),
}
OTHERS = [name for name in ENGINES if name != "torch"]
PLANS = {
    "train": training_plan(DataConfig(img_size=96), seed=1),
    "val": validation_plan(DataConfig(img_size=96)),
}
LIMIT = 0.3  # of 255: Pillow rounds between its two passes, which alone may change a quarter of the pixels by 1

ACCEPTED = [
    *("plain", "CMYK", "YCCK", "grey", "grey, progressive", "progressive", "RGB", "restarts", "quality 100", "4:2:2"),
    *("4:4:4", "corrupt EXIF", "trailing junk", "trailing marker", "turned", "PNG", "PNG RGBA", "PNG palette", "WEBP"),
    *("GIF", "BMP", "TIFF", "1 x 1", "1 x 2000", "3000 x 2", "no Huffman tables", "twice as high", "half as high"),
    *(f"flipped {seed}" for seed in range(6)),
    *(f"progressive, flipped {seed}" for seed in range(3)),
    *("cut, then ended", "progressive, scans lost"),
]
REFUSED = {
    "PNG 16 grey": "has more than 8 bits a channel",
    "PNG 16 RGB": "has more than 8 bits a channel",
    "PNG 16 RGBA": "has more than 8 bits a channel",
    "truncated 90": "is truncated",
    "truncated 50": "is truncated",
    "truncated 5": "is truncated",
    "no end": "is truncated",
    "PNG truncated": "cannot be decoded",
    "empty": r"is empty \(0 bytes\)",
    "text": "is no image but 26 bytes",
    "random": "is no image but 5000 bytes",
    "start only": "",  # Pillow's own words
    "no quantization tables": "cannot be decoded",
    "marker in the scan": "cannot be decoded",
    "65500 x 65500": "has 65500 x 65500 pixels",
    "30000 x 30000": "has 30000 x 30000 pixels",
    "30000 x 30000 PNG": "cannot be read: .*900000000 pixels",
    "13000 x 13000": "is truncated or damaged: .* cannot hold the 13000 x 13000 pixels",
}
BOMBS = [name for name in REFUSED if "000 x" in name or "500 x" in name]

Verdict = Batch | DataError


def without(content: bytes, marker: int) -> bytes:
    """A JPEG without its segments of one kind."""
    while (start := content.find(bytes([0xFF, marker]))) >= 0:
        content = content[:start] + content[start + 2 + struct.unpack_from(">H", content, start + 2)[0] :]
    return content


def flipped(content: bytes, seed: int) -> bytes:
    """Some bytes in the middle changed, so that they make no marker."""
    draw, damaged = np.random.default_rng(seed), bytearray(content)
    for place in draw.integers(len(content) // 2 - 200, len(content) // 2 + 200, size=1 + 4 * (seed % 2)):
        if 0xFF not in damaged[place - 1 : place + 1]:
            damaged[place] = (damaged[place] ^ draw.integers(1, 256)) % 255
    return bytes(damaged)


@pytest.fixture(scope="module")
def files(picture, encoded, deep_png, huge_png, claiming) -> dict[str, bytes]:
    """Every odd file by its name."""
    image = picture(3, 500, 375)
    plain, progressive = encoded(image, quality=90), encoded(image, progressive=True)
    grey, png = encoded(image.convert("L"), quality=90), encoded(image, "PNG")
    cmyk = encoded(image.convert("CMYK"))
    adobe = cmyk.index(b"Adobe") + 11  # where the colour transform stands: 0 is CMYK, 2 is YCCK
    exif = Image.Exif()
    exif[0x0112] = 6
    junk = b"\xff\xe1" + struct.pack(">H", 30) + b"Exif\0\0" + b"\xee" * 22
    middle = len(plain) // 2
    return {
        "plain": plain,
        "CMYK": cmyk,
        "YCCK": cmyk[:adobe] + b"\2" + cmyk[adobe + 1 :],
        "grey": grey,
        "grey, progressive": encoded(image.convert("L"), progressive=True),
        "progressive": progressive,
        "RGB": encoded(image, keep_rgb=True),
        "restarts": encoded(image, restart_marker_blocks=5),
        "quality 100": encoded(image, quality=100),
        "4:2:2": encoded(image, subsampling=1),
        "4:4:4": encoded(image, subsampling=0),
        "corrupt EXIF": plain[:2] + junk + plain[2:],
        "trailing junk": plain + b"junk" * 100,
        "trailing marker": plain + b"\xff\xc4\0\x10" + bytes(14),
        "turned": encoded(image, quality=90, exif=exif),
        "PNG": png,
        "PNG RGBA": encoded(image.convert("RGBA"), "PNG"),
        "PNG palette": encoded(image.convert("P"), "PNG"),
        **{kind: encoded(image, kind) for kind in ("WEBP", "GIF", "BMP", "TIFF")},
        "1 x 1": encoded(picture(1, 1, 1)),
        "1 x 2000": encoded(picture(1, 1, 2000)),
        "3000 x 2": encoded(picture(1, 3000, 2)),
        "no Huffman tables": without(plain, 0xC4),  # the standard's own are taken, as in frames of motion JPEG
        "twice as high": claiming(plain, 500, 750),
        "half as high": claiming(plain, 500, 187),
        **{f"flipped {seed}": flipped(plain, seed) for seed in range(6)},
        **{f"progressive, flipped {seed}": flipped(progressive, seed) for seed in range(3)},
        "cut, then ended": plain[:middle] + b"\xff\xd9",
        "progressive, scans lost": progressive[: len(progressive) // 3] + b"\xff\xd9",
        **{f"PNG 16 {name}": deep_png(color) for color, name in ((0, "grey"), (2, "RGB"), (6, "RGBA"))},
        **{f"truncated {share}": plain[: len(plain) * share // 100] for share in (90, 50, 5)},
        "no end": plain[:-2],
        "PNG truncated": png[: len(png) // 2],
        "empty": b"",
        "text": b"<html>404 not found</html>",
        "random": np.random.default_rng(0).bytes(5000),
        "start only": plain[:3],
        "no quantization tables": without(plain, 0xDB),
        "marker in the scan": plain[:middle] + b"\xff\xc9" + plain[middle + 2 :],
        "65500 x 65500": claiming(plain + bytes(100_000), 65500, 65500),
        "30000 x 30000": claiming(grey, 30000, 30000),
        "30000 x 30000 PNG": huge_png,
        "13000 x 13000": claiming(plain, 13000, 13000),
    }


@pytest.fixture(scope="module")
def data_dir(files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them in one folder, in the order of `files`, each named as a JPEG."""
    target = tmp_path_factory.mktemp("odd")
    for split in PLANS:
        (target / split / "a").mkdir(parents=True)
        for number, content in enumerate(files.values()):
            (target / split / "a" / f"{number:02d}.JPEG").write_bytes(content)
    return target


@pytest.fixture(scope="module")
def loader_of(data_dir: Path) -> Callable[..., Loader]:
    """An engine by its name, on the files: loader_of(engine, split, skips). The test is skipped where it is absent."""

    def make(engine: str, split: str, skips: bool = False) -> Loader:
        try:
            return ENGINES[engine](Source(open_store(data_dir, split), PLANS[split], skips))
        except EnvironmentFault as error:
            pytest.skip(str(error))

    return make


@pytest.fixture(scope="module")
def verdicts(files: dict[str, bytes], loader_of: Callable[..., Loader]) -> Callable[[str, str], dict[str, Verdict]]:
    """What one engine makes of each file, on its own: verdicts(engine, split)."""
    known: dict[tuple[str, str], dict[str, Verdict]] = {}

    def verdict(loader: Loader, index: int) -> Verdict:
        try:
            return next(loader.batches([Request(0, np.array([index]))]))
        except DataError as error:
            return error

    def judge(engine: str, split: str) -> dict[str, Verdict]:
        if (engine, split) not in known:
            loader = loader_of(engine, split)
            known[engine, split] = {name: verdict(loader, index) for index, name in enumerate(files)}
        return known[engine, split]

    return judge


def test_every_file_is_listed_once(files: dict[str, bytes]):
    assert sorted(files) == sorted([*ACCEPTED, *REFUSED])


@pytest.mark.parametrize("split", PLANS)
@pytest.mark.parametrize("engine", ENGINES)
def test_refused_files_are_named_in_one_line_with_the_same_words_by_every_engine(engine: str, split: str, verdicts):
    found = {name: verdict for name, verdict in verdicts(engine, split).items() if isinstance(verdict, DataError)}
    assert sorted(found) == sorted(REFUSED)
    for name, words in REFUSED.items():
        line = str(found[name])
        assert line == str(verdicts("torch", split)[name])
        number = list(verdicts("torch", split)).index(name)
        assert pytest.raises(DataError, match=rf"^\S+/{split}/a/{number:02d}\.JPEG {words}[^\n]*$").matches(found[name])


@pytest.mark.parametrize("split", PLANS)
@pytest.mark.parametrize("engine", OTHERS)
@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted_files_look_the_same_to_every_engine(name: str, engine: str, split: str, verdicts):
    ours, theirs = verdicts(engine, split)[name], verdicts("torch", split)[name]
    assert torch.equal(ours.indices, theirs.indices) and ours.images.shape == theirs.images.shape
    assert (ours.images.float() - theirs.images.float()).abs().mean() <= LIMIT


@pytest.mark.parametrize("engine", ENGINES)
def test_the_orientation_of_the_camera_is_ignored_by_every_engine(engine: str, verdicts):
    seen = verdicts(engine, "val")
    assert torch.equal(seen["turned"].images, seen["plain"].images)


@pytest.mark.parametrize("engine", ENGINES)
def test_files_are_judged_alike_alone_and_among_all_others(engine: str, files, loader_of, verdicts):
    """Backwards too, for a decoder may not take the tables of one JPEG for the next."""
    alone = verdicts(engine, "val")
    for indices in (np.arange(len(files)), np.arange(len(files))[::-1]):
        batch = next(loader_of(engine, "val", skips=True).batches([Request(0, indices)]))
        names = np.array(list(files))
        assert sorted(names[batch.bad]) == sorted(REFUSED)
        for name, image in zip(names[batch.indices], batch.images, strict=True):
            # DALI fails on some files here, and then Pillow makes the whole batch.
            tolerance = LIMIT if engine == "dali-cpu" else 0
            assert (image.float() - alone[name].images[0].float()).abs().mean() <= tolerance, name


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_in_no_time_and_memory(name: str, engine: str, files, loader_of):
    loader = loader_of(engine, "train")
    request = Request(0, np.array([list(files).index(name)]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    with pytest.raises(DataError):
        next(loader.batches([request]))
    assert time.monotonic() - start < 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 200_000  # KiB; decoded, 500 MB to 13 GB
