"""Cleaning: what becomes of a text, which stories are dropped, and what is counted."""

import random

import pytest
from corpus.texts import STORIES, make_story

from minislm.corpus.clean import Counts, clean_stories, digest, normalise


def normal(text: str) -> str:
    return normalise(text, Counts())


def misread(text: str) -> str:
    """UTF-8 decoded as cp1252; tools pass the five bytes that it does not define as they are."""
    bytes_of_text = (bytes([b]) for b in text.encode())
    undefined = b"\x81\x8d\x8f\x90\x9d"
    return "".join(b.decode("latin-1" if b in undefined else "cp1252") for b in bytes_of_text)


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_mojibake_is_repaired_to_what_was_written(encoding):
    written = "\u201cIt\u2019s a caf\u00e9,\u201d he said \u2013 na\u00efve\u2014\u2026 \U0001f60a!"
    corrupted = misread(written) if encoding == "cp1252" else written.encode().decode("latin-1")
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


@pytest.mark.parametrize(
    "text",
    [
        "L’été, le garçon rêvait près du café; là, un cœur battait. À demain!",
        "Die Straße führt über die Brücke, „zum schönen Schloß“. Ändert das was?",
        "¿Dónde está el niño? Soñó con un pingüino, ¡y mañana irá a ESPAÑA!",
        "A irmã não comeu a maçã; “AMANHÃ…” disse a avó. «É a MAÇÃ»!",
        "Zażółć gęślą jaźń: mała żaba śpi, a Łódź płynie.",
        "Çocuk güneşi gördü ve ağacın altında “HÂLÂ” şarkı söyledi.",
        "Båten låg vid bryggan på ön, och Åsa såg en räv – “SÅ”… 5 °C",
    ],
)
def test_mojibake_of_several_languages_is_repaired(text):
    counts = Counts()
    assert normalise(misread(text), counts) == normal(text) != misread(text)
    assert counts["changed: mojibake repaired"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "AMANHÃ… disse ele, e todos ficaram calados.",  # nothing else beyond ASCII
        "ELE GRITOU “NÃO VOU, IRMÃ” e correu; «MAÇÃ» leu a menina.",
        "Duvarda “HÂLÂ” ve «HÂLÂ» yazıyordu.",
        "Pe ușă scria «COBORÂ», iar copilul a citit: COBORÂ»",
        "Il a vu la RÂ\xa0: « CHÂTEAU DE CÂ\xa0» et rien d’autre.",
        "Bà nói: «CÂ» rồi cười, và viết VÂ® nữa.",
        "Auf dem Schild stand „NÄ“, darunter „JÄ…“ und „MENÜ“.",
        "Skylten visade «SLÅ», ”BLÅ” och »PÅ«; ca 2Å–3Å, 5Å±1.",
        "Der Satz A Ã² B.",
    ],
)
def test_capitals_before_punctuation_are_no_mojibake(text):
    counts = Counts()
    letters = "".join(filter(str.isalpha, text))
    assert "".join(filter(str.isalpha, normalise(text, counts))) == letters
    assert not counts["changed: mojibake repaired"]


def test_pairs_need_the_evidence_of_the_whole_text():
    portuguese = "A irmã não lê «MAÇÃ» em voz alta, a avó lê: itâ€™s"
    assert normal(portuguese) == portuguese.replace("â€™", "'")  # this is in no correct text
    assert normal("Ã\xa0 la maison, lÃ\xa0, cafÃ©") == "à la maison, là, café"


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
    assert len(list(clean_stories(["abcdefgh " * 6], Counts()))) == 1
    assert not list(clean_stories(["abcdefgh " * 5], Counts()))  # 44 characters
    assert not list(clean_stories(["a b c d e f g h i j k"], Counts()))


@pytest.mark.parametrize(
    "story",
    [
        "小猫在花园里找到了一只红色的球，它很高兴地跑回家。",
        "むかしむかし、あるところに、おじいさんとおばあさんがいました。",
        "กาลครั้งหนึ่งนานมาแล้วมีแมวตัวหนึ่งอาศัยอยู่ในป่า",
        "កាលពីព្រេងនាយមានឆ្មាមួយក្បាលរស់នៅក្នុងព្រៃ",
        "ໃນອະດີດມີແມວໂຕໜຶ່ງອາໄສຢູ່ໃນປ່າກັບແມ່ຂອງມັນ",
    ],
)
def test_stories_without_spaces_are_kept(story):
    counts = Counts()
    assert list(clean_stories([story, story[:4]], counts)) == [story]
    assert counts["dropped: too short"] == 1


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
