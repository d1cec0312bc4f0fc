"""Texts of the tests in this folder."""

import random

from minislm.tasks import END_OF_TEXT

WORDS = "cat dog hat red big ran saw the a with his her tree ball happy sad went park mom".split()


def make_story(seed: int, words: int = 60) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) + str(rng.randrange(50)) for _ in range(words)) + "."


STORIES = [make_story(seed) for seed in range(12)]


def in_file(path, stories=STORIES, separator=f"\n{END_OF_TEXT}\n"):
    path.write_text(separator.join(stories) + separator, newline="")
    return path
