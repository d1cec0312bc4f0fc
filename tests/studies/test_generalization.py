"""The generalization study in miniature, its perturbations, and the rule of its conclusions."""

import json
import re

import pytest

from minislm.evaluation import Answer
from minislm.studies import generalization, variants
from minislm.studies.baselines import HEURISTICS
from minislm.studies.config import StudyConfig
from minislm.studies.generalization import PERTURBATIONS, Results, conclusion, perturbed, report
from minislm.studies.runner import read_rows, run_study
from minislm.studies.variants import VARIANTS
from minislm.tasks import pairs


def tiny(monkeypatch):
    """A study of seconds: few stories and few steps."""
    monkeypatch.setattr(variants, "STORIES", 40)
    monkeypatch.setattr(variants, "HELD_OUT", 3)
    monkeypatch.setattr(variants, "TOKENIZER_STORIES", 60)
    monkeypatch.setitem(generalization.LIMITS, "other", (4, 0.0))
    monkeypatch.setitem(
        variants.SHAPES, "two blocks", dict(n_layer=2, width=32, n_head=2, n_kv_head=0)
    )
    plan = generalization.plan(StudyConfig(quick=True, seeds=1, only=("parity",)))
    plan[0] = [trial | ({"steps": 2} if trial["kind"] == "pretrain" else {}) for trial in plan[0]]
    return generalization.STUDY._replace(plan=lambda _: plan)


