"""The settings of a run: what was asked for, what follows from it, and how they are kept."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minislm.config import (
    PRESETS,
    RATES,
    DataConfig,
    ModelConfig,
    TrainConfig,
    build,
    from_dict,
    to_dict,
)
from minislm.runtime.errors import CheckpointError, UserError
from minislm.tasks import TASKS, pair

UNARY_CONTEXT = 1536  # the longest unary pair fits, where digits merge


@dataclass(frozen=True)
class Settings:
    """Everything a run was asked for; kept in its folder as run.json."""

    model: ModelConfig
    data: DataConfig
    train: TrainConfig

    def as_dict(self) -> dict[str, Any]:
        return {name: to_dict(config) for name, config in vars(self).items()}

    @classmethod
    def read(cls, run: Path) -> Settings:
        """The settings in a run folder; raises CheckpointError naming the file."""
        path = run / "run.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            parts = (("model", ModelConfig), ("data", DataConfig), ("train", TrainConfig))
            return cls(**{name: from_dict(config, values[name]) for name, config in parts})
        except FileNotFoundError as error:
            raise CheckpointError(f"{path} is missing: {run} is no run of train.py") from error
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


def settings_from(flags: argparse.Namespace) -> Settings:
    """The settings of a new run: preset, then flags; what is left open is decided here."""
    data, train = build(DataConfig, flags), build(TrainConfig, flags)
    base = dict(PRESETS[train.preset])
    train = build(TrainConfig, flags, RATES.get(train.preset, {}))
    named = task_names(data) if data.tasks not in ("auto", "all", "none") else []
    if "unary" in named:
        base.setdefault("context", UNARY_CONTEXT)
    if data.stories is None:
        data = changed(data, stories=2 if named else 6_000)
    if data.vocab is None:  # the generator knows fewer words than people do
        data = changed(data, vocab=4096 if data.data else 2048)
    if data.digits == "auto":
        data = changed(data, digits="merged" if "unary" in named else "single")
    if train.steps is None and train.minutes is None:
        train = changed(train, minutes=3.5)
    return Settings(build(ModelConfig, flags, base), data, train)


def changed(config: Any, **changes: Any) -> Any:
    """The same config with some fields changed, checked as it is made."""
    return type(config)(**(to_dict(config) | changes))


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
