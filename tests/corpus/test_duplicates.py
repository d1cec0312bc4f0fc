"""Duplicates: what is found again, to the letter or nearly so, and what is not mistaken for it."""

import random

from minislm.corpus.duplicates import Signatures


def make_story(seed: int, words: int = 100) -> str:
    draw = random.Random(seed)
    return " ".join(f"word{draw.randrange(1000)}" for _ in range(words)) + "."


def test_near_duplicates_are_found_among_many():
    stories = [make_story(seed) for seed in range(600)]  # the table grows several times
    seen = Signatures()
    for story in stories:
        assert seen.match(seen.keys(story)) is None
        seen.add(seen.keys(story))
    changed = [story.split() for story in stories]
    for words in changed:
        words[50] = "purple"
    assert all(seen.match(seen.keys(story)) == "exact" for story in stories)
    found = sum(seen.match(seen.keys(" ".join(words))) == "near" for words in changed)
    assert found >= 590  # 0.996 of them by the formula


def test_signatures_are_the_same_in_every_process():
    keys = Signatures().keys("the cat sat on the mat")
    assert keys[:2] == [1775360617804990912, 15672796927219001572]
