"""Files that are either whole or absent: write to a temporary name, flush to the disk, rename."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, without which a rename may be lost with the power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Let `write` fill a file that appears under `path` only once it is whole and on the disk.

    The temporary file lies beside it and is removed when anything fails, so that a full disk gets its space back.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json(path: Path, content: object) -> None:
    """Replace `path` by `content` as indented JSON, atomically."""
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def link_atomically(link: Path, target: Path) -> None:
    """Make `link` a relative symbolic link to `target` in the same folder, replacing what was there in one move."""
    temporary = link.with_name(f"{link.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target.name)
    os.replace(temporary, link)
    sync_folder(link.parent)
