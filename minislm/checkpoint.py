"""Run folders: what a run leaves behind, and how it is found and gone on with.

    config.json, model.safetensors, tokenizer.json, ...   the model kept: a Hugging Face folder
    train_state.pt                                        the last state, for --resume
    states/step-N.pt                                      the last --keep states, if more than one
    metrics.jsonl                                         one JSON object per evaluation

Everything is written beside and renamed, so a reader never meets half a file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from minislm.runtime.errors import CheckpointError, UserError
from minislm.runtime.files import append_line, atomic_path, atomic_write, cannot, lock
from minislm.runtime.pickles import read_pickle

RUNS = Path("runs")
STATE, METRICS, CONFIG = "train_state.pt", "metrics.jsonl", "config.json"
STATES = "states"  # folder of earlier states


def newest_run(runs: Path = RUNS) -> Path:
    """The run folder that was written to last; raises UserError if there is none."""
    found = [path.parent for path in runs.glob(f"*/{CONFIG}")]
    if not found:
        raise UserError(f"no run in {runs}/ yet; train one with: python train.py")
    return max(found, key=lambda run: (run / CONFIG).stat().st_mtime)


def new_run(name: str, out: str | None) -> Path:
    """The folder of a new run: `out`, or runs/NAME, or runs/NAME-2 and so on if that is taken.

    Raises:
        UserError: `out` holds a run already (it is never overwritten), or is a file.
    """
    if out is None:
        names = (name if n == 1 else f"{name}-{n}" for n in range(1, 10_000))
        return next(RUNS / each for each in names if not _taken(RUNS / each))
    run = Path(out)
    if run.exists() and not run.is_dir():
        raise UserError(f"--out {run} is a file; give a folder")
    if _taken(run):
        raise UserError(
            f"--out {run} holds a run already; go on with it by --resume, or choose another folder"
        )
    return run


def _taken(run: Path) -> bool:
    return any((run / name).exists() for name in (CONFIG, STATE))


@contextmanager
def hold(run: Path) -> Iterator[None]:
    """Keep a run's folder for this process, and clear away what a killed one left half-written.

    Raises:
        UserError: another process trains there, or the folder cannot be written to.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        file = open(run / ".lock", "ab")
    except OSError as error:
        raise cannot(f"write to {run}", error, "choose another folder with --out") from error
    with file:
        if not lock(file, wait=False):
            raise UserError(f"another process trains in {run}; wait for it, or give another --out")
        for half in (*run.glob(".*.tmp"), *run.glob(f"{STATES}/.*.tmp")):
            half.unlink(missing_ok=True)
        try:
            yield
        finally:  # a run that was refused before it began leaves no folder
            if [path.name for path in run.iterdir()] == [".lock"]:
                (run / ".lock").unlink()
                run.rmdir()


def save_state(run: Path, state: dict[str, Any], keep: int = 1) -> None:
    """Write the training state (tensors and plain containers only) and keep the last `keep`.

    The newest is always train_state.pt; older ones are dropped after it is on the disk.

    Raises:
        UserError: the disk is full or the folder cannot be written to; the last state is as it was.
    """
    with atomic_path(run / STATE) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch's word for a disk that is full
            raise OSError(str(error).splitlines()[0]) from error
    if keep < 2:
        return
    with atomic_path(run / STATES / f"step-{state['step']:08d}.pt") as temporary:
        os.link(run / STATE, temporary)  # the same bytes under a second name
    for old in sorted((run / STATES).glob("step-*.pt"))[:-keep]:
        old.unlink(missing_ok=True)


def load_state(run: Path) -> dict[str, Any]:
    """The training state of a run; raises CheckpointError naming the file."""
    path = run / STATE
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing: there is no state to go on with; check --out, or start a new run"
        )
    try:
        state = read_pickle(path)
    except CheckpointError as error:
        earlier = sorted((run / STATES).glob("step-*.pt"))
        hint = f"copy {earlier[-1]} over it" if earlier else "start a new run with another --out"
        raise CheckpointError(f"{path} is damaged or not a training state; {hint}") from error
    if not isinstance(state, dict) or "step" not in state:
        raise CheckpointError(f"{path} is not a training state; start a new run")
    return state


def append_metrics(run: Path, record: dict[str, Any]) -> None:
    """Add one line; raises UserError where the disk is full."""
    append_line(run / METRICS, json.dumps(record), "give --resume")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The records so far; a last line that a crash cut short is left out."""
    path = run / METRICS
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def rewind_metrics(run: Path, step: int) -> None:
    """Forget what was recorded after `step`: a resumed run will record it again."""
    kept = [record for record in read_metrics(run) if record["step"] <= step]
    atomic_write(run / METRICS, "".join(json.dumps(record) + "\n" for record in kept))
