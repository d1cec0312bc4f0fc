"""Word lists, inflection, and the class and lemma of any written form of a word.
A form that several classes share is decided by the word alone, never by its neighbours: numbers
come before adjectives, adjectives before nouns, nouns before verbs, except that the lemmas in
`verb_first` are verbs ("play", "smile"). The stories mark the few uses that differ."""

import re
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

from minislm.tasks import number_words

WORD_CLASSES = ("noun", "verb", "adjective", "number", "other")
CLITICS = frozenset("it's that's let's what's here's there's he's she's where's who's".split())
# The white space in front, then a word, a run of digits or one punctuation mark.
_TOKEN = re.compile(r"(\s*)([^\W\d_]+(?:['\u2019-][^\W\d_]+)*|\d+|\S)")


def read_words(text: str) -> SimpleNamespace:
    """The entries of words.txt as attributes: lists of strings, and tables (string to string)."""
    entries = SimpleNamespace()
    for name, lines in re.findall(r"^(\w+):((?:.*\n)(?: .*\n)*)", text, re.MULTILINE):
        value = " ".join(lines.split())
        items = value.split("; ") if ";" in value else value.split()
        is_table = " = " in value
        setattr(entries, name, dict(item.split(" = ") for item in items) if is_table else items)
    return entries


# `words.girls` is the list named `girls` in words.txt.
words = read_words(Path(__file__).with_name("words.txt").read_text(encoding="utf-8"))


@cache
def plural(noun: str, n: int = 2) -> str:
    """The form for n things of a noun or noun phrase; the last word takes the ending."""
    if n == 1:
        return noun
    head, _, last = noun.rpartition(" ")
    if last in words.irregular_plurals:
        last = words.irregular_plurals[last]
    elif last[-1] == "y" and last[-2] not in "aeiou":
        last = last[:-1] + "ies"
    else:
        last += "es" if last.endswith(("s", "x", "z", "ch", "sh")) else "s"
    return f"{head} {last}" if head else last


def a(phrase: str) -> str:
    """The phrase with its indefinite article: "an old apple", "a pear"."""
    vowel = re.match(r"[aeiou]|hour|honest|8|11\b|18\b", phrase, re.IGNORECASE)
    return f"{'an' if vowel and not re.match('uni|use|one', phrase) else 'a'} {phrase}"


@cache
def verb_form(verb: str, form: str) -> str:
    """The form "s" (plays), "past" (played), "participle" or "ing" (playing) of a verb."""
    if form in ("past", "participle") and verb in words.irregular_verbs:
        forms = words.irregular_verbs[verb].split()
        return forms[0] if form == "past" else forms[-1]
    stem = verb
    if form == "s":
        if verb in ("can", "could", "may", "must", "should", "will", "would"):
            return verb
        if verb in ("do", "go", "have"):
            return {"do": "does", "go": "goes", "have": "has"}[verb]
        return plural(verb) if verb not in words.irregular_plurals else verb + "s"
    if re.fullmatch(r"[^aeiou]*(?:qu)?[aeiou][^aeiouwxy]", verb) or verb in ("forget", "begin"):
        stem += verb[-1]
    if form == "ing":
        if verb in ("lie", "tie"):
            return verb[:-2] + "ying"
        return (verb[:-1] if re.search("[^e]e$", verb) and len(verb) > 2 else stem) + "ing"
    if verb[-1] == "y" and verb[-2] not in "aeiou":
        return verb[:-1] + "ied"
    return verb + "d" if verb[-1] == "e" else stem + "ed"


@cache
def lexicon() -> dict[str, dict[str, tuple[str, str]]]:
    """Every known form in lower case (names as written): its classes, the default one first.
    Each class maps to (lemma, form): form is "one" or "many" for nouns, "base", "s", "past",
    "past-s" (was), "participle" or "ing" for verbs, "" for the rest."""
    forms: dict[str, dict[str, tuple[str, str]]] = {}
    for word_class, surface, lemma, form in _entries():
        forms.setdefault(surface, {}).setdefault(word_class, (lemma, form))
    return forms


def _entries() -> Iterator[tuple[str, str, str, str]]:
    """All (class, surface, lemma, form), those that win an ambiguity first."""
    for name in _joined(words.name_lists):
        yield "noun", name, name, "one"
    for number in (*map(number_words, range(100)), "hundred"):
        yield "number", number, number, ""
    yield from _verb_entries(words.verb_first)
    for adjective in _joined(words.adjective_lists):
        yield "adjective", adjective, adjective, ""
    for adjective in words.compared:
        past = verb_form(adjective, "past")  # big -> bigged -> bigger: the same spelling rules
        yield "adjective", past[:-1] + "r", adjective, ""
        yield "adjective", past[:-1] + "st", adjective, ""
    for surface, lemma in words.comparatives.items():
        yield "adjective", surface, lemma, ""
    for noun in _joined(words.noun_lists):
        yield "noun", noun, noun, "one"
        yield "noun", plural(noun), noun, "many"
    yield from _verb_entries(words.verbs)


def _joined(names: list[str]) -> Iterator[str]:
    """The words of the named lists, in order."""
    return chain.from_iterable(getattr(words, name) for name in names)


def _verb_entries(verbs: Iterable[str]) -> Iterator[tuple[str, str, str, str]]:
    for verb in verbs:
        yield "verb", verb, verb, "base"
        if verb == "be":
            for surface, form in words.be_forms.items():
                yield "verb", surface, "be", form
            for surface, entry in words.contractions.items():
                yield "verb", surface, *entry.split()
            continue
        for form in ("past", "participle", "s", "ing"):
            yield "verb", verb_form(verb, form), verb, form


@lru_cache(maxsize=1 << 16)
def look_up(surface: str, word_class: str = "") -> tuple[str, str, str]:
    """(class, lemma, form) of one word as written; `word_class` decides an ambiguous one."""
    if surface.isdigit():
        return "number", surface, ""
    bare = surface[:-2] if surface.endswith("'s") and surface.lower() not in CLITICS else surface
    bare = bare[:-1] if bare.endswith("s'") else bare
    entry = lexicon().get(bare) or lexicon().get(bare.lower())
    if word_class == "other" or not entry:
        return "other", surface.lower(), ""
    word_class = word_class or next(iter(entry))
    return (word_class, *entry[word_class])


def tokens(text: str) -> Iterator[tuple[str, str]]:
    """(white space in front, word or punctuation mark) for the whole of any text, in order."""
    return ((match[1], match[2]) for match in _TOKEN.finditer(text))


def classify(text: str) -> list[tuple[str, str]]:
    """(part of the text, word class) for each word and punctuation mark; unknown words are "other".
    A part keeps the white space in front of it, so the parts joined are the text itself."""
    parts = [(space + word, look_up(word)[0]) for space, word in tokens(text)]
    rest = text[sum(len(part) for part, _ in parts) :]
    return [*parts, (rest, "other")] if rest else parts
