"""The studies in miniature: split, resuming, contamination, losses by class, the rule."""

import json
import re

import numpy as np
import pytest
import torch
from helpers import random_model

from minislm.cli.study import STUDIES
from minislm.evaluation import text_loss
from minislm.reporting.intervals import bootstrap, of_mean, of_rates, wilson
from minislm.runtime.errors import UserError
from minislm.stories.generate import generate
from minislm.stories.lexicon import WORD_CLASSES
from minislm.stories.number_plots import NUMBER_PLOTS
from minislm.studies import (
    data_scaling,
    generalization,
    generalization_report,
    hyperparameters,
    runner,
    variants,
    word_classes,
)
from minislm.studies.config import StudyConfig
from minislm.studies.runner import Study, read_rows
from minislm.studies.variants import SUBJECTS, Subject, halves, texts_of, tokens_of
from minislm.tasks import TASKS, number_words, pairs
from minislm.tokenizer import Tokenizer


def tiny(monkeypatch):
    """A verdict of seconds: few stories and few steps."""
    monkeypatch.setattr(variants, "STORIES", 40)
    monkeypatch.setattr(variants, "HELD_OUT", 3)
    monkeypatch.setattr(variants, "_TOLD", 60)
    monkeypatch.setattr(generalization, "HELD_OUT", 3)
    monkeypatch.setattr(generalization, "_MOST", 4)
    monkeypatch.setitem(
        variants.SHAPES, "two blocks", dict(n_layer=2, width=32, n_head=2, n_kv_head=0)
    )
    config = StudyConfig(quick=True, seeds=1, only=("parity",), processes=1)
    plan = generalization.plan(config)
    plan[1] = [job | ({"steps": 2} if job["kind"] == "pretrain" else {}) for job in plan[1]]
    return Study(lambda _: plan, generalization.work, generalization_report.report), config


def without_times(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def test_a_study_that_was_stopped_goes_on_to_identical_results(monkeypatch, tmp_path):
    study, config = tiny(monkeypatch)
    config = StudyConfig(**vars(config) | {"out": str(tmp_path / "whole")})
    report = runner.run("verdict", study, config, "python eval.py").read_text()
    whole = read_rows(tmp_path / "whole" / "results.jsonl")

    done = []

    def stops(job, folder):
        if len(done) == 9:
            raise KeyboardInterrupt
        done.append(job)
        return study.work(job, folder)

    config = StudyConfig(**vars(config) | {"out": str(tmp_path / "stopped")})
    with pytest.raises(KeyboardInterrupt):
        runner.run("verdict", Study(study.plan, stops, study.report), config, "")
    kept = tmp_path / "stopped" / "results.jsonl"
    assert len(read_rows(kept)) == 9
    with open(kept, "a") as file:
        file.write('{"job": {"kind": "base')  # killed in the middle of a line
    calls = []

    def counted(job, folder):
        calls.append(job)
        return study.work(job, folder)

    again = runner.run(
        "verdict", Study(study.plan, counted, study.report), config, "python eval.py"
    )
    assert without_times(read_rows(kept)) == without_times(whole)
    assert len(calls) == len(whole) - 9  # nothing is done twice
    minutes = r", \d+ minutes of one core|\| \d+ \|"
    assert re.sub(minutes, "", again.read_text()) == re.sub(minutes, "", report)
    assert "dummy 1 | 100/100" in report and "dummy 0 | 0/100" in report


def work_of_a_worker(job, folder):
    """In a process of its own: `kill` ends it as the system does when memory is short."""
    if job["n"] == "kill":
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)
    return {"square": job["n"] ** 2, "threads": torch.get_num_threads()}


def test_jobs_run_in_processes_of_one_thread_each(tmp_path):
    study = Study(lambda _: [[{"n": n} for n in range(3)]], work_of_a_worker, lambda rows, _: str(
        [row["result"]["square"] for row in rows]))  # fmt: skip
    config = StudyConfig(out=str(tmp_path), processes=2)
    assert "[0, 1, 4]" in runner.run("squares", study, config, "").read_text()
    assert {row["result"]["threads"] for row in read_rows(tmp_path / "results.jsonl")} == {1}


def test_a_killed_worker_is_told_in_one_line(tmp_path):
    study = Study(lambda _: [[{"n": "kill"}, {"n": "kill"}]], work_of_a_worker, lambda *_: "")
    with pytest.raises(UserError, match="a worker of the study was killed"):
        runner.run("killed", study, StudyConfig(out=str(tmp_path), processes=2), "")


def test_the_split_is_exactly_70_and_30_by_the_last_digit():
    for task in TASKS:
        shown, held = halves(Subject("any"), task, 0, pairs(task))
        assert [p.i for p in held] == [i for i in range(1, 101) if i % 10 in (1, 3, 7)]
        assert len(shown) == 70 and not {p.i for p in shown} & {p.i for p in held}
    random_split = Subject("any", held_out="random")
    one, other = (halves(random_split, "copy", seed, pairs("copy"))[1] for seed in (0, 1))
    assert len(one) == len(other) == 30 and one != other


