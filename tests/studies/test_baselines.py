"""The baselines: a model of known accuracy tests the evaluator, and its mutations are caught."""

import math

import pytest
import torch

from minislm import evaluation
from minislm.config import SampleConfig
from minislm.evaluation import Answer, exact_match
from minislm.fast.sampler import FastSampler
from minislm.sampler import Sampler
from minislm.stories.generate import generate
from minislm.studies.baselines import HEURISTICS, Baseline, DummyModel, determined, number_in
from minislm.tasks import END_OF_TEXT, TASKS, Pair, pairs
from minislm.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def spelling() -> Tokenizer:
    texts = [text for task in TASKS for p in pairs(task, "train") for text in (p.prompt, p.answer)]
    return Tokenizer.train([s.text for s in generate(50)] + texts, 400, "merged")


SHORT = [task for task in TASKS if task not in ("unary", "count")]


def score(model, tokenizer, tasks, batch_size=64):
    return exact_match(Sampler(model, tokenizer, batch_size), tasks)


def rate(counts):
    correct, questions = counts
    return correct / questions


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_a_dummy_that_is_always_or_never_right_scores_exactly_that(spelling, accuracy, batch_size):
    tasks = TASKS if batch_size == 64 else SHORT[:3]
    model = DummyModel(spelling, accuracy)
    for task, found in score(model, spelling, tasks, batch_size).items():
        assert rate(found.train) == rate(found.test) == accuracy, task


def test_a_dummy_right_in_three_of_ten_scores_within_its_binomial_interval(spelling):
    scores = score(DummyModel(spelling, 0.3), spelling, SHORT)
    correct = sum(each.train[0] + each.test[0] for each in scores.values())
    total = sum(each.train[1] + each.test[1] for each in scores.values())
    assert total == 600 and abs(correct - 0.3 * total) < 1.96 * math.sqrt(0.3 * 0.7 * total)
    again = score(DummyModel(spelling, 0.3), spelling, SHORT, 7)
    assert again == scores  # neither batch size nor neighbours change an answer
    assert exact_match(FastSampler(DummyModel(spelling, 0.3), spelling), SHORT) == scores
    other = score(DummyModel(spelling, 0.3, seed=1), spelling, SHORT)
    assert other != scores


def test_forward_of_a_dummy_is_that_of_a_module(spelling):
    model, pair = DummyModel(spelling, 1.0), pairs("copy")[40]
    prompt, answer = spelling.prompt_ids(pair.prompt), spelling.encode(pair.answer)
    logits = model(torch.tensor([prompt + answer]))
    assert isinstance(model, torch.nn.Module)
    assert logits.shape == (1, len(prompt + answer), spelling.vocab_size)
    assert logits[0, -1].argmax() == spelling.eot_id
    assert logits[0, len(prompt) - 1].argmax() == spelling.encode(" 41")[0]
    wrong = torch.tensor([prompt + spelling.encode(" 39")])
    assert model(wrong)[0, -1].argmax() == spelling.eot_id  # it does not continue another answer


# --- mutations of the evaluator, each of which the dummies must catch -----------------------------


def shifted(monkeypatch):
    """Each answer is compared with the next pair's."""
    real = evaluation.answers
    monkeypatch.setattr(evaluation, "answers", lambda *a: real(*a)[1:] + real(*a)[:1])


def mapped(monkeypatch, change):
    real = evaluation.answers

    def changed(sampler, questions):
        return [change(p, a) for p, a in zip(questions, real(sampler, questions))]

    monkeypatch.setattr(evaluation, "answers", changed)


def padding_counted(monkeypatch):
    """The end of text is a part of the answer."""
    mapped(monkeypatch, lambda pair, answer: Answer(answer.text + END_OF_TEXT, answer.finished))


def prompt_counted(monkeypatch):
    """The prompt is a part of the answer."""
    mapped(monkeypatch, lambda pair, answer: Answer(pair.prompt + answer.text, answer.finished))


def end_ignored(monkeypatch):
    """No answer counts as finished."""
    mapped(monkeypatch, lambda pair, answer: Answer(answer.text, False))


def cut_early(monkeypatch):
    """Too few tokens are sampled."""
    real = SampleConfig

    def short(max_new_tokens, **more):
        return real(max_new_tokens=max(1, max_new_tokens - 2), **more)

    monkeypatch.setattr(evaluation, "SampleConfig", short)


