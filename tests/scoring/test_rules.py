"""The rules, on sentences that were judged by hand."""

import pytest

from minislm.scoring.ngrams import NgramIndex
from minislm.scoring.rules import errors, instruction, measure, names, sentences, split_beginning


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
        ("He went to the park and went to the park.", "repetition"),
        ("She went to the shop. Then she went to the shop.", "repeated sentence"),
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


def test_a_repeated_text_is_as_much_in_order_as_a_single_one():
    prompt = "Once upon a time, there was a girl named Sue."
    text = " She saw a dog. The dog ran to her. Sue was glad. They learned that dogs are kind."
    assert measure(prompt, text).order == 1
    assert measure(prompt, text + text).order == 1
    backwards = " They learned that dogs are kind. Sue was glad. The dog ran to her. She saw a dog."
    assert measure(prompt, backwards).order < 0.5


def test_a_noun_with_a_after_the_same_noun_with_the_is_too_early_once():
    verbs = "ran sat ate slept sang hid cried woke left fell".split()
    text = "The dog ran. A dog sat. A dog ate. " + " ".join(f"He {verb}." for verb in verbs[1:])
    assert measure("", text).order == pytest.approx(1 - 6 * 1 / 12)
