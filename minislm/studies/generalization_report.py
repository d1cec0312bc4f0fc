"""What the verdict's rows say: tables, pictures, and for each task a verdict by a stated rule."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minislm.reporting.intervals import of_rates, wilson
from minislm.reporting.plots import bars
from minislm.reporting.tables import markdown_table
from minislm.studies.baselines import HEURISTICS
from minislm.studies.runner import Row
from minislm.tasks import TASKS, pair

LEARNED, FOUND, SHALLOW, EXPLAINED = 0.9, 0.8, 0.2, 0.3  # the rule's borders; see RULE
RULE = f"""The rule: a subject that answers less than {LEARNED:.0%} of D_train has not learned the \
task, and nothing is said about it. Where the whole interval of D_test is above {FOUND:.0%} it has \
found the rule; where it is below {SHALLOW:.0%} it leans on something shallow: on a heuristic of \
ours, if at least {EXPLAINED:.0%} of all its answers on D_test are that heuristic's wrong answers; \
else on something that these heuristics do not describe. In between, it has found a part. Two \
subjects differ where their intervals do not touch. An interval is the wider of Student's over the \
seeds and Wilson's over all answers.
"""
SHOWN = ("scratch", "plain stories", "shuffled words", "transferred")
_PROBES = {"wording": "other wording", "spaces": "double spaces", "beyond": "101 to 200"}


Rate = tuple[float, float, float]  # mean and interval


@dataclass
class Asked:
    """All runs of one subject on one task."""

    runs: list[dict[str, Any]] = field(default_factory=list)

    def rate(self, group: str) -> Rate | None:
        """Mean and interval of the right answers of a group; None if nothing fitted."""
        counts = [run[group] for run in self.runs if group in run and run[group][1]]
        return of_rates(*zip(*counts)) if counts else None

    def range(self) -> tuple[float, float]:
        rates = [run["test"][0] / run["test"][1] for run in self.runs]
        return min(rates), max(rates)


@dataclass
class Found:
    """The rows, sorted: subjects by task, baselines by task, and what each run did beside."""

    subjects: dict[str, dict[str, Asked]]
    baselines: dict[str, dict[str, dict[str, Any]]]
    runs: dict[str, list[dict[str, Any]]]
    pretrained: list[Row]
    tasks: list[str]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Found:
        found = cls({}, {}, {}, [], [])
        for row in rows:
            job, result = row["job"], row["result"]
            if job["kind"] == "pretrain":
                found.pretrained.append(row)
            elif job["kind"] == "baseline":
                found.baselines.setdefault(job["name"], {})[job["task"]] = result
            elif job["kind"] == "subject":
                name = job["subject"]["name"]
                found.runs.setdefault(name, []).append(result)
                for task, answers in result["tasks"].items():
                    of_subject = found.subjects.setdefault(name, {})
                    of_subject.setdefault(task, Asked()).runs.append(answers)
        asked = next(iter(found.baselines.values()), {})
        found.tasks = [task for task in TASKS if task in asked]
        return found

    def rate(self, subject: str, task: str, group: str) -> Rate | None:
        """Mean and interval of a subject's right answers; None where it was not asked."""
        return self.subjects.get(subject, {}).get(task, Asked()).rate(group)

    def agreement(self, subject: str, task: str) -> dict[str, float]:
        """For each heuristic: what share of the answers on D_test are its wrong ones."""
        shares = {}
        runs = self.subjects[subject][task].runs
        for name in HEURISTICS:
            says = self.baselines[name][task]["said"]
            hits = [
                answer == says[i] and answer != {"text": pair(task, int(i)).answer, "finished": True}
                for run in runs for i, answer in run["said"].items()
            ]  # fmt: skip
            shares[name] = float(np.mean(hits)) if hits else 0.0
        return shares