def text_after_the_end(monkeypatch):
    """What follows the end of text is a part of the answer."""
    mapped(monkeypatch, lambda pair, answer: Answer(answer.text + " more", answer.finished))


@pytest.mark.parametrize(
    "mutate", [shifted, padding_counted, prompt_counted, end_ignored, cut_early, text_after_the_end]
)
def test_a_broken_evaluator_is_caught(spelling, monkeypatch, mutate):
    mutate(monkeypatch)
    scores = score(DummyModel(spelling, 1.0), spelling, ["words"])
    assert rate(scores["words"].train) < 1


def test_an_evaluator_that_counts_wrong_answers_is_caught_by_the_dummy_at_zero(
    spelling, monkeypatch
):
    mapped(monkeypatch, lambda pair, answer: Answer(pair.answer, True))
    assert rate(score(DummyModel(spelling, 0.0), spelling, ["copy"])["copy"].test) == 1


# --- the heuristics, on cases counted by hand -----------------------------------------------------


def answer_of(name, task, i, train):
    known = [Pair(task, n, *TASKS[task](n)) for n in (*train, i)]
    return HEURISTICS[name](known[-1], known[:-1])


@pytest.mark.parametrize(
    ("name", "task", "train", "i", "expected"),
    [
        ("majority", "parity", (2, 4, 5), 41, " even"),
        ("majority", "parity", (5, 9, 2), 41, " odd"),
        ("last digit", "parity", (20, 5, 9), 41, " even"),  # 0 is the nearest digit to 1
        ("last digit", "parity", (12, 15, 9), 48, " odd"),  # 9 is the nearest digit to 8
        ("nearest number", "successor", (39, 44), 41, " 40"),
        ("nearest number", "copy", (40, 42), 41, " 40"),  # as near: the lower one
        ("nearest number", "unary", (2, 5), 3, " 1 11"),
        ("copy the prompt", "words", (40,), 41, " 41"),
        ("fixed offset", "copy", (40, 50, 5), 41, " 41"),  # the characters four back
        ("fixed offset", "copy", (40, 50, 5), 7, "r 7"),
    ],
)  # fmt: skip
def test_a_heuristic_gives_the_answer_of_its_rule(name, task, train, i, expected):
    assert answer_of(name, task, i, train) == expected


def test_a_heuristic_is_a_model_that_is_sampled_and_evaluated(spelling):
    """The shortcut of parity's own docstring: all of D_train, none of D_test."""

    def model(name, task):
        return Baseline(HEURISTICS[name], spelling, known=pairs(task))

    found = score(model("last digit", "parity"), spelling, ["parity"])["parity"]
    assert found.train == (70, 70) and found.test == (0, 30)
    assert score(model("copy the prompt", "copy"), spelling, ["copy"])["copy"].test == (30, 30)


def test_a_fixed_offset_copies_all_numbers_of_two_digits():
    """And none of one or three: 27 of D_test without reading the content."""
    train = pairs("copy", "train")
    answer = HEURISTICS["fixed offset"]
    right = [pair.i for pair in pairs("copy") if answer(pair, train) == pair.answer]
    assert right == list(range(10, 100))


@pytest.mark.parametrize("task", TASKS)
def test_the_number_in_a_prompt_is_the_one_it_is_about(task):
    assert [number_in(pair.prompt) for pair in pairs(task)] == list(range(1, 101))


@pytest.mark.parametrize(("task", "expected"), [
    ("unary", 30), ("count", 30), ("copy", 30), ("reverse", 30), ("successor", 30), ("parity", 0),
    ("words", 9), ("sentence", 8),
])  # fmt: skip
def test_an_ideal_learner_knows_what_it_has_seen_in_any_place(task, expected):
    """Of D_test. Words lack "three", "seven", "eleven", "thirteen" and "seventeen"; a sentence also
    the singular; parity the last digits 1, 3 and 7."""
    train = pairs(task, "train")
    assert sum(determined(task, pair.i, train) for pair in pairs(task, "test")) == expected
    assert all(determined(task, pair.i, train) for pair in train)


def test_an_ideal_learner_of_successors_needs_every_step_of_a_digit():
    shown = [pair for pair in pairs("successor", "train") if pair.i not in (19, 20, 39)]
    assert not determined("successor", 11, [p for p in shown if p.i // 10 not in (1,)])
    assert determined("successor", 41, pairs("successor", "train"))  # 1 to 2 is in 19, 20
