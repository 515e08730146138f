"""Files and folders that are there as a whole or not at all, and stay there when the power goes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_file(path: Path, text: str) -> None:
    """Write a text so that at any moment the old or the new file is there, as a whole.

    Raises:
        OSError: it cannot be written; the old file is as it was.
    """
    write_with(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """The same for what `write` puts into the path that it is given: another name, synced and then renamed.

    Raises:
        OSError: as for `write_file`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        sync(temporary)
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_folder(path: Path, write: Callable[[Path], object]) -> bool:
    """Make a folder of what `write` puts into one of another name; whether it is this one that is there now.

    Raises:
        OSError: it cannot be written, and there is none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        write(temporary)
        for file in temporary.iterdir():
            sync(file)
        temporary.chmod(0o755)
        sync(temporary)
        try:
            os.rename(temporary, path)
        except OSError:
            if not path.is_dir():
                raise
            return False
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(path.parent)
    return True


def sync(path: Path) -> None:
    """Wait until a file, or the list of names of a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
