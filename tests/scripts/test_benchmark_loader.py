"""benchmark_loader: a tiny run from end to end, what it measures itself by, and what it refuses."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.stores import open_store
from scripts.benchmark_loader import BenchmarkConfig, benchmark, chosen, words
from scripts.loader_benchmark.chart import OTHERS, OURS, draw
from scripts.loader_benchmark.contenders import ALL, ENGINES, LIMITS, PEERS, Setup
from scripts.loader_benchmark.data_forms import DataForms
from scripts.loader_benchmark.measuring import Pass, ahead, measure
from scripts.loader_benchmark.report import records, score, table
from scripts.loader_benchmark.usage import cpu_seconds, family, memory_bytes
from utils.script import run_script

COUNT = 12
TINY = ["--images", COUNT, "--batch-size", 4, "--img-size", 32, "--rounds", 1, "--workers", 1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """12 JPEGs of noise in three classes, without val/."""
    for number in range(COUNT):
        pixels = np.random.default_rng(number).integers(256, size=(60 + number, 90, 3), dtype=np.uint8)
        path = tmp_path / "folder" / "train" / "abc"[number % 3] / f"{number:02d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path / "folder"


def command(*given: object) -> int:
    return run_script(BenchmarkConfig, benchmark, [*map(str, given)])


def test_a_tiny_run_makes_table_json_and_picture_and_names_who_is_absent(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(PEERS, "ffcv", replace(PEERS["ffcv"], package="no_such_package.ffcv"))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    outputs = ["--json", tmp_path / "figures.json", "--output", tmp_path / "bars.png"]
    peers = ["--peers", "torchvision,ffcv"]
    assert command("--data-dir", folder, "--engines", "torch", *peers, *TINY, *outputs) == 0
    told = capfd.readouterr().out
    assert "ffcv is absent: it is not installed; apt install" in told
    rows = {line.split("|")[1].strip(): line for line in told.splitlines() if line.startswith("| ")}
    assert {"torch", "torchvision"} <= rows.keys() and "ffcv" not in rows
    assert [name for name in rows if name in LIMITS] in (
        [],
        ["crop limit", "whole limit"],
        ["whole limit", "crop limit"],
    )
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [item["name"] for item in figures] == ["torch", "torchvision"]
    for item in figures:
        assert set(item) == {"name", "img_per_s", "img_per_cpu_s", "ratio_to_crop_limit", "peak_mib"}
        assert item["img_per_s"] > 0 and item["img_per_cpu_s"] > 0 and item["peak_mib"] > 50
        assert (item["ratio_to_crop_limit"] is None) == ("crop limit" not in rows)
    with Image.open(tmp_path / "bars.png") as picture:
        assert picture.format == "PNG" and picture.width > 1000
    assert not list(scratch.iterdir()), "the LMDB made for the run is left"


def test_names_are_separated_by_commas_spaces_or_both():
    assert (
        words(("native", "torch"))
        == words(("native,torch",))
        == words(("native,", "torch", "native"))
        == ["native", "torch"]
    )
    config = BenchmarkConfig(Path("x"), engines=("native,torch", "native-256"), peers=("timm", "dali,ffcv"))
    names = [one.name for one in chosen(config)]
    assert names == [*LIMITS, "native", "torch", "native-256", "timm", "dali", "ffcv"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--peers", "torchvison"], "--peers torchvison is not known; did you mean torchvision?"),
        (["--engines", "native,dali-cpus"], "--engines dali-cpus is not known; did you mean dali-cpu?"),
        (["--batch-size", 13], "--batch-size 13 is more than the 12 training images"),
        (["--json", "/no/where.json"], "--json /no/where.json: no folder /no"),
        (["--data-dir", "/no/data"], "no data set at /no/data"),
    ],
)
def test_mistakes_are_refused_in_one_line(
    flags: list[object], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
):
    assert command("--data-dir", folder, *flags) == 2
    told = capsys.readouterr()
    assert message in told.err and told.err.count("\n") == 1 and not told.out


def test_every_contender_has_a_module_and_those_not_installed_say_how_to_get_them():
    package = Path(sys.modules["scripts.loader_benchmark.contenders"].__file__).parent
    for name, row in ALL.items():
        assert row.name == name and (package / f"{row.module}.py").exists()
        assert row.package is None or row.get
        assert not replace(row, package="no_such_package").is_installed
    assert not ENGINES.keys() & PEERS.keys()


def test_every_form_holds_the_same_images(folder: Path, tmp_path: Path):
    source = open_store(folder, "train")
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    lmdb = DataForms(folder, tmp_path / "one", 1).path("lmdb")
    forms = DataForms(lmdb, tmp_path / "two", 1)
    again = open_store(forms.path("folder").parent, "train")
    for store in (open_store(lmdb, "train"), again):
        assert store.classes == source.classes and store.labels.tolist() == source.labels.tolist()
        assert [store.read(number) for number in range(COUNT)] == [source.read(number) for number in range(COUNT)]
    listed = subprocess.run(
        ["tar", "tf", *forms.path("shards").glob("*.tar")], capture_output=True, text=True, check=True
    )
    assert listed.stdout.split()[:3] == ["00000000.jpg", "00000000.cls", "00000001.jpg"]
    assert len(listed.stdout.split()) == 2 * COUNT
    assert not (tmp_path / "one" / "folder").exists() and not (tmp_path / "two" / "lmdb").exists()


def test_a_pass_measures_only_what_is_loaded_within_it():
    setup = Setup("", workers=1, batch_size=4, img_size=32, images=8)
    asked = []

    def stream():
        while True:
            asked.append(time.perf_counter())
            time.sleep(0.2 if len(asked) * setup.batch_size <= ahead(setup) else 0.05)
            yield setup.batch_size

    one = measure(stream(), setup)
    assert one.images == 8
    assert 0.1 <= one.seconds < 0.8, "the batches before it are not in it"
    assert one.peak_bytes > 1 << 20


def _busy(ready: Callable[[], None]) -> None:
    block = bytearray(os.urandom(1 << 20) * 64)
    begun = time.process_time()
    while time.process_time() - begun < 0.5:
        block[0] ^= 1
    ready.set()
    signal.pause()


def test_time_and_memory_are_those_of_the_whole_process_tree():
    before = cpu_seconds({os.getpid()}), memory_bytes({os.getpid()})
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    child = context.Process(target=_busy, args=(ready,))
    child.start()
    try:
        assert ready.wait(30)
        tree = family(os.getpid())
        assert {os.getpid(), child.pid} <= tree
        assert cpu_seconds(tree) - before[0] >= 0.5
        assert memory_bytes(tree) - before[1] >= 64 << 20
    finally:
        child.kill()
        child.join()


def _scores() -> list:
    measured = {"crop limit": (2.0, 1.0, 1.0), "native": (2.5, 2.0, 1.25), "torchvision": (4.0, 5.0, 8.0)}
    return [score(ALL[name], [Pass(1000, s, 2 * s, 3 << 20) for s in took]) for name, took in measured.items()]


def test_figures_are_medians_and_ratios_of_them():
    native = next(item for item in records(_scores()) if item["name"] == "native")
    assert native == {
        "name": "native",
        "img_per_s": 500,
        "img_per_cpu_s": 250,
        "ratio_to_crop_limit": 0.5,
        "peak_mib": 3,
    }
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table(_scores()).splitlines()]
    assert [line[0] for line in lines[2:]] == ["crop limit", "native", "torchvision"]
    assert lines[3] == ["native", "uint8", "500", "400-800", "250", "0.50", "-", "2.50", "-", "3"]
    assert len({len(line) for line in table(_scores()).splitlines()}) == 1


def test_bars_are_sorted_ours_coloured_and_limits_hatched():
    axes = draw(_scores(), "title", "below").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["torchvision", "native", "crop limit"]
    bars = axes.patches[:3]
    assert [bar.get_width() for bar in bars] == [200, 500, 1000]
    colours = [tuple(round(255 * c) for c in bar.get_facecolor()[:3]) for bar in bars[:2]]
    assert colours == [tuple(bytes.fromhex(colour[1:])) for colour in (OTHERS, OURS)]
    assert [bool(bar.get_hatch()) for bar in bars] == [False, False, True]


def test_nothing_is_left_running_when_the_benchmark_is_killed(folder: Path, tmp_path: Path):
    setup = tuple(Setup(str(folder / "train"), workers=1, batch_size=4, img_size=32, images=COUNT))
    program = f"""
from pathlib import Path
from scripts.loader_benchmark.contenders import PEERS, Setup
from scripts.loader_benchmark.rounds import Runner
Runner(PEERS["torchvision"], Setup(*{setup}), Path({str(tmp_path / "log")!r})).run()
print("done", flush=True)
input()"""
    root = Path(__file__).resolve().parents[2]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], text=True, cwd=root, **pipes) as process:
        assert process.stdout.readline() == "done\n"
        below = family(process.pid) - {process.pid}
        process.kill()
    assert len(below) >= 2, "the contender and its worker"
    deadline = time.monotonic() + 20
    while any(map(_lives, below)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in below if _lives(pid)]


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
