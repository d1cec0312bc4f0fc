"""The settings of a run: the flags given, what follows from them, and how they are stored."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from minislm.cli.config import DataConfig, RunConfig
from minislm.cli.options import build
from minislm.config import PRESET_TRAINING, PRESETS, ModelConfig, TrainConfig, flag_name
from minislm.runtime.errors import CheckpointError, UserError
from minislm.tasks import TASKS, pair

UNARY_CONTEXT = 1536  # the longest unary pair fits, where digits merge
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

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it. The settings of training and of the run are one group there."""
        model, data, train, run = map(asdict, (self.model, self.data, self.train, self.run))
        return {"model": model, "data": data, "train": train | run}

    @classmethod
    def read(cls, run: Path) -> Settings:
        """The settings in a run folder; raises CheckpointError naming the file."""
        path = run / "run.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            train, own = _split(values["train"], RunConfig)
            return cls(
                from_dict(ModelConfig, values["model"]), from_dict(DataConfig, values["data"]),
                from_dict(TrainConfig, train), from_dict(RunConfig, own),
            )  # fmt: skip
        except FileNotFoundError as error:
            raise CheckpointError(f"{path} is missing: {run} is not a run of train.py") from error
        except (UserError, OSError, ValueError, LookupError, TypeError, AttributeError,
                RecursionError) as error:  # fmt: skip
            raise CheckpointError(f"{path} is damaged ({error}); train again") from error

    @staticmethod
    def tasks(run: Path) -> list[str]:
        """The tasks whose pairs a run was trained on."""
        try:
            names = json.loads((run / "run.json").read_text(encoding="utf-8"))["tasks"]
            return [name for name in names if TASKS[name]]
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise CheckpointError(f"{run / 'run.json'} is damaged; train again") from error


def _split(values: Mapping[str, Any], config: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values of other configs, and those of `config`."""
    names = {each.name for each in fields(config)}
    own = {name: value for name, value in values.items() if name in names}
    rest = {n: value for n, value in values.items() if n not in names and n not in _REMOVED}
    return rest, own


def settings_from(flags: argparse.Namespace) -> Settings:
    """The settings of a new run: preset, then flags; what is left open is decided here."""
    data, run = build(DataConfig, flags), build(RunConfig, flags)
    base = dict(PRESETS[run.preset])
    train = build(TrainConfig, flags, PRESET_TRAINING.get(run.preset, {}))
    named = task_names(data) if data.tasks not in ("auto", "all", "none") else []
    if "unary" in named:
        base.setdefault("context", UNARY_CONTEXT)
    if data.stories is None:
        data = replace(data, stories=2 if named else 6_000)
    if data.vocab is None:  # the generator uses fewer words than people do
        data = replace(data, vocab=4096 if data.data else 2048)
    if data.digits == "auto":
        data = replace(data, digits="merged" if "unary" in named else "single")
    if train.steps is None and train.minutes is None:
        train = replace(train, minutes=3.5)
    return Settings(build(ModelConfig, flags, base), data, train, run)


def resumed(flags: argparse.Namespace, run: Path) -> Settings:
    """The settings of a run to be resumed; flags may change its length only.

    Raises:
        UserError: a flag differs from what the run began with.
    """
    kept = Settings.read(run)
    everything = {}
    for part in kept.as_dict().values():
        everything |= part
    for name, value in vars(flags).items():
        if name not in _CHANGEABLE and everything[name] != value:
            raise UserError(
                f"{flag_name(name)} {value} differs from {everything[name]} of {run}; a resumed "
                "run keeps its settings: leave the flag out, or start a new run"
            )
    train, own = (build(type(c), flags, asdict(c)) for c in (kept.train, kept.run))
    return replace(kept, train=train, run=own)


def task_names(data: DataConfig) -> list[str]:
    """The tasks that --tasks stands for; raises UserError for an unknown one."""
    if data.tasks == "none" or (data.tasks == "auto" and data.data):
        return []
    if data.tasks in ("auto", "all"):
        return list(TASKS)
    names = [name.strip() for name in data.tasks.split(",")]
    for name in names:
        pair(name, 1)
    return names


def from_dict(config: type, values: dict[str, Any]) -> Any:
    """The config whose `dataclasses.asdict` was written as JSON; lists become tuples again.

    Raises:
        UserError: an unknown field, or a value of the wrong type.
    """
    types = get_type_hints(config)
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    for name, value in values.items():
        if name not in types:
            raise UserError(f"unknown setting {name!r}; it was written by another version")
        if not _has_type(value, types[name]):
            raise UserError(f"{name} is {value!r:.60}, which is of the wrong type")
    return config(**values)


def _has_type(value: Any, kind: Any) -> bool:
    """Whether a value from JSON has a field's type: int, str | None, tuple[int, ...] and so on."""
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_has_type(v, get_args(kind)[0]) for v in value)
    if get_args(kind):
        return any(_has_type(value, each) for each in get_args(kind))
    return type(value) in ((int, float) if kind is float else (kind,))
