"""Cleaning: what becomes of a text, which stories are dropped, and what is counted."""

import random

import pytest
from corpus.texts import STORIES, make_story

from minislm.corpus.clean import Counts, clean_stories, digest, normalise


def normal(text: str) -> str:
    return normalise(text, Counts())


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_mojibake_is_repaired_to_what_was_written(encoding):
    written = "\u201cIt\u2019s a caf\u00e9,\u201d he said \u2013 na\u00efve\u2014\u2026 \U0001f60a!"
    if encoding == "cp1252":  # browsers and tools pass its five undefined bytes as they are
        corrupted = "".join(
            bytes([b]).decode("latin-1" if b in b"\x81\x8d\x8f\x90\x9d" else "cp1252")
            for b in written.encode()
        )
    else:
        corrupted = written.encode().decode("latin-1")
    clean = '"It\'s a caf\u00e9," he said - na\u00efve-... \U0001f60a!'
    assert normal(corrupted) == normal(written) == clean


@pytest.mark.parametrize(
    "corrupted, repaired",
    [
        ("\u00e2\u20ac\u0153Run!\u00e2\u20ac she said", '"Run!" she said'),  # 9d lost
        ("\u00e2\u20ac\u0153Run!\u00e2\u20ac\ufffd she said", '"Run!" she said'),  # 9d replaced
        ('the end \u00e2\u20ac" almost', "the end - almost"),  # 94 straightened
        ("Lily\u00e2\u20ac\u2122s hat", "Lily's hat"),
        ("two\u00c2\u00a0words", "two words"),
    ],
)
def test_damaged_mojibake(corrupted, repaired):
    counts = Counts()
    assert normalise(corrupted, counts) == repaired
    assert counts["changed: mojibake repaired"] == 1


def test_correct_accents_stay():
    text = "caf\u00e9 \u00e0 c\u00f4t\u00e9, \u00e2me, ma\u00e7\u00e3, \u65e5\u672c"
    counts = Counts()
    assert normalise(text, counts) == text and not counts.total()
    assert normal("\u201eMEN\u00dc\u201c") == '"MEN\u00dc"'


def test_one_spelling_for_every_text():
    assert normal("cafe\u0301") == "caf\u00e9"
    assert normal("\ufeffa\r\nb\rc") == "a\nb\nc"
    assert normal("a  \nb\t\n \n\n\nc\n\n\nd ") == "a\nb\n\nc\n\nd"
    assert normal("\u201ca\u201d \u2018b\u2019 c\u2026") == "\"a\" 'b' c..."
    assert normal("a\x07b\x1b[0m\u200bc\td") == "ab[0mc\td"


def test_cleaning_twice_changes_nothing_more():
    rng = random.Random(0)
    parts = ["a", " ", "\n", "\r", "\t", "e\u0301", "\u200b", "\u201c", "\xa0", "\x07", "\u2028"]
    for _ in range(500):
        once = normal("".join(rng.choice(parts) for _ in range(30)))
        assert normal(once) == once


def test_accents_are_composed_whatever_the_length_of_the_text():
    for before in range(1015, 1030):
        spelt = ["x" * before + word * 300 for word in ("cafe\u0301 ", "caf\xe9 ")]
        assert normal(spelt[0]) == spelt[1].strip()
    marks = "a" + "\u0301" * 50_000 + "\u0323" * 50_000  # sorted at once, these would take 15 s
    assert len(normal(marks)) >= 100_000


def test_exact_duplicates_are_dropped_and_different_stories_kept():
    counts = Counts()
    other = STORIES[0].replace("1", "2", 1)
    more = [STORIES[3] + "  \n", "\ufeff" + STORIES[4], other, STORIES[5].upper(), "Too short."]
    kept = list(clean_stories(STORIES + more, counts))
    assert kept == [*STORIES, other, STORIES[5].upper()]
    dropped = {name: n for name, n in counts.items() if name.startswith("dropped")}
    assert dropped == {"dropped: exact duplicate": 2, "dropped: too short": 1}
    assert counts["read"] == len(STORIES) + 5 and counts.kept == len(kept)


def test_a_shared_beginning_is_no_duplicate():
    start = "Once upon a time there was a little girl named Lily who lived in a small house. "
    stories = [start + make_story(seed, 40) for seed in range(300)]
    assert list(clean_stories(stories, Counts())) == stories


def test_a_digest_is_the_same_in_every_process():
    assert digest("the cat sat on the mat") == 1775360617804990912


def test_short_stories():
    ten = "abcdefgh " * 10
    assert len(list(clean_stories([ten.strip()], Counts()))) == 1
    assert not list(clean_stories(["abcdefgh " * 9], Counts()))  # 9 words, 80 characters
    assert not list(clean_stories(["a b c d e f g h i j k"], Counts()))  # 11 words, 21 characters


def test_counts_are_a_table():
    counts = Counts({"read": 1200, "dropped: too short": 200, "dropped: other": 0})
    counts.update({"changed: line ends": 5, "changed: blank lines": 0})
    assert [line.split() for line in str(counts).splitlines()] == [
        ["stories", "read", "1,200"],
        ["dropped:", "too", "short", "200"],
        ["stories", "kept", "1,000"],
        ["changed:", "line", "ends", "5"],
    ]
    assert len({len(line) for line in str(counts).splitlines()}) == 1
