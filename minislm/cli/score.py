"""eval.py --score: models graded side by side, and how far the grades can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from minislm.cli.config import EvalConfig, MachineConfig
from minislm.cli.data import generated
from minislm.cli.open_model import open_model
from minislm.cli.prompts import read_prompts
from minislm.cli.run_settings import Settings
from minislm.corpus.read import read_stories
from minislm.pretrained.hub import find_text
from minislm.reporting.intervals import bootstrap
from minislm.runtime.errors import log
from minislm.runtime.files import write_json
from minislm.scoring import grading
from minislm.scoring import rules as scores
from minislm.scoring.config import ScoreConfig
from minislm.scoring.judge import AGES, ASKED, Judge, Verdict
from minislm.scoring.ngrams import Library
from minislm.scoring.prompts import BEGINNINGS

_READ = 20_000  # stories of the training text that are searched for what was copied
_CACHE = Path("runs/cache/judge.jsonl")


def score(
    sources: Sequence[str | None], config: ScoreConfig, evaluated: EvalConfig,
    machine: MachineConfig,
) -> None:  # fmt: skip
    """Grade every model, and print the table, the raw measures, and what was asked for beside.

    Raises:
        UserError: a model, a file or a judge that is not there or does not answer.
    """
    if config.sensitivity:
        print(grading.sensitivity_table(grading.sensitivity()), end="\n\n")
    grader = open_model(config.grader, machine)[1:] if config.grader else None
    measured = grading.MEASURED
    if config.human is not None:
        measured = grading.agreement(grading.read_human(config.human), grader)
        print(grading.agreement_table(measured), end="\n\n")
    if not sources and (config.sensitivity or config.human):
        return  # nothing but the scores themselves was asked about
    judge = None
    if config.judge:
        judge = Judge(config.judge, config.judge_model, _CACHE, budget=config.judge_budget)
    prompts = read_prompts([], config.prompt_file) if config.prompt_file else BEGINNINGS
    graded, judged = [], {}
    for source in sources or [None]:
        name, model, tokenizer = open_model(source, machine)
        log(f"grading {name}: {config.samples} texts")
        graded.append(grading.grade(
            name, model, tokenizer, completions=config.samples, prompts=prompts,
            library=_library(name, evaluated.data), grader=grader, seed=0,
        ))  # fmt: skip
        if judge:
            judged[name] = judge.judge(graded[-1].texts)
    print(grading.table(graded, measured))
    hidden = [d for d, there in grading.shown(measured).items() if not there]
    for dimension in hidden:
        print(f"{dimension} is not shown: it follows people no better than length or likelihood")
    print("\n" + grading.raw_table(graded))
    if judge:
        print("\n" + judge_table(graded, judged))
    if machine.json:
        write_json(machine.json, {"models": {g.name: _entry(g) for g in graded}})


def _library(name: str, data: str | None) -> Library | None:
    """The text a model was trained on: --data, or what its run.json names; None if not known."""
    run = Path(name)
    if data is None and not (run / "run.json").is_file():
        return None
    if data is None:
        settings = Settings.read(run)
        data = settings.data.data
        if data is None:
            return Library(generated(settings.data.stories, settings.train.seed))
    return Library(islice(read_stories(find_text(data)[0]), _READ))


def _entry(graded: grading.Graded) -> dict[str, object]:
    entry: dict[str, object] = {}
    for dimension in scores.DIMENSIONS:
        values = graded.values(dimension)
        low, high = bootstrap(values)
        entry[dimension] = {"mean": float(np.mean(values)), "low": low, "high": high}
    entry["questions"] = {kind: list(counts) for kind, counts in graded.questions.items()}
    return entry


def judge_table(graded: Sequence[grading.Graded], judged: dict[str, list[Verdict | None]]) -> str:
    """What the judge says of each model, and its rank correlation with the local scores."""
    lines = [f"{'judge':<24}" + "".join(f"{name:>13}" for name in ASKED) + f"{'age':>13}  texts"]
    local: dict[str, list[float]] = {name: [] for name in ASKED}
    others: dict[str, list[float]] = {name: [] for name in ASKED}
    for g in graded:
        given = [(text, v) for text, v in zip(g.texts, judged[g.name]) if v is not None]
        if not given:
            lines.append(f"{g.name:<24} no usable answer")
            continue
        ages = sorted(v.age for _, v in given)
        cells = [f"{np.mean([getattr(v, name) for _, v in given]):>13.2f}" for name in ASKED]
        middle = AGES[ages[len(ages) // 2]]
        lines.append(f"{g.name:<24}" + "".join(cells) + f"{middle:>13}  {len(given)}")
        for text, verdict in given:
            measures = scores.measure(*text)
            for name in ASKED:
                local[name].append(getattr(measures, name))
                others[name].append(getattr(verdict, name))
    if len(local[ASKED[0]]) > 2:
        cells = [grading.spearman(np.array(local[n]), np.array(others[n])) for n in ASKED]
        lines.append(f"{'agrees with our scores':<24}" + "".join(f"{c:>13.2f}" for c in cells))
    return "\n".join(lines)
