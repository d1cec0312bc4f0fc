"""The rules, on sentences that were judged by hand."""

import pytest

from minislm.scoring.ngrams import NgramIndex
from minislm.scoring.rules import (
    WEIGHTS,
    errors,
    instruction,
    measure,
    names,
    sentences,
    split_beginning,
    weighted,
)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("They was happy.", "agreement"),
        ("She have a red ball.", "agreement"),
        ("Tom go to the park.", "agreement"),
        ("He had three apple.", "agreement"),
        ("The birds was loud.", "agreement"),
        ("There were a dog.", "agreement"),
        ("There was two dogs.", "agreement"),
        ("He ate a apple.", "article"),
        ("She saw an dog.", "article"),
        ("They ran ran home.", "repeated word"),
        ("He ran home. she cried.", "lower case"),
        ("She went to the shop and", "unfinished"),
    ],
)
def test_an_error_is_found(text, kind):
    assert kind in set.union(*errors("It was a day.", text))


@pytest.mark.parametrize(
    "text",
    [
        "Lily and Ben were happy. They have an apple and a unicorn.",
        '"Did he go home?" asked Tom. "Let Tom go!" she cried.',
        "She had had one bird, then two birds, then three apple pies.",
        "He wished that he could go. It was very very late.",
        "There was one dog. There were two cats. The people were nice.",
        "It took an hour. She put it down. We were there, and you are here.",
        "What animal are you? The sheep were here. Mom and Tom go home.",
        "He went to the park and went to the park. He went to the park.",  # a dimension of its own
    ],
)
def test_good_sentences_have_none(text):
    assert not set.union(*errors("It was a day.", text))


def test_the_first_sentence_may_complete_the_prompt():
    assert not set.union(*errors("Then she", "ran home. It was fun."))
    assert "lower case" in set.union(*errors("It was a day.", "then she ran."))


def test_a_quotation_is_part_of_its_sentence():
    text = '"Look! A dog," said Mr. Hill. "Come here!" It came.\nThe end'
    assert "".join(sentences(text)).replace(" ", "") == text.replace(" ", "").replace("\n", "")
    assert len(sentences('"Stop!" said Tom. He ran.')) == 3


def test_a_story_is_split_before_its_fourth_sentence():
    assert split_beginning("It ran. It sat. It ate. It slept.") == (
        "It ran. It sat. It ate. ",
        "It slept.",
    )
    assert split_beginning("It ran. It sat.") == ("It ran. ", "It sat.")


def test_names():
    assert names("Once Lily met Zorbo. Tom ran. He saw Mr Bo.") == ["Lily", "Zorbo", "Tom", "Bo"]


def test_instruction_counts_inflected_forms():
    text = 'The dogs were running. "Hi!" said Tom.'
    assert instruction(["run", "dog"], ["Dialogue"], text) == 10
    assert instruction(["run", "cat"], [], text) == pytest.approx(20 / 3)
    assert instruction(["run"], ["Dialogue"], "He ran and") == pytest.approx(10 / 3)


def test_a_memorised_text_is_not_creative():
    story = "A kind fox named Gus found a silver whistle. He played a song under the old bridge."
    own, copied = measure("It was spring.", story), measure("It was spring.", story, copied=1.0)
    assert own.creativity > 4 and copied.creativity == 0
    assert NgramIndex([story]).rouge_2(story) == 1


def test_repetition_is_the_share_of_different_word_triples():
    once = measure("It was a day.", "He ran to the old park.")
    assert once.distinct_triples == 1 and once.repetition == 10
    again = measure("It was a day.", "He ran to the park. He ran to the park.")  # 5 of 8 differ
    assert again.distinct_triples == 5 / 8 and again.repetition == 6.25 and again.grammar == 10
    assert measure("It was a day.", "He ran.").repetition == 10


@pytest.mark.parametrize("dimension", ["context", "plot"])
def test_a_weighted_score_is_the_sum_of_its_weighted_measures(dimension):
    found = measure("Tom had a red ball.", "The ball was red. Sue saw it. Sue saw it. It was fun.")
    intercept, weights = WEIGHTS[dimension]
    by_hand = intercept + sum(w * getattr(found, name) for name, w in weights.items())
    assert 0 < by_hand < 10 and getattr(found, dimension) == pytest.approx(by_hand)
    assert weighted({"x": 3.0}, 1.0, {"x": 5.0}) == 10 and weighted({"x": 3.0}, 1.0, {"x": -5}) == 0


def test_a_name_is_introduced_by_the_word_before_it():
    prompt = "There was a girl named"
    assert measure(prompt, " Sue. Sue ran to a boy called Ben. Ben sat.").known_names == 0.5
    assert measure("A dog sat.", "It met Tom. Then Sue ran.").known_names == 0.5
