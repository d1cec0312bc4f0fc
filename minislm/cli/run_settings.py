"""A run: its settings, from flags or from its folder, and the folder, new, newest or locked."""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from minislm.checkpoint import CONFIG, STATE, STATES
from minislm.cli.config import DataConfig, RunConfig
from minislm.cli.options import build, only_with
from minislm.config import PRESET_TRAINING, PRESETS, ModelConfig, TrainConfig, flag_name
from minislm.runtime.errors import CheckpointError, UserError
from minislm.runtime.files import lock_file, os_error, read_text
from minislm.tasks import TASKS, pair

_RUNS, _FILE = Path("runs"), "run.json"
_FINE_TUNING = dict(learning_rate=3e-3, matrix_rate=0.01)  # with --init-from: cli/README.md
# Settings that a resumed run may change: how long it is, and how it is run.
_CHANGEABLE = {"resume", "out", "steps", "minutes", "threads", "json", "evals", "samples", "keep"}
_REMOVED = {"processes"}  # settings of earlier versions, without a meaning today


@dataclass(frozen=True)
class Settings:
    """Everything that defines a run; stored in its folder as run.json."""

    model: ModelConfig
    data: DataConfig
    train: TrainConfig
    run: RunConfig

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """As JSON can hold it. The settings of training and of the run are one group there."""
        model, data, train, run = map(asdict, vars(self).values())
        return {"model": model, "data": data, "train": train | run}

    @classmethod
    def read(cls, run: str | Path) -> Settings | None:
        """The settings in a folder, None if it is no run; CheckpointError: run.json is damaged."""
        if not Path(run, _FILE).exists():
            return None
        with _contents(run) as values:
            return cls(*from_json(values["model"], ModelConfig),
                       *from_json(values["data"], DataConfig),
                       *from_json(values["train"], TrainConfig, RunConfig))  # fmt: skip

    @staticmethod
    def tasks(run: str | Path) -> list[str]:
        """The tasks whose pairs a run was trained on; CheckpointError: run.json is damaged."""
        with _contents(run) as values:
            return [name for name in values["tasks"] if TASKS[name]]


@contextmanager
def _contents(run: str | Path) -> Iterator[Any]:
    """The contents of run.json; errors in the block that uses them raise CheckpointError."""
    try:
        yield json.loads(read_text(Path(run, _FILE)))
    except (UserError, ValueError, LookupError, TypeError, AttributeError,
            RecursionError) as error:  # fmt: skip
        raise CheckpointError(f"{Path(run, _FILE)} is damaged ({error}); train again") from error


def settings_from(flags: argparse.Namespace) -> Settings:
    """The settings of a new run: preset, then flags, then what follows from them."""
    if getattr(flags, "tasks", "") == "unary" and not {"preset", "init_from"} & vars(flags).keys():
        flags.preset = "unary"  # what solves the task
    run = build(RunConfig, flags)
    base = _FINE_TUNING if run.init_from else PRESET_TRAINING.get(run.preset, {})
    if "minutes" in flags:
        base = base | {"steps": None}
    data, train, run = (build(each, flags, base) for each in (DataConfig, TrainConfig, RunConfig))
    wrong = data.data and "data" or data.pairs and "pairs" or data.tasks == "none" and "tasks none"
    if train.curriculum and wrong:
        raise UserError(f"--preset unary is for pairs of --tasks alone: leave out --{wrong}")
    only_with(flags, ("trainable",), "init_from")
    fixed = ("preset", "vocab", "digits", *vars(ModelConfig()))
    if given := [name for name in fixed if run.init_from and name in flags]:
        raise UserError(f"leave out {flag_name(given[0])}: --init-from keeps shape and tokenizer")
    named = task_names(data) if data.tasks not in ("auto", "all", "none") else []
    if data.stories is None:
        data = replace(data, stories=2 if named or data.pairs else 6_000)
    if data.vocab is None:  # the generator uses fewer words than people do
        data = replace(data, vocab=4096 if data.data else 2048)
    if train.steps is None and train.minutes is None:
        train = replace(train, minutes=3.5)
    return Settings(build(ModelConfig, flags, PRESETS[run.preset]), data, train, run)


