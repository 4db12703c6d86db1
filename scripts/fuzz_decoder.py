"""Damages JPEGs at random and has the native decoder read them: it must neither crash, hang, nor read out of bounds.

    python -m scripts.fuzz_decoder [--images FOLDER] [--count 10000] [--seed 0]
    python -m scripts.fuzz_decoder --sanitize         # the C code built with AddressSanitizer, into a temporary folder

Every image goes the way of the native engine: its header is probed, then it is decoded and resized under a random view.
A process of its own does it, under a memory limit, so that a crash can be told. Without FOLDER the images are noise of
many kinds of JPEG: baseline and progressive, all subsamplings, grey, CMYK, restart markers.
"""

import io
import os
import resource
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image

from data.header import read_jpeg_header
from utils.errors import DataError, EnvironmentFault
from utils.files import write_atomically
from utils.randomness import generator
from utils.script import script

ROOT = Path(__file__).resolve().parents[1]
SIDE, MEMORY, PATIENCE = 96, 2 << 30, 1.0  # pixels, bytes of address space beyond the start, seconds
STATUS = ("filled", "left", "unreadable", "checksum", "odd", "damaged", "no memory")  # region.h
SANITIZED = "TRAIN_DIST_SANITIZED"  # set in the process that runs with AddressSanitizer


@dataclass(frozen=True)
class FuzzConfig:
    """Damage JPEGs at random and have the native decoder read them."""

    images: Path | None = None
    """folder with JPEGs, searched to its depths; noise if not given"""
    count: int = 10_000
    """damaged images"""
    seed: int = 0
    """seed of the damages and views"""
    sanitize: bool = False
    """build the C code with AddressSanitizer and run that, without the memory limit"""


def fuzz(config: FuzzConfig) -> int:
    """Run the decoder in a process of its own; 0 if it came to its end and nothing took longer than PATIENCE."""
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ) | (_sanitized(Path(folder)) if config.sanitize else {})
        pipe = Path(folder) / "last.jpg"
        settings = repr((str(config.images) if config.images else None, config.count, config.seed, str(pipe)))
        code = f"from scripts.fuzz_decoder import decode_all; import sys; sys.exit(decode_all(*{settings}))"
        ended = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, check=False).returncode
        if ended < 0 or ended > 1:
            kept = Path.cwd() / "crash.jpg"
            shutil.copy(pipe, kept)
            print(f"CRASHED with {ended}; the image is {kept}")
        return int(ended != 0)


def decode_all(images: str | None, count: int, seed: int, last: str) -> int:
    """What `fuzz` runs: decode `count` damaged images, each first kept at the path `last`; 1 if one took too long."""
    decoder = import_module("data.region_decoder").Decoder(1)
    if SANITIZED not in os.environ:
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    originals = [path.read_bytes() for path in sorted(Path(images).rglob("*.*"))] if images else list(_noise(seed))
    found, slowest = Counter(), 0.0
    for number in range(count):
        draw = generator(seed, 0, number)
        encoded = damaged(draw, originals)
        Path(last).write_bytes(encoded)
        start = time.perf_counter()
        found[_decode(decoder, encoded, draw)] += 1
        slowest = max(slowest, time.perf_counter() - start)
    told = ", ".join(f"{number} {name}" for name, number in found.most_common())
    print(f"{count} damaged JPEGs: {told}; the slowest took {slowest:.3f} s")
    return int(slowest > PATIENCE)