def test_no_pair_of_d_test_occurs_in_the_text_that_is_learned_from():
    """Neither a prompt nor what a task asks about a number of D_test, in any of the wordings."""
    held = {i for i in range(1, 101) if i % 10 in (1, 3, 7)}
    numbers_told = set()
    for text in (story.text for seed in range(2) for story in generate(800, seed, numbers=1.0)):
        assert not any(
            p in text
            for p in (
                "Copy the number",
                "Reverse the digits",
                "even or odd",
                "comes after",
                "in words:",
                "Count to",
                "Words:",
            )
        )
        for n in map(int, re.findall(r"\d+", text)):
            numbers_told.add(n)
    wordings = (
        "after house {n} came", "in house {n},", "what is after {n}", "{n} was (odd|even)",
        "{n} is (odd|even)", r"is {n}\?", r"say {n}\?", "showed it {n}", "mirror, {n} was",
        "wrote {n}", "saw {n} on", "sign said {n}", "said {w},", r'said, "{n}\.', r"box was {n}\.",
        "write {n} too",
    )  # fmt: skip
    everything = "\n".join(s.text for s in generate(2500, 0, numbers=1.0)).lower()
    for wording in wordings:
        number = wording.replace("{n}", r"\d+").replace("{w}", r"[a-z -]+")
        assert re.search(number, everything), wording  # each is one of the stories' own
        for n in held:
            asked = wording.replace("{n}", rf"\b{n}\b").replace("{w}", rf"\b{number_words(n)}")
            assert not re.search(asked, everything), asked
    assert len(NUMBER_PLOTS) == 5 and max(numbers_told) < 1000


def test_shuffled_words_are_the_same_words():
    plain, shuffled = (texts_of(name, 0, 5) for name in ("numbers", "shuffled"))
    for one, other in zip(plain, shuffled):
        assert one != other and sorted(one.split(" ")) == sorted(other.split(" "))


def test_losses_by_class_add_up_to_the_loss(stories, tokenizer):
    told = list(generate(12, 3, numbers=0.5))
    model = random_model(vocab_size=tokenizer.vocab_size, context=1024)
    found = word_classes.by_class(model, tokenizer, told)
    total = text_loss(model, tokens_of((s.text for s in told), tokenizer), tokenizer.eot_id)
    assert sum(nats for nats, *_ in found.values()) == pytest.approx(total.nats, rel=1e-5)
    assert sum(count for _, count, _ in found.values()) == total.tokens
    assert all(0 <= right <= count for _, count, right in found.values())


def test_a_token_has_the_class_of_its_word(tokenizer):
    story = next(generate(1, 0, numbers=1.0))
    ids = tokenizer.encode(story.text) + [tokenizer.eot_id]
    found = word_classes.class_ids(story, tokenizer)
    assert len(found) == len(ids)
    spelt = {name: "" for name in WORD_CLASSES}
    for token, c in zip(ids[:-1], found):
        spelt[WORD_CLASSES[c]] += tokenizer.decode([token])
    for name in WORD_CLASSES:
        words = "".join(w.text for w in story.words if w.word_class == name)
        assert "".join(spelt[name].split()) == "".join(words.split()), name


def test_rebalanced_stories_hold_more_of_the_class():
    share = lambda name, wanted: np.mean(
        [  # noqa: E731
            w.word_class == wanted for s in word_classes.chosen(name, 50, 0) for w in s.words
        ]
    )
    assert share("more adjectives", "adjective") > 1.15 * share("as they come", "adjective")
    assert share("more numbers", "number") > 1.5 * share("as they come", "number")


def test_intervals_against_their_formulas():
    mean, low, high = of_mean([1.0, 2.0, 3.0])  # mean 2, deviation 1: 2 -+ 4.303 / sqrt(3)
    assert (mean, low, high) == pytest.approx((2, 2 - 2.4843, 2 + 2.4843), abs=1e-3)
    mean, low, high = of_rates([0, 0, 0], [30, 30, 30])  # seeds agree: Wilson's is the wider
    assert mean == 0 and (low, high) == wilson(0, 90)
    mean, low, high = of_rates([0, 30], [30, 30])  # seeds do not: Student's, cut at 0 and 1
    assert (mean, low, high) == (0.5, 0.0, 1.0)
    assert bootstrap([0.5] * 10) == (0.5, 0.5)
    low, high = bootstrap([0.0, 1.0] * 200)
    assert 0.44 < low < 0.5 < high < 0.56


def rows_of(train, test, said):
    result = {"train": train, "test": test, "said": said, "fitting": 100}
    job = {"kind": "subject", "subject": {"name": "scratch"}, "task": "parity", "seed": 0}
    says = {str(i): " even" for i in range(1, 101)}
    baselines = [
        {"job": {"kind": "baseline", "name": name, "task": "parity"},
         "result": {"train": [50, 70], "test": [0, 30], "said": says}}
        for name in generalization_report.HEURISTICS
    ]  # fmt: skip
    run = {"job": job, "result": {"tasks": {"parity": result}}}
    return generalization_report.Found.of([*baselines, *[run] * 8])


