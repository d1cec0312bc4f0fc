"""The state of a story: what is owned, how variants and direct speech become sentences."""

import random

import pytest

from minislm.stories.narrator import StoryState


def state(dialogue: bool = True, digit_share: float = 0.0) -> StoryState:
    s = StoryState(random.Random(0))
    s.dialogue, s.digit_share = dialogue, digit_share
    return s


def test_one_variant_is_added_with_a_capital_and_without_line_breaks():
    sentences = set()
    for seed in range(20):
        s = StoryState(random.Random(seed))
        s.add("""the dog
            ran. | the cat slept.""")
        sentences.update(s.sentences)
    assert sentences == {"The dog ran.", "The cat slept."}


def test_no_sentence_begins_with_a_digit():
    s = state(digit_share=1.0)
    s.add("41 dogs had 3 bones.")
    assert s.sentences == ["Forty-one dogs had 3 bones."]


def test_one_variant_takes_no_random_number():
    s = state()
    before = s.rng.getstate()
    assert s.one_of("a sentence.") == "a sentence." and s.rng.getstate() == before
    s.one_of("a. | b.")
    assert s.rng.getstate() != before


def test_a_paragraph_begins_on_a_new_line():
    s = state()
    s.add("one.")
    s.add("two.")
    s.paragraph()
    s.add("three.")
    assert list(zip(s.gaps, s.sentences)) == [("", "One."), (" ", "Two."), ("\n", "Three.")]


def test_direct_speech_has_a_verb_and_a_story_without_dialogue_has_indirect_speech():
    s = state()
    s.say("Mia", "Where is it?")
    s.say("Mia", "I lost it.", indirect="Mia lost it.")
    assert s.sentences[0] in ('"Where is it?" Mia asked.', '"Where is it?" asked Mia.',
                              'Mia asked, "Where is it?"')  # fmt: skip
    assert s.sentences[1] in ('"I lost it," Mia said.', '"I lost it," said Mia.',
                              'Mia said, "I lost it."')  # fmt: skip
    quiet = state(dialogue=False)
    quiet.say("Mia", "Where is it?")
    quiet.say("Mia", "I lost it.", indirect="Mia lost it.")
    assert quiet.sentences == ["Mia lost it."]


def test_things_are_counted_and_nobody_loses_more_than_they_have():
    s = state()
    assert s.gain("Mia", 5, "bun") == 5
    assert s.give("Mia", "Tom", 2, "bun") == 3 and s.owned["Tom", "bun"] == 2
    with pytest.raises(ValueError, match="Mia cannot lose 4 buns"):
        s.lose("Mia", 4, "bun")
    assert s.lose("Mia", 3, "bun") == 0


def test_an_optional_scene_brings_its_feature():
    s = state()
    assert not s.chance(0.0, "Twist") and not s.features
    assert s.chance(1.0, "Twist") and s.chance(1.0) and s.features == {"Twist"}


def test_names_begin_with_different_letters():
    for seed in range(50):
        s = StoryState(random.Random(seed))
        names = [person.name for person in (*s.cast(0.5), s.person(), s.person("cat"))]
        assert len({name[0] for name in names}) == 4


def test_pronouns_fit_the_kind():
    s = state()
    people = [s.person() for _ in range(15)]
    assert {(p.kind, p.he, p.him, p.his) for p in people} == {
        ("girl", "she", "her", "her"), ("boy", "he", "him", "his"),
    }  # fmt: skip


def test_counting_aloud():
    assert state().aloud(3) == "One, two, three" and state(digit_share=1.0).aloud(3) == "1, 2, 3"
    assert state().count(1, "bun") == "one bun" and state().count(2, "bun") == "two buns"