def resumed(flags: argparse.Namespace, run: Path) -> Settings:
    """The settings of a run to be resumed; UserError for a flag that it began without."""
    kept = Settings.read(run)
    if kept is None:
        raise CheckpointError(f"{run / _FILE} is missing: {run} is not a run of train.py")
    before = {name: v for group in kept.as_dict().values() for name, v in group.items()}
    moved = {"data", "valid", "pairs"} if kept.data.content else set()  # their content is compared
    for name, value in vars(flags).items():
        if name not in _CHANGEABLE | moved and before[name] != value:
            advice = "a resumed run keeps its settings: leave the flag out, or start a new run"
            differs = f"{flag_name(name)} {value} differs from {before[name]} of {run}"
            raise UserError(f"{differs}; {advice}")
    configs = (kept.data, kept.train, kept.run)
    return Settings(kept.model, *(build(type(each), flags, asdict(each)) for each in configs))


def task_names(data: DataConfig) -> list[str]:
    """The tasks that --tasks stands for; raises UserError for an unknown one."""
    if data.tasks == "none" or (data.tasks == "auto" and (data.data or data.pairs)):
        return []
    if data.tasks in ("auto", "all"):
        return list(TASKS)
    return [pair(name.strip(), 1).task for name in data.tasks.split(",")]


def from_json(values: dict[str, Any], *configs: type) -> list[Any]:
    """The configs whose fields are in one JSON object, where tuples are lists.
    UserError: an unknown field, or a value of the wrong type."""
    types = {name: kind for each in configs for name, kind in get_type_hints(each).items()}
    values = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()
              if n not in _REMOVED}  # fmt: skip
    for name, value in values.items():
        if name not in types:
            raise UserError(f"unknown setting {name!r}; it was written by another version")
        if not _has_type(value, types[name]):
            raise UserError(f"{name} is {value!r:.60}, which is of the wrong type")
    return [build(config, argparse.Namespace(**values)) for config in configs]


def _has_type(value: Any, kind: Any) -> bool:
    """Whether a value from JSON has a field's type: int, str | None, tuple[int, ...] and so on."""
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_has_type(v, get_args(kind)[0]) for v in value)
    if get_args(kind):
        return any(_has_type(value, each) for each in get_args(kind))
    return type(value) in ((int, float) if kind is float else (kind,))


def newest_run(*files: str) -> Path:
    """The run folder with the newest of `files` (default: weights). UserError: there is none."""
    files = files or (CONFIG,)
    found = [path for file in files for path in _RUNS.glob(f"*/{file}")]
    if not found:
        raise UserError(f"no run with {files[0]} in {_RUNS}/ yet; train one with: python train.py")
    return max(found, key=lambda path: path.stat().st_mtime).parent


def new_run(name: str, out: str | None) -> Path:
    """The folder of a new run: `out`; or runs/NAME, with -2, -3 and so on if that is taken.
    UserError: `out` is a file, or holds a run, which is never overwritten."""
    names = itertools.chain([name], (f"{name}-{n}" for n in itertools.count(2)))
    for run in [Path(out)] if out else (_RUNS / each for each in names):
        if run.exists() and not run.is_dir():
            raise UserError(f"--out {run} is a file; give a folder")
        taken = any((run / file).exists() for file in (CONFIG, STATE))
        if not out:
            try:
                run.mkdir(parents=True)  # one of two runs that start together can
            except OSError:  # `lock_run` reports any other reason
                taken = run.is_dir()
        if not taken:
            return run
    raise UserError(f"--out {out} holds a run already, or a model; give --resume, or another --out")


@contextmanager
def lock_run(run: Path) -> Iterator[None]:
    """Keep a run folder for this process, and remove files left by an interrupted run.
    UserError: another process trains there, or the folder cannot be written to."""
    try:
        run.mkdir(parents=True, exist_ok=True)
        file = open(run / ".lock", "ab")
    except OSError as error:
        raise os_error(f"write to {run}", error, "give another folder as --out") from error
    with file:
        if not lock_file(file, wait=False):
            raise UserError(f"another process trains in {run}; wait for it, or give another --out")
        for temporary in (*run.glob(".*.tmp"), *run.glob(f"{STATES}/.*.tmp")):
            temporary.unlink(missing_ok=True)
        new = not (run / _FILE).exists()
        try:
            yield
        except UserError:  # a new run that was refused before it began leaves no folder
            if new and {path.name for path in run.iterdir()} <= {".lock", _FILE}:
                shutil.rmtree(run)
            raise
