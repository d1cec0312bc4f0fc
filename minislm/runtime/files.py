"""Files that are whole or not there: write beside, flush to the disk, rename."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from minislm.runtime.errors import UserError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it over `path` on success, remove it on failure.

    A reader sees the old file or the new one, never a part of one, whenever the writer is killed.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise cannot(f"write {path}", error) from error
    finally:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)


def atomic_write(path: str | Path, data: bytes | str) -> None:
    """Write `data` (text as UTF-8) to `path`, whole or not at all; raises UserError."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def write_json(path: str | Path, value: dict[str, Any]) -> None:
    atomic_write(path, json.dumps(value, indent=2) + "\n")


def cannot(
    do: str,
    error: OSError,
    advice: str = "choose a folder that can be written to and has space",
) -> UserError:
    """What the system refused, as a mistake told in one line."""
    return UserError(f"cannot {do}: {error.strerror or error}; {advice}")


def append_line(path: str | Path, line: str, advice: str) -> None:
    """Add one line to a file; `advice` is what to do once there is space.

    Raises:
        UserError: the disk is full, or the file cannot be written to.
    """
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise cannot(f"write {path}", error, f"make space, then {advice}") from error


def _sync(folder: Path) -> None:
    """Have a folder's names on the disk, where the system lets a folder be flushed."""
    if hasattr(os, "O_DIRECTORY"):  # not on Windows
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def lock(file: IO[bytes], wait: bool = True) -> bool:
    """Take a file's lock, which a process that is killed lets go; False if another has it.

    Where there are no such locks (Windows, some network file systems) it counts as taken.
    """
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