def report(rows: list[Row], folder: Path) -> str:
    """The Markdown report; writes its two pictures into the folder."""
    found = Found.of(rows)
    seeds = max(len(asked.runs) for tasks in found.subjects.values() for asked in tasks.values())
    pictures = _draw(found, folder)
    return "\n".join((
        f"{seeds} seeds (0 to {seeds - 1}) of every subject that is trained. "
        f"D_train: the pairs with i mod 10 not in "
        f"{{1, 3, 7}}; D_test: the others.\n\n{_confounds(found)}",
        "## The verdict\n\n" + RULE,
        "".join(f"- **{task}**: {verdict(found, task)}\n" for task in found.tasks),
        _count_transfers(found),
        pictures[0],
        "## The evaluator, proved\n\nDummyModel(accuracy) through the same sampler and evaluation: "
        "right answers of all questions of a task.\n\n" + _dummies(found),
        "## The heuristics: D_train, D_test\n\n" + _heuristics(found),
        "## All subjects: D_test, mean and 95 % interval (lowest to highest seed)\n\n"
        + _rates(found, "test"),
        "## All subjects: D_train\n\n" + _rates(found, "train"),
        *pictures[1:],
        "## Which rule did it learn? Share of answers on D_test that are a heuristic's wrong "
        "ones\n\n" + _agreements(found),
        "## Disturbed prompts: right answers over all tasks\n\nOther wording and double spaces "
        "are asked of the pairs shown, so a list of cases would answer them too if it were not "
        "tied to the prompt's letters.\n\n" + _probes(found),
        "## What fine-tuning costs: bits per byte on plain stories\n\n" + _forgetting(found),
        "## Pre-training\n\n" + _pretraining(found),
    ))  # fmt: skip


def verdict(found: Found, task: str) -> str:
    """One sentence a subject of interest, by RULE."""
    parts = [f"{name} {_judged(found, name, task)}" for name in ("scratch", "transferred")
             if task in found.subjects.get(name, {})]  # fmt: skip
    if len(parts) == 2:
        parts.append(_compared(found, task, "scratch", "the stories", "help"))
    controls = (
        ("plain stories", "numbers in the stories", "help"),
        ("shuffled words", "the order of the words", "matters"),
    )
    for control, what, helps in controls:
        if {control, "transferred"} <= {n for n, t in found.subjects.items() if task in t}:
            parts.append(_compared(found, task, control, what, helps))
    control = "scratch, random 30 held out"
    if task in found.subjects.get(control, {}):
        rate = found.subjects[control][task].rate("test")
        parts.append(f"with random pairs held out scratch answers {_span(rate)}")
    return "; ".join(parts) + "."


def _judged(found: Found, subject: str, task: str) -> str:
    asked = found.subjects[subject][task]
    train, test = asked.rate("train"), asked.rate("test")
    if train is None or test is None:
        return "was not asked: no pair fits"
    if train[0] < LEARNED:
        return f"has not learned the task ({train[0]:.0%} of D_train)"
    if test[1] >= FOUND:
        return f"has found the rule ({_span(test)})"
    if test[2] > SHALLOW:
        low, high = asked.range()
        return f"has found a part ({_span(test)}; seeds from {low:.0%} to {high:.0%})"
    shares = found.agreement(subject, task)
    name = max(shares, key=shares.get)
    if shares[name] >= EXPLAINED:
        return f"leans on a heuristic ({_span(test)}): {shares[name]:.0%} are those of '{name}'"
    return f"leans on something shallow ({_span(test)}) that no heuristic here describes"


def _compared(found: Found, task: str, without: str, what: str, helps: str) -> str:
    """Whether the transferred subject is better than one `without` something."""
    a, b = (found.rate(name, task, "test") for name in ("transferred", without))
    if a is None or b is None:
        return f"{what}: not asked"
    if _above(a, b):
        return f"{what} {helps} ({b[0]:.0%} without)"
    if _above(b, a):
        return f"{what} harm ({b[0]:.0%} without)"
    return f"{what}: no difference that can be told ({b[0]:.0%} without)"


def _above(one: Rate, other: Rate) -> bool:
    """Whether the whole interval of one lies above the other's."""
    return one[1] > other[2]


def _count_transfers(found: Found) -> str:
    if not {"scratch", "transferred"} <= set(found.subjects):
        return ""
    better = []
    for task in found.tasks:
        a, b = (found.rate(name, task, "test") for name in ("transferred", "scratch"))
        if a and b and _above(a, b):
            better.append(task)
    return (
        f"Transferred beats scratch on D_test, with intervals that do not touch, on {len(better)} "
        f"of {len(found.tasks)} tasks: {', '.join(better) or 'none'}.\n"
    )


def _confounds(found: Found) -> str:
    lines = []
    for task in found.tasks:
        fitting = {run["fitting"] for tasks in found.subjects.values() if task in tasks
                   for run in tasks[task].runs}  # fmt: skip
        if fitting and min(fitting) < 100:
            lines.append(f"`{task}`: only {min(fitting)} of the 100 pairs fit the context of 512 "
                         "tokens and are trained and asked.")  # fmt: skip
    return "".join(f"Confound: {line}\n\n" for line in lines)


