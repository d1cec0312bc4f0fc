"""Run folders: what a run leaves behind, and how it is found and gone on with.

    config.json, model.safetensors, tokenizer.json, ...   the model kept: a Hugging Face folder
    train_state.pt                                        the last state, for --resume
    metrics.jsonl                                         one JSON object per evaluation

Everything is written beside and renamed, so a reader never meets half a file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from minislm.errors import CheckpointError, UserError
from minislm.files import atomic_path, atomic_write
from minislm.pickles import read_pickle

RUNS = Path("runs")
STATE, METRICS, CONFIG = "train_state.pt", "metrics.jsonl", "config.json"


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


def save_state(run: Path, state: dict[str, Any]) -> None:
    """Write the training state: tensors and plain containers only."""
    with atomic_path(run / STATE) as temporary:
        torch.save(state, temporary)


def load_state(run: Path) -> dict[str, Any]:
    """The training state of a run; raises CheckpointError naming the file."""
    path = run / STATE
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: there is no run to go on with; check --out")
    try:
        state = read_pickle(path)
    except CheckpointError as error:
        raise CheckpointError(
            f"{path} is damaged or not a training state; start a new run with another --out"
        ) from error
    if not isinstance(state, dict) or "step" not in state:
        raise CheckpointError(f"{path} is not a training state; start a new run")
    return state


def append_metrics(run: Path, record: dict[str, Any]) -> None:
    with open(run / METRICS, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


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
