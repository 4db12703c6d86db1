"""The golden numbers of the ancestors where they are at hand."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "layers"
Golden = tuple[dict[str, object], dict[str, NDArray]]


@pytest.fixture
def golden() -> Callable[[str], Golden]:
    """A function from a file's name to its meta data and arrays; skips the test where the file is not there."""

    def read(name: str) -> Golden:
        path = GOLDEN / f"{name}.npz"
        if not path.exists():
            pytest.skip(f"no golden file {path}")
        with np.load(path) as file:
            return json.loads(str(file["meta"])), {key: file[key] for key in file.files if key != "meta"}

    return read
