"""The contact sheet of augmentations."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.augmentation.chain import BUILDERS
from scripts.show_augmentation import ROWS, ShowConfig, draws_of, show
from utils.errors import UsageError


def config(folder: Path, tmp_path: Path, **others: object) -> ShowConfig:
    return ShowConfig(**{"data_dir": folder, "output": tmp_path / "sheet.png", "img_size": 24} | others)


def test_every_augmentation_has_a_row() -> None:
    assert {name for row in ROWS.values() for name in row} >= {*BUILDERS, "repeated_aug"}


@pytest.mark.parametrize("title", ROWS)
def test_a_row_has_eight_draws_that_differ(title: str, image_folder: Path, tmp_path: Path) -> None:
    found = draws_of(title, config(image_folder, tmp_path))
    assert found.shape == (8, 24, 24, 3) and found.dtype == np.uint8
    assert len(np.unique(found.reshape(8, -1), axis=0)) > 1


def test_sheet_is_a_picture_of_its_rows(image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    show(config(image_folder, tmp_path, only="cutout"))
    assert "3/3 cutout rectangle" in capsys.readouterr().out
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 1000 and np.asarray(sheet.convert("L")).std() > 10


def test_mistakes_are_one_line(image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--only zzz is in none of the rows"):
        show(config(image_folder, tmp_path, only="zzz"))
    with pytest.raises(UsageError, match=r"must be a \.png in a folder that exists"):
        show(config(image_folder, tmp_path, output=tmp_path / "sheet.jpg"))
    with pytest.raises(UsageError, match="--image 100000: there are"):
        show(config(image_folder, tmp_path, only="grayscale", image=100_000))