@pytest.mark.parametrize(
    ("train", "test", "answer", "expected"),
    [
        ([60, 70], [30, 30], " odd", "has not learned the task"),
        ([70, 70], [30, 30], " odd", "has found the rule"),
        ([70, 70], [15, 30], " odd", "has found a part"),
        ([70, 70], [0, 30], " even", "leans on a heuristic"),
        ([70, 70], [0, 30], " dog", "no heuristic here describes"),
    ],
)
def test_the_verdict_follows_its_rule(train, test, answer, expected):
    said = {str(i): answer for i in range(1, 101) if i % 10 in (1, 3, 7)}
    assert expected in generalization_report.verdict(rows_of(train, test, said), "parity")


@pytest.mark.parametrize("name", ["word-classes", "data", "hyperparameters"])
def test_every_study_in_miniature(name, monkeypatch, tmp_path):
    few = {"_HELD_OUT": 4, "_TOLD": 2, "_FINE_TUNING": 1}
    for module in (word_classes, data_scaling, hyperparameters):
        for constant in few.keys() & vars(module).keys():
            monkeypatch.setattr(module, constant, few[constant])
    monkeypatch.setattr(variants, "_TOLD", 60)
    monkeypatch.setattr(data_scaling, "TASKS", ("parity",))
    monkeypatch.setitem(hyperparameters.BASE, "stories", 60)
    small = dict(n_head=2, n_kv_head=0, width=32)
    for shape, layers in (("one block", 1), ("two blocks", 2)):
        monkeypatch.setitem(variants.SHAPES, shape, small | {"n_layer": layers})
    real = STUDIES[name]

    def plan(config):
        one = {"steps": 1, "stories": 30}
        return [[job | {k: v for k, v in one.items() if k in job} for job in phase]
                for phase in real.plan(config)]  # fmt: skip

    config = StudyConfig(study=name, quick=True, seeds=2, processes=1, out=str(tmp_path))
    text = runner.run(name, Study(plan, real.work, real.report), config, "it").read_text()
    assert "| --- |" in text and list(tmp_path.glob("*.png"))
    assert all((tmp_path / file).is_file() for file in re.findall(r"\]\((.*?\.png)\)", text))


def test_every_subject_is_one_line_and_can_be_made(monkeypatch, tmp_path):
    assert len({s.name for s in SUBJECTS}) == len(SUBJECTS)
    tokenizer = Tokenizer.train(["1 2 3 a story"], 300, "single")
    for shape in variants.SHAPES:
        model = variants.random_weights(shape, 0, tokenizer)
        assert torch.equal(
            model.embedding.weight, variants.random_weights(shape, 0, tokenizer).embedding.weight
        )
    variants.freeze(model, "last block")
    assert {n.split(".")[1] for n, w in model.named_parameters() if w.requires_grad} == {"7"}


def test_any_model_is_asked_in_three_ways(monkeypatch, tiny_run, tmp_path):
    monkeypatch.setattr(generalization, "HELD_OUT", 2)
    monkeypatch.setattr(generalization, "_MOST", 2)
    rows = {s.adapt: generalization._ask(s, ["parity"], 0, tmp_path)
            for s in variants.of_model(str(tiny_run))}  # fmt: skip
    assert set(rows) == {"zero-shot", "few-shot", "fine-tuned"}
    for row in rows.values():
        assert row["tasks"]["parity"]["train"][1] == 70 and row["tasks"]["parity"]["test"][1] == 30
    assert "after" in rows["fine-tuned"] and "after" not in rows["zero-shot"]
    plan = generalization.plan(StudyConfig(quick=True, beside=(str(tiny_run),)))
    names = [job["subject"]["name"] for job in plan[2]]
    assert names.count(f"{tiny_run}, few-shot") == 2  # one for each task: no seed changes it


def test_flags_of_a_study_without_one_are_refused(run_script):
    for flag, leader in (("--quick", "--study"), ("--sensitivity", "--score"),
                         ("--page", "--inspect")):  # fmt: skip
        done = run_script("eval.py", flag, *(["x.html"] if flag == "--page" else []))
        assert done.code == 2 and f"{flag} goes with {leader}" in done.err


def test_eval_runs_a_study_and_refuses_what_it_does_not_know(run_script, tmp_path):
    refused = run_script("eval.py", "--study", "verdit")
    assert refused.code == 2 and "verdict" in refused.err
    refused = run_script("eval.py", "--study", "data", "--model", "x", "--out", tmp_path)
    assert refused.code == 2 and "neither --model nor --tasks" in refused.err
    refused = run_script("eval.py", "--study", "verdict", "--tasks", "copi", "--out", tmp_path)
    assert refused.code == 2 and "copy" in refused.err
    (tmp_path / "results.jsonl").write_text("{}\n}\n")
    assert json.loads("{}") == {}
    refused = run_script("eval.py", "--study", "data", "--out", tmp_path)
    assert refused.code == 2 and "damaged" in refused.err
