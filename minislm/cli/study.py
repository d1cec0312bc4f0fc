"""The studies by name: each is a plan, a way to do one job of it, and a report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace

from minislm.cli.config import DataConfig
from minislm.cli.run_settings import task_names
from minislm.runtime.errors import UserError, log
from minislm.studies import (
    data_scaling,
    generalization,
    generalization_report,
    hyperparameters,
    word_classes,
)
from minislm.studies.config import StudyConfig
from minislm.studies.runner import Study, run

STUDIES = {
    "generalization": Study(generalization.plan, generalization.work, generalization_report.report),
    "word-classes": Study(word_classes.plan, word_classes.work, word_classes.report),
    "data": Study(data_scaling.plan, data_scaling.work, data_scaling.report),
    "hyperparameters": Study(hyperparameters.plan, hyperparameters.work, hyperparameters.report),
}


def study(config: StudyConfig, tasks: str, models: Sequence[str]) -> None:
    """Run a study, or what is left of it, and print its report.

    Args:
        tasks: as --tasks has them; "auto": those that the study is about.
        models: asked beside the study's own subjects.

    Raises:
        UserError: an unknown task, or tasks or models for a study that has none; a worker that was
            killed; a folder that cannot be written to.
    """
    if config.study != "generalization" and (models or tasks != "auto"):
        raise UserError(f"--study {config.study} takes neither --model nor --tasks")
    if tasks != "auto":
        config = replace(config, only=tuple(task_names(DataConfig(tasks=tasks))))
    config = replace(config, models=tuple(models))
    command = "python eval.py " + shlex.join(_shown(sys.argv[1:]))
    path = run(config.study, STUDIES[config.study], config, command)
    print(path.read_text(encoding="utf-8"))
    log(f"report: {path}")


def _shown(arguments: list[str]) -> list[str]:
    """A command line without the folders of this machine: what makes the same report elsewhere."""
    return [each for k, each in enumerate(arguments)
            if each != "--out" and arguments[k - 1 : k] != ["--out"]]  # fmt: skip
