"""eval.py --study: run a study and print its report."""

import shlex
import sys
from dataclasses import replace

from minislm.cli.config import DataConfig
from minislm.cli.run_settings import task_names
from minislm.runtime.errors import UserError, log
from minislm.studies import generalization, trends
from minislm.studies.config import StudyConfig
from minislm.studies.runner import run_study


def study(config: StudyConfig, tasks: str, text: str | None) -> None:
    """Run a study, or the trials that it lacks, and print its report.
    tasks, text: as in --tasks and --data; "auto": the study's own.
    UserError: an unknown task, or a flag that the study does not take; or see `run_study`."""
    own = trends.STUDY if config.study == "trends" else generalization.STUDY
    flag, given = ("tasks", tasks != "auto") if own is trends.STUDY else ("data", text)
    if given:
        raise UserError(f"--study {config.study} does not use --{flag}; leave it out")
    config = replace(config, text=text)
    if tasks != "auto":
        config = replace(config, only=tuple(task_names(DataConfig(tasks=tasks))))
    words = iter(sys.argv[1:])  # without --out FOLDER, so that reports of two machines are equal
    shown = [word for word in words if word != "--out" or not next(words, "")]
    command = f"python eval.py {shlex.join(shown)}"
    path = run_study(config.study, own, config, command)
    print(path.read_text(encoding="utf-8"))
    log(f"report: {path}")
