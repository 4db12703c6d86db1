"""measure_scale on a few records: the table has its lines, and memory is counted with that of children."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.measure_scale import Line, ScaleConfig, lines, pictures

ROOT = Path(__file__).resolve().parents[2]


# In a process of its own: the one that runs the tests has other children, which come and go.
HOLDING_200_MIB_IN_A_CHILD = """
import multiprocessing, time
import numpy as np
from scripts.measure_scale import peak_memory, used_memory

def fill():
    held = np.ones(200 << 17)
    time.sleep(2)
    assert held.all()

def work():
    child = multiprocessing.get_context("fork").Process(target=fill)
    child.start()
    child.join()

print(peak_memory(work) - used_memory())
"""


def test_memory_is_that_of_children_too():
    command = [sys.executable, "-c", HOLDING_200_MIB_IN_A_CHILD]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(run.stdout) == pytest.approx(200, abs=60)


def test_limits_are_kept_or_missed():
    assert Line("memory", 99, 100, "MiB").holds() and not Line("memory", 100, 100, "MiB").holds()
    assert Line("speed", 0.9, 0.9, "", least=True).holds() and not Line("speed", 0.89, 0.9, "", least=True).holds()
    assert str(Line("speed", 0.89, 0.9, "", least=True)).endswith(">= 0.9    MISSED")


def test_pictures_are_of_all_classes_in_order():
    origin = pictures(2000)
    assert origin.labels.tolist() == sorted(list(range(1000)) * 2)
    assert origin.read(0) == origin.read(300) != origin.read(1) and origin.sizes()[1] == len(origin.read(1))


def test_a_small_data_set_is_built_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in {"SETTLING": 1, "TIMED": 1, "BATCH": 16, "SMALL": 100}.items():
        monkeypatch.setattr(f"scripts.measure_scale.{name}", value)
    monkeypatch.setattr("scripts.measure_scale.is_built", lambda: False)
    measured = {line.what: line.found for line in lines(ScaleConfig(images=150, rounds=1), tmp_path)}
    assert len(measured) == 5 and all(found > 0 for found in measured.values())
    assert 100 < measured["building: memory at most, workers included"] < 4000
