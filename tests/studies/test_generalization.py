"""The generalization study: its plan, its rules, and a report that follows from its results."""

import json
import re
from pathlib import Path

import pytest
from helpers import ROOT

from minislm.reporting.intervals import clopper_pearson
from minislm.studies import arms, generalization
from minislm.studies.config import StudyConfig
from minislm.studies.generalization import STUDY, Results, heuristics, learn, places, plan
from minislm.studies.runner import read_rows
from minislm.tasks import TASKS, pairs

KEPT = ROOT / "data" / "studies" / "generalization"


def trials(**options):
    return [trial for phase in plan(StudyConfig(**options)) for trial in phase]


def test_every_seed_is_independent_and_none_was_used_to_find_the_recipe():
    planned = [t for t in trials() if t["kind"] == "arm"]
    keys = [json.dumps(trial, sort_keys=True) for trial in trials()]
    assert len(set(keys)) == len(keys)
    assert min(trial["seed"] for trial in planned) >= 3000
    unary = [t["arm"]["name"] for t in planned if t["task"] == "unary"]
    for arm in (arms.RUN, *arms.OTHERS, *arms.LONGER):
        assert unary.count(arm.name) == 16
    starts = {(t["arm"]["name"], t["seed"]) for t in trials() if t["kind"] == "pretrain"}
    pretrained = [t for t in planned if t["arm"]["text"]]  # each with a model of its own
    assert {(t["arm"]["name"], t["seed"]) for t in pretrained} == starts
    for only, names in (("unary", {arms.AFTER.name}), ("count", {arms.DRILLED.name}),
                        ("parity", {arms.NUMBERS.name, arms.BROKEN.name})):  # fmt: skip
        own = [t["arm"]["name"] for t in trials(only=(only,)) if t["kind"] == "pretrain"]
        assert set(own) == names


def test_a_plan_has_the_tasks_given():
    assert {t["task"] for t in trials(only=("copy",)) if "task" in t} == {"copy"}
    assert {t["task"] for t in trials() if "task" in t} == set(TASKS)
    quick = trials(quick=True)
    assert len(quick) < 60 and not any(t["kind"] == "pretrain" for t in quick)


def row(arm, task, seed, train=(), test=()):
    """A row of a run that gives wrong answers to these numbers."""
    result = {"parameters": 5, "steps": 7, "train": {str(i): [1, "9"] for i in train},
              "test": {str(i): [2, "9"] for i in test}}  # fmt: skip
    return {"trial": {"kind": "arm", "arm": {"name": arm}, "task": task, "seed": seed},
            "result": result}  # fmt: skip


def basis(task, determined=30):
    found = {name: {str(p.i): [1, "x"] for p in pairs(task, "test")}
             for name in generalization.HEURISTICS}  # fmt: skip
    chance = found | {"fixed offset": {str(p.i): [2, "9"] if p.i > 90 else None
                                       for p in pairs(task, "test")}}  # fmt: skip
    found["fixed offset"] = {str(p.i): [2, "9"] if p.i < 50 else None for p in pairs(task, "test")}
    return {"trial": {"kind": "heuristics", "task": task},
            "result": dict(determined=determined, heuristics=found, chance=chance)}  # fmt: skip


@pytest.mark.parametrize("solved, seeds, verdict", [
    (16, 16, "finds the rule"), (13, 16, "finds the rule"), (12, 16, "depends on the seed"),
    (4, 4, "undecided (too few seeds)"), (2, 4, "depends on the seed"),
    (3, 16, "does not find the rule"),
    (0, 16, "does not find the rule"), (0, 6, "does not find the rule"),
    (0, 4, "undecided (too few seeds)"),
])  # fmt: skip
def test_a_verdict_needs_an_interval_on_one_side_of_one_half(solved, seeds, verdict):
    rows = [row("a", "copy", n, test=() if n < solved else (11,)) for n in range(seeds)]
    found = Results([basis("copy"), *rows])
    assert found.solved("copy", "a") == (solved, seeds)
    assert found.verdict("copy", "a") == verdict


def test_29_of_30_is_not_solved_and_an_unlearned_d_train_is_reported():
    found = Results([basis("copy"), *(row("a", "copy", n, test=(1,)) for n in range(8))])
    assert found.solved("copy", "a") == (0, 8)
    found = Results([basis("copy"), *(row("a", "copy", n, train=(2, 4, 5, 6)) for n in range(8))])
    assert found.verdict("copy", "a") == "has not learned D_train"


def test_what_d_train_does_not_determine_is_no_failure():
    true, replaced = arms.NUMBERS.name, arms.BROKEN.name
    names = ("a", true, replaced)
    rows = [row(arm, "parity", n, test=(1,)) for arm in names for n in range(8)]
    found = Results([basis("parity", determined=0), *rows])
    assert found.verdict("parity", "a") == "cannot know the rule"
    assert found.verdict("parity", replaced) == "cannot know the rule"
    assert found.verdict("parity", true) == "does not find the rule"