def damaged(draw: np.random.Generator, originals: list[bytes]) -> bytes:
    """One of `originals` with flipped bits, cut off, or with a piece overwritten, left out or put in."""
    encoded = bytearray(originals[draw.integers(len(originals))])
    kind = draw.integers(6)
    place = int(draw.integers(len(encoded)) if draw.random() < 0.5 else draw.integers(min(700, len(encoded))))
    length = int(2 ** draw.uniform(0, 12))
    if kind == 0:
        for bit in draw.integers(8 * len(encoded), size=draw.integers(1, 20)).tolist():
            encoded[bit // 8] ^= 1 << bit % 8
    elif kind == 1:
        encoded[place] ^= 1 << int(draw.integers(8))
    elif kind == 2:
        del encoded[max(place, 2) :]
        encoded += b"\xff\xd9"  # or the probe would find it truncated, and nothing be decoded
    elif kind == 3:
        encoded[place : place + length] = draw.bytes(length)
    elif kind == 4:
        del encoded[place : place + length]
    else:
        other = originals[draw.integers(len(originals))]
        begin = int(draw.integers(len(other)))
        encoded[place:place] = other[begin : begin + length]
    return bytes(encoded)


def _decode(decoder: object, encoded: bytes, draw: np.random.Generator) -> str:
    """What became of one image."""
    try:
        header = read_jpeg_header(encoded, "image")
    except DataError:
        return "refused by the probe"
    if header is None or not header.plain:
        return "not for this decoder"
    width, height = (int(draw.integers(1, size + 1)) for size in header[:2])
    left, top = int(draw.integers(header.width - width + 1)), int(draw.integers(header.height - height + 1))
    size = [SIDE, SIDE] if draw.random() < 0.5 else draw.integers(1, 2 * SIDE, 2).tolist()
    corner = [0, 0] if draw.random() < 0.5 else draw.integers(-SIDE, SIDE, 2).tolist()
    views = np.array([[left, top, width, height, *size, *corner, draw.integers(2)]], dtype=np.int64)
    status = np.zeros(1, dtype=np.int32)
    pixels = np.empty((1, SIDE, SIDE, 3), dtype=np.uint8)
    decoder.render([encoded], -1, np.zeros((1, 3), dtype=np.int64), views, bool(draw.integers(2)), pixels, status)
    return STATUS[status[0]]


def _noise(seed: int) -> Iterator[bytes]:
    """JPEGs of many kinds, a few kilobytes each."""
    draw = generator(seed, 1)
    for number in range(48):
        mode = ("RGB", "RGB", "L", "CMYK")[number % 4]
        shape = (*draw.integers(8, 160, 2), {"RGB": 3, "CMYK": 4}.get(mode, 1))
        pixels = draw.integers(0, 256, shape, dtype=np.uint8).squeeze()
        options = {"quality": 60, "progressive": number % 3 == 0, "subsampling": number // 4 % 3}
        if number % 5 == 0:
            options["restart_marker_blocks"] = 3
        file = io.BytesIO()
        Image.fromarray(pixels, mode).resize((320, 240), Image.Resampling.BICUBIC).save(file, "JPEG", **options)
        yield file.getvalue()


def _sanitized(folder: Path) -> dict[str, str]:
    """The environment in which Python finds the extension built with AddressSanitizer, in `folder`."""
    library = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    flags = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-shared", "-fPIC", "-pthread"]
    target = folder / f"region_decoder{sysconfig.get_config_var('EXT_SUFFIX')}"
    sources = [str(ROOT / "data" / name) for name in ("region_decoder.c", "region.c")]
    include = f"-I{sysconfig.get_paths()['include']}"
    built = subprocess.run(["gcc", *flags, include, *sources, "-o", str(target), "-ljpeg", "-lm"], check=False)
    if built.returncode:
        raise EnvironmentFault("the C code cannot be built with AddressSanitizer; apt install gcc libjpeg62-turbo-dev")
    hook = f"import data; data.__path__.insert(0, {str(folder)!r})\n"
    write_atomically(folder / "sitecustomize.py", lambda file: file.write(hook.encode()))
    path = os.pathsep.join([str(folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    options = "detect_leaks=0:allocator_may_return_null=1"
    return {"LD_PRELOAD": library.stdout.strip(), "ASAN_OPTIONS": options, "PYTHONPATH": path, SANITIZED: "1"}


if __name__ == "__main__":
    script(FuzzConfig, fuzz)
