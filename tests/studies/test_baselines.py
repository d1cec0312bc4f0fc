"""The baselines: the evaluator proved by a model of known accuracy, and its mutations caught."""

import math

import pytest
import torch

from minislm import evaluation
from minislm.config import SampleConfig
from minislm.evaluation import answers, exact_match
from minislm.reporting.intervals import wilson
from minislm.sampler import Sampler
from minislm.stories.generate import generate
from minislm.studies.baselines import HEURISTICS, DummyModel, edit_distance, number_in
from minislm.tasks import TASKS, Pair, pairs
from minislm.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def spelling() -> Tokenizer:
    texts = [text for task in TASKS for p in pairs(task, "train") for text in (p.prompt, p.answer)]
    return Tokenizer.train([s.text for s in generate(50)] + texts, 400, "merged")


SHORT = [task for task in TASKS if task not in ("unary", "count")]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_a_dummy_that_is_always_or_never_right_scores_exactly_that(spelling, accuracy, batch_size):
    tasks = TASKS if batch_size == 64 else SHORT[:3]
    for task, score in exact_match(
        DummyModel(spelling, accuracy), spelling, tasks, batch_size
    ).items():
        assert score.rate("train") == score.rate("test") == accuracy, task


def test_a_dummy_right_in_three_of_ten_scores_within_its_binomial_interval(spelling):
    scores = exact_match(DummyModel(spelling, 0.3), spelling, SHORT)
    right = sum(score.train[0] + score.test[0] for score in scores.values())
    asked = sum(score.train[1] + score.test[1] for score in scores.values())
    assert asked == 600 and abs(right - 0.3 * asked) < 1.96 * math.sqrt(0.3 * 0.7 * asked)
    again = exact_match(DummyModel(spelling, 0.3), spelling, SHORT, 7)
    assert again == scores  # neither batch size nor company changes an answer
    other = exact_match(DummyModel(spelling, 0.3, seed=1), spelling, SHORT)
    assert other != scores


def test_forward_of_a_dummy_is_that_of_a_module(spelling):
    model = DummyModel(spelling, 1.0)
    pair = pairs("copy")[40]
    ids = spelling.prompt_ids(pair.prompt) + spelling.encode(pair.answer)
    logits = model(torch.tensor([ids]))
    assert isinstance(model, torch.nn.Module) and logits.shape == (1, len(ids), spelling.vocab_size)
    assert logits[0, -1].argmax() == spelling.eot_id
    assert (
        logits[0, len(spelling.prompt_ids(pair.prompt)) - 1].argmax() == spelling.encode(" 41")[0]
    )


# --- mutations of the evaluator, each of which the dummies must catch -----------------------------


def shifted(monkeypatch):
    """Each answer is held against the next pair's."""
    real = evaluation.answers
    monkeypatch.setattr(evaluation, "answers", lambda *a: real(*a)[1:] + real(*a)[:1])


def pads_counted(monkeypatch):
    """The end of text is spelt out and counts as a part of the answer."""
    real = evaluation.answers
    monkeypatch.setattr(evaluation, "answers", lambda *a: [s + "<|endoftext|>" for s in real(*a)])


def cut_early(monkeypatch):
    """One token too few is asked for."""
    real = SampleConfig

    def short(max_new_tokens, **more):
        return real(max_new_tokens=max(1, max_new_tokens - 2), **more)

    monkeypatch.setattr(evaluation, "SampleConfig", short)


def end_ignored(monkeypatch):
    """What stands behind the end of text is read on."""
    real = Sampler.generate_ids

    def past_the_end(self, prompts, settings):
        return [ids + self.tokenizer.encode(" more") for ids in real(self, prompts, settings)]

    monkeypatch.setattr(evaluation.Sampler, "generate_ids", past_the_end)
    monkeypatch.setattr(
        Tokenizer, "continuation", lambda self, before, ids: self.decode(ids) + " more"
    )


def echoed(monkeypatch):
    """The prompt is taken for a part of the answer."""
    real = evaluation.answers

    def with_prompt(model, tokenizer, asked, batch_size):
        said = real(model, tokenizer, asked, batch_size)
        return [pair.prompt + text for pair, text in zip(asked, said)]

    monkeypatch.setattr(evaluation, "answers", with_prompt)