def test_an_arm_is_compared_with_the_first_or_with_that_of_the_same_shape(tmp_path):
    true, replaced = arms.NUMBERS.name, arms.BROKEN.name
    rows = [row(name, "copy", n, test=() if name == true or n == 0 else (11,))
            for name in ("a", "b", true, replaced) for n in range(4)]  # fmt: skip
    text = STUDY.report([basis("copy"), *rows], tmp_path)
    cells = {line.split(" | ")[0][2:]: line.split(" | ")[6] for line in text.splitlines()
             if line.startswith("| ") and len(line.split(" | ")) == 9}  # fmt: skip
    assert cells["a"] == cells[true] == "-"
    assert cells["b"].startswith("+0%") and cells[replaced].startswith("-75%")
    assert "Unary" not in text and "unary.png" not in text


def test_a_heuristic_explains_the_errors_that_are_equal_to_its_own():
    found = Results([basis("copy"), row("a", "copy", 0, test=(11, 41, 91)), row("a", "copy", 1)])
    same, chance = found.explained("copy", "a", "fixed offset")
    assert same == 2 / 3 and chance == 1 / 3
    assert found.explained("copy", "a", "majority")[0] == 0


def test_errors_are_counted_by_place():
    runs = [{"41": [1, "9"], "43": [2, "5"], "47": [2, ""], "100": [4, "0"]}]
    assert places(runs, "copy") == {"digit 1": 1, "digit 2": 1, "stops early": 1, "stops late": 1}
    assert places([{"3": [2, " "], "7": [35, " "]}], "unary") == {
        "another token": 1,
        "stops late": 1,
    }


def test_heuristics_and_the_ideal_learner_are_evaluated(tmp_path):
    result = heuristics("copy", tmp_path)
    right = {name: list(own.values()).count(None) for name, own in result["heuristics"].items()}
    assert result["determined"] == 30
    assert right["copy the prompt"] == 30 and right["fixed offset"] == 27 and right["majority"] == 0
    # By chance: the answer to the question 15 places later in D_test, " 51" for " 1".
    assert result["chance"]["copy the prompt"]["1"] == [1, "5"]
    assert set(result["chance"]["copy the prompt"]) == {str(p.i) for p in pairs("copy", "test")}


def test_an_arm_learns_and_is_evaluated(tmp_path, monkeypatch):
    monkeypatch.setitem(generalization.arms.UNARY, "steps", 12)
    arm = {"name": "tiny", "position": "none"}
    result = learn(arm, "copy", 3, quick=True, folder=tmp_path)
    assert result["steps"] == 3 and 0 < len(result["test"]) <= 30 and "far" not in result
    assert result == learn(arm, "copy", 3, quick=True, folder=tmp_path)


# --- the report that is committed -----------------------------------------------------------------


@pytest.fixture(scope="module")
def kept():
    return read_rows(KEPT / "results.jsonl")


def test_the_committed_report_follows_from_the_committed_results(kept, tmp_path):
    text = (KEPT / "report.md").read_text(encoding="utf-8")
    written = STUDY.report(kept, tmp_path)
    _, own = text.split("\n## ", 1)  # behind the line of commit and time
    same = [[line for line in each.splitlines() if "matplotlib" not in line and line[:2] != "!["]
            for each in (own, written.removeprefix("## "))]  # fmt: skip
    assert same[0] == same[1]


def test_the_figures_of_the_unary_table_are_recomputed(kept):
    """From the rows alone, without the code of the report."""
    text = (KEPT / "report.md").read_text(encoding="utf-8")
    table = re.search(r"## Task unary\n(.*?)\n## ", text, re.DOTALL)[1]
    runs: dict[str, list[int]] = {}
    for trial, result in ((each["trial"], each["result"]) for each in kept):
        if trial["kind"] == "arm" and trial["task"] == "unary":
            runs.setdefault(trial["arm"]["name"], []).append(30 - len(result["test"]))
    assert runs
    for name, right in runs.items():
        solved = sum(each == 30 for each in right)
        low, high = clopper_pearson(solved, len(right))
        cells = next(line for line in table.splitlines() if line.startswith(f"| {name} |"))
        assert f"| {solved} of {len(right)} ({low:.0%} to {high:.0%}) |" in cells


def test_readme_names_no_figure_that_the_results_lack(kept):
    """The share of seeds that solve unary, as in README.md."""
    right = [30 - len(each["result"]["test"]) for each in kept
             if each["trial"].get("task") == "unary" and each["trial"]["kind"] == "arm"
             and each["trial"]["arm"]["name"] == arms.RUN.name]  # fmt: skip
    readme = Path(ROOT, "README.md").read_text(encoding="utf-8")
    assert f"{right.count(30)} of {len(right)} seeds" in readme
