"""Word lists, inflection, and the class of any written word."""

import subprocess
import sys
from pathlib import Path

import pytest

from minislm.stories import lexicon
from minislm.stories.lexicon import a, classify, look_up, plural, read_words, verb_form, words


def test_every_line_of_the_word_file_is_read():
    text = Path(lexicon.__file__).with_name("words.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    names = [line.split(":")[0] for line in lines if not line.startswith(" ")]
    assert sorted(vars(words)) == sorted(names) and len(set(names)) == len(names)
    items = [item for entry in vars(words).values() for item in entry]
    tables = [entry for entry in vars(words).values() if isinstance(entry, dict)]
    values = [value for table in tables for value in table.values()]
    written = " ".join(line.split(":", 1)[-1] if line[0] != " " else line for line in lines)
    as_written = sorted(word.strip(";") for word in written.split() if word != "=")
    assert sorted(" ".join([*items, *values]).split()) == as_written
    assert all(not set("=;:").intersection(item) for item in items)


def test_lists_phrases_and_tables_are_read():
    entries = read_words(
        "# a comment: no entry\none: a b\n    c\n\ntwo: a b; c\nt: k = v w; x = y\n"
    )
    assert vars(entries) == {
        "one": ["a", "b", "c"],
        "two": ["a b", "c"],
        "t": {"k": "v w", "x": "y"},
    }


def test_lists_by_class_name_every_list_of_words():
    listed = [*words.name_lists, *words.noun_lists, *words.adjective_lists]
    assert len(set(listed)) == len(listed) and set(listed) <= set(vars(words))


def test_tables_have_the_fields_that_the_plots_need():
    fields = {"sights": 2, "weather": 5, "warnings": 5, "troubles": 4, "problems": 5}
    for name, count in fields.items():
        entry = getattr(words, name)
        for item in entry.values() if isinstance(entry, dict) else entry:
            assert len(item.split(" / ")) == count, item


def test_the_generator_does_not_import_torch():
    code = "import sys, minislm.stories.generate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_articles():
    assert a("hour") == "an hour" and a("unicorn") == "a unicorn" and a("old cat") == "an old cat"


@pytest.mark.parametrize("noun, expected", [
    ("dog", "dogs"), ("red box", "red boxes"), ("berry", "berries"), ("toy", "toys"),
    ("goose", "geese"), ("gray mouse", "gray mice"), ("sheep", "sheep"),
])  # fmt: skip
def test_plurals(noun, expected):
    assert (
        plural(noun) == plural(noun, 3) == plural(noun, 0) == expected and plural(noun, 1) == noun
    )


@pytest.mark.parametrize("verb, forms", [
    ("play", "plays played played playing"), ("go", "goes went gone going"),
    ("stop", "stops stopped stopped stopping"), ("cry", "cries cried cried crying"),
    ("lie", "lies lay lain lying"), ("bake", "bakes baked baked baking"),
    ("begin", "begins began begun beginning"), ("cut", "cuts cut cut cutting"),
])  # fmt: skip
def test_verb_forms(verb, forms):
    assert [verb_form(verb, form) for form in ("s", "past", "participle", "ing")] == forms.split()


@pytest.mark.parametrize("surface, expected", [
    ("geese", ("noun", "goose", "many")), ("Mia's", ("noun", "Mia", "one")),
    ("didn't", ("verb", "do", "past")), ("was", ("verb", "be", "past-s")),
    ("bigger", ("adjective", "big", "")), ("best", ("adjective", "good", "")),
    ("Forty-one", ("number", "forty-one", "")), ("41", ("number", "41", "")),
    ("it's", ("other", "it's", "")), ("zorp", ("other", "zorp", "")),
])  # fmt: skip
def test_class_lemma_and_form(surface, expected):
    assert look_up(surface) == expected


def test_a_given_class_decides_an_ambiguous_word():
    assert look_up("smile")[0] == "verb" and look_up("smile", "noun") == ("noun", "smile", "one")


def test_classify_any_text():
    text = '\n  Two dogs\u2019 "happy"  friends ran 12 miles;\tMia didn\'t zorp. '
    parts = classify(text)
    assert "".join(part for part, _ in parts) == text
    classes = {part.strip(): word_class for part, word_class in parts}
    assert classes["Two"] == classes["12"] == "number"
    assert classes["ran"] == classes["didn't"] == "verb"
    assert classes["friends"] == classes["Mia"] == "noun"
    assert classes["happy"] == "adjective" and classes["zorp"] == classes[";"] == "other"
    assert classify("") == []
