"""Continuations, questions and likelihoods of a model."""

import pytest
import torch
from helpers import random_model

from minislm.runtime.errors import UserError
from minislm.scoring.grading import answer, likelihoods, score_model
from minislm.scoring.ngrams import NgramIndex
from minislm.scoring.prompts import BEGINNINGS, QUESTIONS


def test_the_prompts_are_sound():
    assert len(BEGINNINGS) == len(set(BEGINNINGS)) == 44
    assert all(text[-1] not in '.!?"' for text in BEGINNINGS)  # cut within a sentence
    assert list(QUESTIONS) == ["factual", "reasoning", "context"]
    for rows in QUESTIONS.values():
        assert len(rows) == 12
        for prompt, *endings in rows:
            assert len(set(endings)) == 3
            assert prompt == prompt.strip() and all(ending[0] == " " for ending in endings)


def test_an_answer_has_the_highest_likelihood_per_byte(tokenizer):
    model = random_model(vocab_size=tokenizer.vocab_size)
    right = 0
    for prompt, *endings in QUESTIONS["context"]:
        by_hand = []
        for ending in endings:
            before, after = tokenizer.prompt_ids(prompt), tokenizer.encode(ending)
            logprobs = model(torch.tensor([before + after]))[0].log_softmax(-1)
            total = sum(logprobs[len(before) - 1 + k, i].item() for k, i in enumerate(after))
            by_hand.append(total / len(ending.encode()))
        texts = [(prompt, ending) for ending in endings]
        assert likelihoods(model, tokenizer, texts) == pytest.approx(by_hand, rel=1e-4)
        right += by_hand[0] == max(by_hand)
    assert answer(model, tokenizer, {"context": QUESTIONS["context"]}) == {"context": (right, 12)}


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
    assert set(plain.scores) == {"grammar", "creativity", "consistency", "instruction", "questions"}
    for value in plain.scores.values():
        assert 0 <= value["low"] <= value["mean"] <= value["high"] <= 10
    assert "copied" not in plain.raw and "longest_copied" not in plain.raw

    own = [text for _, text in plain.texts]  # as if the model had copied all its texts
    copied = score_model("m", model, tokenizer, samples=16, index=NgramIndex(stories + own),
                         grader=(model, tokenizer))  # fmt: skip
    assert copied.texts == plain.texts
    assert copied.raw["copied"] > 0.9 and copied.raw["longest_copied"] > 2
    assert copied.scores["creativity"]["mean"] < plain.scores["creativity"]["mean"]
    assert copied.raw["nats_per_byte_under_the_grader"] > 0


@pytest.mark.parametrize(
    ("context", "prompts"),
    [(320, [BEGINNINGS[0] * 5]), (24, ["Once"])],  # no prompt fits; no instruction fits
)
def test_a_context_that_is_too_short_is_refused(tokenizer, context, prompts):
    model = random_model(vocab_size=tokenizer.vocab_size, context=context)
    with pytest.raises(UserError, match=f"exceed half its context of {context}"):
        score_model("m", model, tokenizer, samples=16, prompts=prompts)
