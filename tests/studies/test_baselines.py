"""The baselines: a model of known accuracy tests the evaluator, and its mutations are caught."""

import math

import pytest
import torch

from minislm import evaluation
from minislm.config import SampleConfig
from minislm.evaluation import Answer, answers, exact_match
from minislm.fast.sampler import FastSampler
from minislm.sampler import Sampler
from minislm.stories.generate import generate
from minislm.studies.baselines import HEURISTICS, DummyModel, edit_distance, number_in
from minislm.tasks import END_OF_TEXT, TASKS, Pair, encode_pair, pairs
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
    monkeypatch.setattr(Tokenizer, "continuation", lambda self, _, ids: self.decode(ids) + " more")


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


def answer_of(name, tokenizer, task, i, train):
    known = [Pair(task, n, *TASKS[task](n)) for n in (*train, i)]
    model = HEURISTICS[name](tokenizer, known=known, train=known[:-1])
    return answers(Sampler(model, tokenizer), known[-1:])[0].text


@pytest.mark.parametrize(
    ("name", "task", "train", "i", "expected"),
    [
        ("majority", "parity", (2, 4, 5), 41, " even"),
        ("majority", "parity", (5, 9, 2), 41, " odd"),
        ("last digit", "parity", (20, 5, 9), 41, " even"),  # 0 is the nearest digit to 1
        ("last digit", "parity", (12, 15, 9), 48, " odd"),  # 9 is the nearest digit to 8
        ("nearest number", "successor", (39, 44), 41, " 40"),
        ("nearest number", "copy", (40, 42), 41, " 40"),  # as near: the lower one
        ("nearest prompt", "copy", (40, 51, 14), 41, " 40"),  # one character differs, as in 51
        ("nearest prompt", "copy", (5, 48, 60), 68, " 48"),
        ("copy the prompt", "words", (40,), 41, " 41"),
        ("trigram", "parity", (5, 2, 4), 5, " even"),  # all of its prompts end in "or odd?"
    ],
)  # fmt: skip
def test_a_heuristic_gives_the_answer_of_its_rule(spelling, name, task, train, i, expected):
    assert answer_of(name, spelling, task, i, train) == expected


def test_an_ngram_counts_by_hand(spelling):
    """The end followed " even" twice; a bigram uses only the last token of a prompt."""
    train = [Pair("parity", i, *TASKS["parity"](i)) for i in (2, 4, 5)]
    bigram = HEURISTICS["bigram"](spelling, train=train)
    question = spelling.prompt_ids("Is 9 even or odd?")
    logits = bigram(torch.tensor([question]))[0, -1]
    even, odd = spelling.encode(" even"), spelling.encode(" odd")
    assert len(even) == len(odd) == 1
    assert logits[even[0]].item() == pytest.approx(math.log(2))
    assert logits[odd[0]].item() == pytest.approx(0.0)
    assert logits[spelling.eot_id].item() == -30


@pytest.mark.parametrize(("name", "order"), [("bigram", 2), ("trigram", 3)])
def test_an_ngram_has_the_counts_of_its_order(spelling, name, order):
    """Of every training text and position, against a count of all texts."""
    train = [Pair("successor", i, *TASKS["successor"](i)) for i in (12, 21, 22, 52)]
    texts = [sum(encode_pair(spelling, pair), []) for pair in train]
    model = HEURISTICS[name](spelling, train=train)
    for ids in texts:
        logits = model(torch.tensor([ids]))[0]
        for t in range(order - 2, len(ids) - 1):
            last = ids[t + 2 - order : t + 1]
            following = [each[n + len(last)] for each in texts for n in range(len(each) - len(last))
                         if each[n : n + len(last)] == last]  # fmt: skip
            for token in range(spelling.vocab_size):
                count = following.count(token)
                expected = math.log(count) if count else -30
                assert logits[t, token].item() == pytest.approx(expected)


def test_heuristics_on_parity_fail_as_the_task_states(spelling):
    """The shortcut of the task's own docstring: all of D_train, none of D_test."""
    found = score(HEURISTICS["last digit"](spelling), spelling, ["parity"])["parity"]
    assert found.train == (70, 70) and found.test == (0, 30)
    found = score(HEURISTICS["copy the prompt"](spelling), spelling, ["copy"])["copy"]
    assert found.test == (30, 30)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("41:", "14:", 2), ("aab", "ab", 1)],
)
def test_edit_distance(one, other, expected):
    assert edit_distance(one, other) == edit_distance(other, one) == expected


def test_number_in_a_prompt():
    assert [number_in(pairs(t)[40].prompt) for t in ("copy", "sentence", "count")] == [41] * 3