@pytest.mark.parametrize("mutate", [shifted, pads_counted, cut_early, end_ignored, echoed])
def test_a_broken_evaluator_is_caught(spelling, monkeypatch, mutate):
    mutate(monkeypatch)
    scores = exact_match(DummyModel(spelling, 1.0), spelling, ["words"])
    assert scores["words"].rate("train") < 1


def test_an_evaluator_that_counts_wrong_answers_is_caught_by_the_dummy_at_zero(
    spelling, monkeypatch
):
    monkeypatch.setattr(evaluation, "answers", lambda m, t, asked, b: [p.answer for p in asked])
    assert exact_match(DummyModel(spelling, 0.0), spelling, ["copy"])["copy"].rate("test") == 1


# --- the heuristics, on cases counted by hand -----------------------------------------------------


def say(name, spelling, task, i, shown):
    known = [Pair(task, n, *TASKS[task](n)) for n in (*shown, i)]
    model = HEURISTICS[name](spelling, known=known, shown=known[:-1])
    return answers(model, spelling, known[-1:])[0]


@pytest.mark.parametrize(
    ("name", "task", "shown", "i", "expected"),
    [
        ("majority", "parity", (2, 4, 5), 41, " even"),
        ("majority", "parity", (5, 9, 2), 41, " odd"),
        ("last digit", "parity", (20, 5, 9), 41, " even"),  # 0 is the nearest digit to 1
        ("last digit", "parity", (12, 15, 9), 48, " odd"),  # 9 is the nearest digit to 8
        ("nearest number", "successor", (39, 44), 41, " 40"),
        ("nearest number", "copy", (40, 42), 41, " 40"),  # as near: the lower one
        ("nearest prompt", "copy", (40, 51, 14), 41, " 40"),  # one letter differs, as in 51
        ("nearest prompt", "copy", (5, 48, 60), 68, " 48"),
        ("copy the prompt", "words", (40,), 41, " 41"),
        ("trigram", "parity", (5, 2, 4), 5, " even"),  # all it has seen end in "or odd?"
    ],
)  # fmt: skip
def test_a_heuristic_says_what_it_pretends_to_know(spelling, name, task, shown, i, expected):
    assert say(name, spelling, task, i, shown) == expected


def test_an_ngram_counts_by_hand(spelling):
    """After " even" came the end twice; a bigram knows no more of a prompt than its last token."""
    shown = [Pair("parity", i, *TASKS["parity"](i)) for i in (2, 4, 5)]
    bigram = HEURISTICS["bigram"](spelling, shown=shown)
    question = spelling.prompt_ids("Is 9 even or odd?")
    logits = bigram(torch.tensor([question]))[0, -1]
    even, odd = spelling.encode(" even"), spelling.encode(" odd")
    assert len(even) == len(odd) == 1
    assert logits[even[0]].item() == pytest.approx(math.log(2))
    assert logits[odd[0]].item() == pytest.approx(0.0)
    assert logits[spelling.eot_id].item() == -30


def test_heuristics_on_parity_are_what_the_task_says(spelling):
    """The shortcut of the task's own docstring: all of D_train, none of D_test."""
    model = HEURISTICS["last digit"](spelling)
    score = exact_match(model, spelling, ["parity"])["parity"]
    assert score.train == (70, 70) and score.test == (0, 30)
    score = exact_match(HEURISTICS["copy the prompt"](spelling), spelling, ["copy"])["copy"]
    assert score.test == (30, 30)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("41:", "14:", 2), ("aab", "ab", 1)],
)
def test_edit_distance(one, other, expected):
    assert edit_distance(one, other) == edit_distance(other, one) == expected


def test_number_in_a_prompt():
    assert [number_in(pairs(t)[40].prompt) for t in ("copy", "sentence", "count")] == [41] * 3


def test_wilson_interval_of_the_literature():
    """15 of 20: the values that Newcombe (1998) and R's prop.test without correction give."""
    low, high = wilson(15, 20)
    assert low == pytest.approx(0.5313, abs=1e-4) and high == pytest.approx(0.8881, abs=1e-4)
    assert wilson(0, 10)[0] == 0 and wilson(10, 10)[1] == pytest.approx(1)
    with pytest.raises(ValueError):
        wilson(3, 0)
