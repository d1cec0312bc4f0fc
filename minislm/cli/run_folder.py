"""Run folders: a new one, the newest one, and one process at a time in each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minislm.checkpoint import CONFIG, STATE, STATES
from minislm.runtime.errors import UserError
from minislm.runtime.files import lock_file, os_error

RUNS = Path("runs")


def newest_run(runs: Path = RUNS) -> Path:
    """The run folder that was written to last; raises UserError if there is none."""
    found = [path.parent for path in runs.glob(f"*/{CONFIG}")]
    if not found:
        raise UserError(f"no run in {runs}/ yet; train one with: python train.py")
    return max(found, key=lambda run: (run / CONFIG).stat().st_mtime)


def new_run(name: str, out: str | None) -> Path:
    """The folder of a new run: `out`; or runs/NAME, with -2, -3 and so on if that is taken.

    Raises:
        UserError: `out` is a file, or holds a run, which is never overwritten.
    """
    if out is None:
        names = (name if n == 1 else f"{name}-{n}" for n in range(1, 10_000))
        return next(RUNS / each for each in names if not _taken(RUNS / each))
    run = Path(out)
    if run.exists() and not run.is_dir():
        raise UserError(f"--out {run} is a file; give a folder")
    if _taken(run):
        raise UserError(
            f"--out {run} holds a run already; resume it with --resume, or choose another folder"
        )
    return run


def _taken(run: Path) -> bool:
    return any((run / name).exists() for name in (CONFIG, STATE))


@contextmanager
def lock_run(run: Path) -> Iterator[None]:
    """Keep a run folder for this process, and remove files left by an interrupted run.

    Raises:
        UserError: another process trains there, or the folder cannot be written to.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        file = open(run / ".lock", "ab")
    except OSError as error:
        raise os_error(f"write to {run}", error, "choose another folder with --out") from error
    with file:
        if not lock_file(file, wait=False):
            raise UserError(f"another process trains in {run}; wait for it, or give another --out")
        for temporary in (*run.glob(".*.tmp"), *run.glob(f"{STATES}/.*.tmp")):
            temporary.unlink(missing_ok=True)
        try:
            yield
        finally:  # a run that was refused before it began leaves no folder
            if [path.name for path in run.iterdir()] == [".lock"]:
                (run / ".lock").unlink()
                run.rmdir()
