"""Options of `eval.py --study`."""

from dataclasses import dataclass

from minislm.config import check, option

STUDIES = ("generalization", "trends")


@dataclass(frozen=True)
class StudyConfig:
    """Studies of many small models (--study)."""

    study: str = option("generalization", "run a study and write its report: generalization "
                        "(reasoning or heuristics?); with --data, trends (size and text)",
                        choices=STUDIES)  # fmt: skip
    quick: bool = option(False, "few seeds and steps, in 10 minutes")
    seeds: int | None = option(None, "seeds of the main arms (default: 16, quick: 2)", minimum=1)
    out: str | None = option(None, "folder of results and report (default: runs/studies/NAME)")
    processes: int | None = option(None, "trials at a time (default: one per core)", minimum=1)
    only: tuple[str, ...] = ()  # the tasks of --tasks; empty: those of the study
    text: str | None = None  # of --data
    __post_init__ = check
