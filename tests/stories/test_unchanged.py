"""The stories of a seed stay the same to the letter, because models and studies compare by them."""

import hashlib

import pytest

from minislm.stories.generate import generate

CASES = {
    "plain": (
        dict(count=300, seed=5),
        "35b2fa2578f1769ccd62e992bae91df2004be37e043ee49ec47e30f939ef7297",
    ),
    "numbers": (
        dict(count=100, seed=9, numbers=0.7),
        "2f76f3f25e04caad382a92bf4b800590c97e084bd550e70901e1cd21084b621e",
    ),
    "corrupted": (
        dict(count=50, seed=3, agreement_errors=1.0),
        "c3235a7991036c139997c554b27def296b9071e4b38d097eb395f3b4ddf7b3b1",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_texts_headers_and_word_classes_are_unchanged(case):
    options, expected = CASES[case]
    digest = hashlib.sha256()
    for s in generate(**options):
        classes = [(word.lemma, word.word_class) for word in s.words]
        fields = (s.instruct, s.text, s.header, s.features, s.required, s.summary, classes)
        digest.update(repr(fields).encode())
    assert digest.hexdigest() == expected
