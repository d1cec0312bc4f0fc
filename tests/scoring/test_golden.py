"""The scores of fixed texts are the numbers in scores.json, which earlier code computed."""

import json
from pathlib import Path

import pytest

from minislm.scoring import rules
from minislm.scoring.ngrams import NgramIndex, bleu, distinct, rouge_n, self_bleu, words_of

GOLDEN = json.loads(Path(__file__).with_name("scores.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def index():
    return NgramIndex(GOLDEN["training_stories"])


@pytest.mark.parametrize("number", range(len(GOLDEN["texts"])))
def test_the_measures_of_a_text_are_unchanged(index, number):
    row = GOLDEN["texts"][number]
    prompt, text = row["prompt"], row["text"]
    found = rules.measure(prompt, text, index.rouge_2(text))
    for name in (*vars(found), *rules.DIMENSIONS[:3]):
        assert getattr(found, name) == pytest.approx(row[name], abs=1e-12), name
    fulfilled = rules.instruction(row["required"], row["features"], text)
    assert fulfilled == pytest.approx(row["instruction"], abs=1e-12)
    assert index.longest_copied(text) == row["longest_copied"]
    assert [len(kinds) for kinds in rules.errors(prompt, text)] == row["errors"]
    assert rules.names(text) == row["names"]


def test_the_measures_of_many_texts_are_unchanged():
    tokens, expected = [words_of(row["text"]) for row in GOLDEN["texts"]], GOLDEN["corpus"]
    references = [[tokens[7], tokens[8]], [tokens[7]], [tokens[9], tokens[0]], [tokens[2]],
                  [tokens[5]]]  # fmt: skip
    assert distinct(tokens, 2) == pytest.approx(expected["distinct_2"])
    assert distinct(tokens, 4) == pytest.approx(expected["distinct_4"])
    assert self_bleu(tokens) == pytest.approx(expected["self_bleu"])
    assert bleu(tokens[:5], references) == pytest.approx(expected["bleu"])
    assert rouge_n(tokens[8], tokens[7], 2) == pytest.approx(expected["rouge_2"])
