"""Continuations, questions and likelihoods of a model."""

import random

import pytest
import torch
from helpers import random_model
from pretrained.llama2c_files import write_llama2c

from minislm.pretrained.load import load
from minislm.reporting.intervals import clopper_pearson
from minislm.runtime.errors import UserError
from minislm.scoring.grading import answer, likelihoods, score_model
from minislm.scoring.ngrams import NgramIndex
from minislm.scoring.prompts import BEGINNINGS, QUESTIONS
from minislm.scoring.rules import DIMENSIONS


def test_the_beginnings_are_cut_within_a_sentence():
    assert len(BEGINNINGS) == len(set(BEGINNINGS)) == 44
    assert all(text[-1] not in '.!?"' for text in BEGINNINGS)


def test_the_questions_are_sound():
    assert {kind: len(rows) for kind, rows in QUESTIONS.items()} == {
        "factual": 84, "reasoning": 66, "context": 72}  # fmt: skip
    rows = sum(QUESTIONS.values(), [])
    assert len({prompt for prompt, *_ in rows}) == len(rows)
    for prompt, *endings in rows:
        assert len(set(endings)) == 3 and "{" not in prompt + "".join(endings)
        assert prompt == prompt.strip() and all(ending[0] == " " for ending in endings)


def _position(prompt, ending):
    """Where the ending's word was last mentioned, -1 if nowhere."""
    return prompt.rfind(ending.strip(" ."))


@pytest.mark.parametrize(
    "answered",
    [
        lambda prompt, ending: len(ending),
        lambda prompt, ending: -len(ending),
        lambda prompt, ending: len(prompt + ending) % 7,
        lambda prompt, ending: ending,
        lambda prompt, ending: random.Random(prompt + ending).random(),
        _position,
        lambda prompt, ending: -_position(prompt, ending),
    ],
    ids=[
        "longest",
        "shortest",
        "length",
        "alphabet",
        "random",
        "last mentioned",
        "first mentioned",
    ],
)
def test_the_form_of_an_ending_gives_nothing_away(answered):
    for rows in QUESTIONS.values():
        values = [[answered(prompt, ending) for ending in endings] for prompt, *endings in rows]
        right = sum(first > max(others) for first, *others in values)
        assert clopper_pearson(right, len(rows))[0] <= 1 / 3


def test_every_ending_is_right_as_often_as_the_others_of_its_group():
    for rows in QUESTIONS.values():
        for k in range(0, len(rows), 3):
            group = [endings for _, *endings in rows[k : k + 3]]
            assert len({frozenset(each) for each in group}) == 1
            assert {each[0] for each in group} == set(group[0])


def test_an_answer_has_the_highest_mutual_information_with_the_prompt(tokenizer):
    model = random_model(vocab_size=tokenizer.vocab_size)

    def logprob(before, after):
        logprobs = model(torch.tensor([before + after]))[0].log_softmax(-1)
        return sum(logprobs[len(before) - 1 + k, i].item() for k, i in enumerate(after))

    right = 0
    for prompt, *endings in QUESTIONS["context"]:
        before, ids = tokenizer.prompt_ids(prompt), [tokenizer.encode(e) for e in endings]
        given = [logprob(before, each) for each in ids]
        pmi = [value - logprob([tokenizer.eot_id], each) for value, each in zip(given, ids)]
        per_byte = [value / len(e.encode()) for value, e in zip(given, endings)]
        texts = [(prompt, ending) for ending in endings]
        assert likelihoods(model, tokenizer, texts) == pytest.approx(per_byte, rel=1e-4)
        right += pmi[0] > max(pmi[1:])
    assert 0 < right < 72
    assert answer(model, tokenizer, {"context": QUESTIONS["context"]}) == {"context": (right, 72)}


def test_a_tie_is_wrong(tokenizer):
    model = random_model(vocab_size=tokenizer.vocab_size)
    for weight in model.parameters():
        torch.nn.init.zeros_(weight)
    rows = [["A dog", " sat.", " sat.", " ran."]]
    assert answer(model, tokenizer, {"factual": rows}) == {"factual": (0, 1)}


def test_a_continuation_has_the_tokens_that_it_has_in_the_whole_text(tmp_path):
    tensors = write_llama2c(tmp_path)  # its tokenizer adds a space to the start of every text
    assert tensors
    model, tokenizer = load(tmp_path / "v0.bin")
    before, whole = tokenizer.prompt_ids("the"), tokenizer.prompt_ids("the cat")
    after = whole[len(before) :]
    assert whole[: len(before)] == before and after != tokenizer.encode(" cat")
    logprobs = model(torch.tensor([whole]))[0].log_softmax(-1)
    total = sum(logprobs[len(before) - 1 + k, i].item() for k, i in enumerate(after))
    assert likelihoods(model, tokenizer, [("the", " cat")]) == [pytest.approx(total / 4, rel=1e-4)]


def test_a_text_beyond_the_context_counts_as_far_as_it_fits(tokenizer):
    model = random_model(vocab_size=tokenizer.vocab_size, context=16)
    start = "The dog ran home."
    for prompt, text in (("One day", start + 20 * " It was big."), (20 * "One day " + "he", start)):
        before = tokenizer.prompt_ids(prompt)[-16:]
        after = tokenizer.encode(text)[: 17 - len(before)]
        logprobs = model(torch.tensor([before + after])[:, :-1])[0].log_softmax(-1)
        total = sum(logprobs[len(before) - 1 + k, i].item() for k, i in enumerate(after))
        by_hand = total / len(tokenizer.decode(after).encode())
        assert likelihoods(model, tokenizer, [(prompt, text)]) == [pytest.approx(by_hand, rel=1e-4)]


def test_a_model_is_scored_on_prompts_and_instructions(tokenizer, stories):
    model = random_model(vocab_size=tokenizer.vocab_size, context=320)
    plain = score_model("m", model, tokenizer, samples=16)
    assert [prompt for prompt, _ in plain.texts[:14]] == list(BEGINNINGS[:14])
    headers = [prompt for prompt, _ in plain.texts[14:]]
    assert len(headers) == 2 and all("Words: " in each for each in headers)
    assert all(each.endswith("Story:\n\n") for each in headers)
    assert set(plain.scores) == {*DIMENSIONS, "questions"}
    for mean, low, high in plain.scores.values():
        assert 0 <= low <= mean <= high <= 10
    assert plain.raw.keys().isdisjoint(DIMENSIONS) and plain.raw["distinct_triples"] <= 1
    assert "copied" not in plain.raw and "longest_copied" not in plain.raw

    own = [text for _, text in plain.texts]  # as if the model had copied all its texts
    copied = score_model("m", model, tokenizer, samples=16, index=NgramIndex(stories + own),
                         grader=(model, tokenizer))  # fmt: skip
    assert copied.texts == plain.texts
    assert copied.raw["copied"] > 0.9 and copied.raw["longest_copied"] > 2
    assert copied.scores["creativity"][0] < plain.scores["creativity"][0]
    assert copied.raw["nats_per_byte_under_the_grader"] > 0


@pytest.mark.parametrize(
    ("context", "prompts"),
    [(320, [BEGINNINGS[0] * 5]), (24, ["Once"])],  # no prompt fits; no instruction fits
)
def test_a_context_that_is_too_short_is_refused(tokenizer, context, prompts):
    model = random_model(vocab_size=tokenizer.vocab_size, context=context)
    with pytest.raises(UserError, match=f"exceed half its context of {context}"):
        score_model("m", model, tokenizer, samples=16, prompts=prompts)