def without_times(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_a_study_that_was_interrupted_resumes_to_identical_results(monkeypatch, tmp_path):
    study = tiny(monkeypatch)
    whole, stopped = (StudyConfig(quick=True, processes=1, out=str(tmp_path / name))
                      for name in ("whole", "stopped"))  # fmt: skip
    text = run_study("generalization", study, whole, "python eval.py").read_text()
    rows = read_rows(tmp_path / "whole" / "results.jsonl")

    calls = []

    def stops(**options):
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(options)
        return generalization.adapt_and_evaluate(**options)

    interrupted = study._replace(kinds=study.kinds | {"variant": stops})
    with pytest.raises(KeyboardInterrupt):
        run_study("generalization", interrupted, stopped, "")
    kept = tmp_path / "stopped" / "results.jsonl"
    assert len(read_rows(kept)) == len(rows) - 2
    again = run_study("generalization", study, stopped, "python eval.py").read_text()
    assert without_times(read_rows(kept)) == without_times(rows)
    times = r", \d+ minutes of one core|\| \d+ \|\n"
    assert re.sub(times, "", again) == re.sub(times, "", text)
    assert "| dummy 1 | 100% [97%, 100%]" not in text  # 30 questions: a wider interval
    assert "| dummy 1 | 100% [89%, 100%] (100% to 100%) |" in text
    assert "| dummy 0 | 0% [0%, 11%] (0% to 0%) |" in text
    plots = re.findall(r"\]\((.*?\.png)\)", text)
    assert plots and all((tmp_path / "whole" / file).is_file() for file in plots)


def rows_of(train, test, answer):
    """Rows in which "scratch" answers `train` and `test` pairs of parity correctly, and gives
    `answer` to the others; every heuristic always answers " even"."""

    def given(split, correct, wrong):
        numbers = [p.i for p in pairs("parity", split)]
        texts = [p.answer for p in pairs("parity", split)]
        texts = texts[:correct] + [wrong] * (len(texts) - correct)
        return {str(i): {"text": text, "finished": True} for i, text in zip(numbers, texts)}

    groups = dict.fromkeys(PERTURBATIONS, {})
    heuristic = {"train": given("train", 0, " even"), "test": given("test", 0, " even")}
    scratch = {"train": given("train", train, " no"), "test": given("test", test, answer)} | groups
    rows = [
        {"trial": {"kind": "baseline", "name": name}, "result": {"tasks": {"parity": heuristic}},
         "seconds": 1.0}
        for name in HEURISTICS
    ]  # fmt: skip
    trial = {"kind": "variant", "name": "scratch"}
    run = {"trial": trial, "result": {"tasks": {"parity": scratch}}, "seconds": 1.0}
    return json.loads(json.dumps([*rows, *[run] * 8]))


@pytest.mark.parametrize(
    ("train", "test", "answer", "expected"),
    [
        (60, 30, " odd", "has not learned the task: 86% of D_train"),
        (70, 30, " odd", "generalizes: 100% [98%, 100%]"),
        (70, 15, " even", "generalizes in part: 50%"),
        (70, 0, " even", "relies on a heuristic: 0% [0%, 2%]"),
        (70, 0, " dog", "no heuristic here describes"),
    ],
)
def test_the_conclusion_follows_its_rule(train, test, answer, expected):
    found = Results(rows_of(train, test, answer))
    assert expected in conclusion(found, "parity", "scratch")
    assert conclusion(found, "parity", "transferred") == "-"  # not evaluated
    assert conclusion(found, "parity", "effect of stories") == "-"
    assert conclusion(found, "parity", "pairs") == "100"


@pytest.mark.parametrize(("scratch", "transferred", "expected"),
                         [(2, 25, "improves (7% without)"), (25, 2, "worsens (83% without)"),
                          (14, 16, "no significant difference (47% without)")])  # fmt: skip
def test_the_effect_of_a_control_needs_intervals_that_do_not_overlap(
    scratch, transferred, expected
):
    rows = rows_of(70, scratch, " no")
    for row in rows_of(70, transferred, " no")[len(HEURISTICS) :]:
        rows.append(row | {"trial": row["trial"] | {"name": "transferred"}})
    assert conclusion(Results(rows), "parity", "effect of stories") == expected


def test_an_unfinished_answer_is_wrong_and_agrees_with_no_finished_one():
    rows = rows_of(70, 0, " even")
    for row in rows[len(HEURISTICS) :]:
        for answer in row["result"]["tasks"]["parity"]["test"].values():
            answer["finished"] = False
    found = Results(rows)
    assert found.accuracy("scratch", "parity").mean == 0
    assert set(found.agreement("scratch", "parity").values()) == {0}


def test_a_right_answer_is_no_agreement_with_a_heuristic():
    rows = rows_of(70, 30, " no")
    for row in rows[: len(HEURISTICS)]:
        row["result"]["tasks"]["parity"] = rows[-1]["result"]["tasks"]["parity"]
    assert set(Results(rows).agreement("scratch", "parity").values()) == {0}


def test_perturbed_prompts_have_the_same_answers():
    train = pairs("copy", "train")
    groups = perturbed("copy", train)
    assert tuple(groups) == PERTURBATIONS
    wording, spaces, larger = groups.values()
    assert wording[3].prompt == f"Please, copy the number {train[3].i}:"
    assert spaces[3].prompt == f"Copy  the  number  {train[3].i}:"
    assert [p.answer for p in wording] == [p.answer for p in spaces] == [p.answer for p in train]
    assert larger[1].prompt == "Copy the number 104:" and larger[1].answer == " 104"
    assert perturbed("count", pairs("count", "train"))[PERTURBATIONS[2]] == []


def test_the_plan_has_every_variant_task_and_seed_once():
    first, adapted = generalization.plan(StudyConfig(models=("some/model",)))
    names = [trial["name"] for trial in adapted]
    assert set(names) == {v.name for v in VARIANTS} | {
        f"some/model, {adapt}" for adapt in ("zero-shot", "few-shot", "fine-tuned")
    }
    assert names.count("scratch") == 8 * 8 and names.count("all tasks together") == 8
    assert names.count("transferred, few-shot") == 4 * 6  # no seed changes it: pre-trained ones
    assert names.count("some/model, few-shot") == 6
    pretrained = [trial for trial in first if trial["kind"] == "pretrain"]
    assert len(pretrained) == 18 and pretrained[0]["shape"] == "tinystories-1m"
    assert len({json.dumps(trial) for trial in first + adapted}) == len(first + adapted)


def test_any_model_is_evaluated_in_three_ways(monkeypatch, tiny_run, tmp_path):
    monkeypatch.setattr(variants, "HELD_OUT", 2)
    monkeypatch.setitem(generalization.LIMITS, "other", (2, 0.0))
    config = StudyConfig(quick=True, seeds=1, models=(str(tiny_run),), only=("parity",))
    trials = [t for t in generalization.plan(config)[1] if t["name"].startswith(str(tiny_run))]
    found = {}
    for trial in trials:
        options = {name: value for name, value in trial.items() if name != "kind"}
        found[trial["adapt"]] = generalization.adapt_and_evaluate(**options, folder=tmp_path)
    assert set(found) == {"zero-shot", "few-shot", "fine-tuned"}
    for result in found.values():
        run = result["tasks"]["parity"]
        assert len(run["train"]) == 70 and len(run["test"]) == 30
    assert "after" in found["fine-tuned"] and "after" not in found["zero-shot"]


def test_after_examples_an_answer_ends_with_its_line(monkeypatch, tokenizer):
    seen = []

    def answers(sampler, questions):
        seen.extend(question.prompt for question in questions)
        return [Answer(" 5\nCopy the number 6: 6", False), Answer(" 6", False)]

    class model:
        class config:
            context = 512

    sampler = type("Sampler", (), {"model": model, "tokenizer": tokenizer})
    monkeypatch.setattr(generalization, "answers", answers)
    found = generalization.evaluate(sampler, {"test": pairs("copy")[4:6]}, "Copy the number 1: 1\n")
    assert seen[0] == "Copy the number 1: 1\nCopy the number 5:"
    assert found["test"][5] == {"text": " 5", "finished": True}
    assert found["test"][6] == {"text": " 6", "finished": False}


def test_the_report_needs_nothing_but_rows(tmp_path):
    text = report(rows_of(70, 15, " even"), tmp_path)
    assert "| scratch | 50% [" in text and (tmp_path / "pretraining.png").is_file()
    assert "| scratch | parity | 50% | 50% |" in text  # half of its answers are a heuristic's
