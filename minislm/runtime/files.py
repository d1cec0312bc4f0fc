"""Atomic files: write under a temporary name, flush to the disk, rename."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from minislm.runtime.errors import UserError

_ADVICE = "use a folder that can be written to and has space"


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it over `path` on success, remove it on failure.
    A reader sees the old file or the new one, never a part of one, whenever the writer is killed.
    A link is followed; a pipe or a device is yielded itself. UserError: no access, or no space."""
    special = os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))
    path = temporary = Path(path if special or not os.path.islink(path) else os.path.realpath(path))
    try:
        if special:
            yield path
            return
        temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"  # path may be "."
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode  # of a new file, by the umask
        yield temporary
        if temporary.stat().st_mode != mode:  # safetensors gives it to its owner alone
            temporary.chmod(mode)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise os_error(f"write {path}", error) from error
    finally:
        if not special:
            with suppress(OSError):
                temporary.unlink()


def atomic_write(path: str | Path, data: bytes | str) -> None:
    """Write `data` (text as UTF-8) to `path`, whole or not at all; raises UserError."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def write_json(path: str | Path, value: dict[str, Any]) -> None:
    atomic_write(path, json.dumps(value, indent=2) + "\n")


def os_error(action: str, error: OSError, advice: str = _ADVICE) -> UserError:
    """An error of the operating system as one line."""
    return UserError(f"cannot {action}: {error.strerror or error}; {advice}")


def append_line(path: str | Path, line: str, advice: str) -> None:
    """Add one line to a file. A UserError has `advice`: what to do once there is space."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise os_error(f"write {path}", error, f"make space, then {advice}") from error


def _sync(folder: Path) -> None:
    """Flush a folder to the disk, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def link_or_copy(source: Path, target: Path) -> None:
    """Replace `target` by a second name of a file, or by a copy where there are no such links."""
    target.unlink()
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)


def lock_file(file: IO[bytes], wait: bool = True) -> bool:
    """Lock a file until it is closed or the process ends; False if another process has the lock.
    Where there are no such locks (Windows, some network file systems) it always succeeds."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        pass
    return True


def read_text(file: Path) -> str:
    """The text of a UTF-8 file; raises UserError naming it."""
    if file.exists() and not file.is_file():  # a pipe would block
        raise UserError(f"{file} is not a regular file")
    try:
        return file.read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is damaged: it is not UTF-8 text ({error})") from error


def check_unicode(text: str) -> None:
    """Raises UserError for half of a surrogate pair, which has no UTF-8 encoding."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"character {error.start} is U+{ord(text[error.start]):X}, half of a surrogate pair"
        raise UserError(f"the text is not Unicode: {half}; remove it") from error