def _dummies(found: Found) -> str:
    lines = []
    for name, tasks in found.baselines.items():
        if not name.startswith("dummy"):
            continue
        right = [tasks[t]["train"][0] + tasks[t]["test"][0] for t in found.tasks]
        asked = [tasks[t]["train"][1] + tasks[t]["test"][1] for t in found.tasks]
        low, high = wilson(sum(right), sum(asked))
        lines.append([name, *(f"{r}/{a}" for r, a in zip(right, asked)),
                      f"{sum(right) / sum(asked):.1%} ({low:.1%} to {high:.1%})"])  # fmt: skip
    return markdown_table(("model", *found.tasks, "all"), lines)


def _heuristics(found: Found) -> str:
    def cell(result: dict[str, Any]) -> str:
        return ", ".join(f"{r / n:.0%}" if n else "-" for r, n in
                         (result["train"], result["test"]))  # fmt: skip

    lines = [[name, *(cell(found.baselines[name][t]) for t in found.tasks)] for name in HEURISTICS]
    return markdown_table(("heuristic", *found.tasks), lines)


def _rates(found: Found, group: str) -> str:
    lines = []
    for name, tasks in found.subjects.items():
        cells = []
        for task in found.tasks:
            rate = found.rate(name, task, group)
            if rate is None:
                cells.append("-")
            elif group == "train":
                cells.append(f"{rate[0]:.0%}")
            else:
                low, high = tasks[task].range()
                cells.append(f"{_span(rate)} ({low:.0%} to {high:.0%})")
        lines.append([name, *cells])
    return markdown_table(("subject", *found.tasks), lines)


def _agreements(found: Found) -> str:
    lines = []
    for name in (*SHOWN, "one block, scratch", "reference, scratch", "reference, transferred"):
        for task in found.tasks:
            if task not in found.subjects.get(name, {}):
                continue
            shares = found.agreement(name, task)
            right = found.subjects[name][task].rate("test")
            if right is not None and max(shares.values()) >= 0.05:
                lines.append([name, task, f"{right[0]:.0%}",
                              *(f"{share:.0%}" for share in shares.values())])  # fmt: skip
    return markdown_table(("subject", "task", "right", *HEURISTICS), lines)


def _probes(found: Found) -> str:
    lines = []
    for name, tasks in found.subjects.items():
        cells = []
        for probe in ("train", *_PROBES):
            counts = [run[probe] for asked in tasks.values() for run in asked.runs
                      if run.get(probe, (0, 0))[1]]  # fmt: skip
            right, asked = (sum(each) for each in zip(*counts)) if counts else (0, 0)
            cells.append(f"{right / asked:.0%}" if asked else "-")
        lines.append([name, *cells])
    return markdown_table(("subject", "as shown", *_PROBES.values()), lines)


def _forgetting(found: Found) -> str:
    lines = []
    for name, runs in found.runs.items():
        trained = [run for run in runs if "after" in run]
        if not trained:
            continue
        mean = lambda key: float(np.mean([run[key] for run in trained]))  # noqa: E731
        lines.append([name, f"{mean('before'):.3f}", f"{mean('after'):.3f}", f"{mean('steps'):.0f}",
                      f"{mean('loss'):.4f}"])  # fmt: skip
    head = ("subject", "before", "after", "steps of fine-tuning", "last loss")
    return markdown_table(head, lines)


def _pretraining(found: Found) -> str:
    lines = [
        [row["job"]["shape"], row["job"]["text"], str(row["job"]["seed"]),
         f"{row['result']['parameters']:,}", f"{row['result']['steps']:,}",
         f"{row['result']['train_loss']:.3f}", f"{row['result']['bits_per_byte']:.3f}",
         f"{row['seconds']:.0f}"]
        for row in found.pretrained
    ]  # fmt: skip
    head = ("shape", "text", "seed", "parameters", "steps", "training loss",
            "bits per byte (same kind of text, held out)", "seconds")  # fmt: skip
    return markdown_table(head, lines)


def _draw(found: Found, folder: Path) -> list[str]:
    """The subjects of the verdict, and the others, as Markdown."""
    others = (
        "one block, scratch",
        "one block, transferred",
        "reference, scratch",
        "reference, transferred",
        "all tasks together",
        "scratch, random 30 held out",
    )
    pictures = []
    for file, names in (("verdict.png", SHOWN), ("subjects.png", others)):
        series = {
            name: [found.rate(name, task, "test") for task in found.tasks]
            for name in names if name in found.subjects
        }  # fmt: skip
        if series:
            pictures.append(bars(found.tasks, series, "right on D_test", folder / file))
    return pictures


def _span(rate: Rate) -> str:
    return f"{rate[0]:.0%} [{rate[1]:.0%}, {rate[2]:.0%}]"
