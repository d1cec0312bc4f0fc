"""What can be counted in a continuation of a story, and the four scores made of it, from 0 to 10.

Every measure is a rule that a reader can follow by hand; `grading.py` asks models, and holds the
scores against what people said. A continuation is looked at behind its prompt.

    grammar       10 x share of sentences in which no rule finds a mistake: a verb or a counted noun
                  that does not agree, "a" before a vowel or "an" before none, a word twice, a
                  sentence that begins small, that is not ended, or that says what it or the one
                  before just said
    creativity    10 x new content words (not the prompt's) over the root of all words, against 4;
                  less where more than half of the word pairs were read in one training story, down
                  to 0 where all were
    consistency   10 x the mean of four shares: names that are known (from the prompt, or introduced
                  by then); sentences that go on from the one before (a word, or a pronoun for
                  somebody); content words of the prompt that are taken up (half of them are full
                  marks); and order, 1 less six times the share of sentences that come too early (a
                  name before it is introduced, "a" thing after "the" thing, the end before the end)
    instruction   10 x the share of a TinyStories-Instruct header that is kept: words used (in any
                  form), dialogue where asked for, the story ended
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from minislm.stories import lexicon as lex

DIMENSIONS = ("grammar", "creativity", "consistency", "instruction")
_RICH = 4.0  # new content words over the root of all words: what the generator's own stories have
_SENTENCE = re.compile(r"\S(?:[^.!?\n]|[.!?](?![\"'”]?(?:\s|$)))*[.!?]*[\"'”]?")
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_NAME = re.compile(r"(?<![.!?\"'“”\n] )(?<![\n\"'“])(?<!^)\b[A-Z][a-z]+\b")
# Words that carry no content; "very very", "had had" and "that that" may stand twice.
_SMALL = frozenset(
    """a about after again all also am an and any are as at away back be because been before but by
    can could day did do does down every for from get go got had has have he her him his how i if in
    into is it its just like little made make me more my no not now of off on one or our out
    over put said saw say see she so some soon that the their them then there they this time to
    too up us very want was we went were what when where which who why will with would
    you your""".split()
)
_TWICE = frozenset("had that very so no ha bye yes many really big night".split())
_PRONOUNS = frozenset("he she it they him her them his its their this that".split())
_INTRODUCES = frozenset("named called met friend brother sister cousin".split())


@dataclass(frozen=True)
class Measures:
    """The raw measures of one continuation, each a share from 0 to 1, but for `richness`."""

    sound: float  # sentences without a mistake
    richness: float  # new content words over the root of all words
    copied: float  # word pairs read in the nearest training story
    known: float  # names that are known
    cohesion: float  # sentences that go on from the one before
    taken_up: float  # content words of the prompt that come again
    ordered: float  # 1 less six times the share of sentences that come too early

    @property
    def grammar(self) -> float:
        return 10 * self.sound

    @property
    def creativity(self) -> float:
        return 10 * min(1.0, self.richness / _RICH) * min(1.0, 2 - 2 * self.copied)

    @property
    def consistency(self) -> float:
        taken_up = min(1.0, 2 * self.taken_up)
        return 10 * (self.known + self.cohesion + taken_up + self.ordered) / 4


def measure(prompt: str, text: str, copied: float = 0.0) -> Measures:
    """All measures of a text behind its prompt."""
    before, after = sentences(prompt), sentences(text)
    flaws = [bool(each) for each in mistakes(prompt, text)]
    content, asked = _content(text), set(_content(prompt))
    people = {name.lower() for name in names(text)}  # other names are no other words
    new = set(content) - asked - people
    return Measures(
        sound=1 - sum(flaws) / len(flaws) if flaws else 0.0,
        richness=len(new) / max(1, len(words(text))) ** 0.5,
        copied=copied,
        known=_known_names(prompt, text),
        cohesion=_cohesion((before or [""])[-1:] + after),
        taken_up=len(asked & set(content)) / max(1, len(asked)),
        ordered=_ordered(prompt, after),
    )


def words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def sentences(text: str) -> list[str]:
    return [part for part in _SENTENCE.findall(text) if words(part)]


def mistakes(prompt: str, text: str) -> list[set[str]]:
    """What the rules find in each sentence of a text that goes on from a prompt.

    The first sentence may be the prompt's own going on, so it may begin small; the last one must
    be ended.
    """
    said, found = sentences(text), []
    last = words((sentences(prompt) or [""])[-1])
    fresh = not prompt.strip() or prompt.rstrip()[-1:] in '.!?"'
    for number, sentence in enumerate(said):
        spoken, flaws = words(sentence), set()
        first = sentence.lstrip("\"'“” -*")[:1]
        spoke = number and said[number - 1][-1] in "\"'”"  # "Stop!" said Tom.
        if first.islower() and (number or fresh) and not spoke:
            flaws.add("begins small")
        if any(a == b and a not in _TWICE for a, b in zip(spoken, spoken[1:])):
            flaws.add("a word twice")
        if _wrong_article(sentence):
            flaws.add("article")
        if _disagrees(sentence):
            flaws.add("agreement")
        runs = _runs(spoken)
        if len(spoken) > 2 and len(runs) < len(spoken) - 2:
            flaws.add("says it twice")
        if number and _again(last, spoken):
            flaws.add("says it again")
        last = spoken
        found.append(flaws)
    if said and text.rstrip()[-1:] not in set(".!?\"'”"):
        found[-1].add("not ended")
    return found


def _again(before: Sequence[str], after: Sequence[str]) -> bool:
    """Whether half of a sentence's runs of three words are those of another."""
    return 2 * len(_runs(after) & _runs(before)) >= len(_runs(after))


def _runs(spoken: Sequence[str]) -> set[tuple[str, ...]]:
    return set(zip(spoken, spoken[1:], spoken[2:])) if len(spoken) > 2 else {tuple(spoken)}


def _wrong_article(sentence: str) -> bool:
    for article, word in re.findall(r"\b([Aa]n?) ([a-z]+)", sentence):
        sounds = word[0] in "aeiou" and not re.match(r"uni|use|eu|one|once|ur", word)
        sounds = sounds or word.startswith(("hour", "honest"))
        if (article.lower() == "an") != sounds:
            return True
    return False


def _disagrees(sentence: str) -> bool:
    """A subject right before a verb of the wrong number, or a number right before a noun's."""
    tokens = [word for _, word in lex.tokens(sentence)]
    return any(
        _wrong_number(tokens, k) or _wrong_be(tokens, k) or _wrong_verb(tokens, k)
        for k in range(len(tokens) - 1)
    )


def _wrong_number(tokens: Sequence[str], k: int) -> bool:
    """Token k counts, and the noun behind it has the wrong form: "three apple", "one birds"."""
    number, noun = tokens[k].lower(), tokens[k + 1]
    word_class, lemma, form = lex.look_up(noun)
    if not _counts(number) or not noun.islower() or word_class != "noun":
        return False
    following = tokens[k + 2] if k + 2 < len(tokens) else "."
    if following[0].isalpha() and lex.look_up(following)[0] == "noun":  # "two apple pies"
        return False
    return lex.plural(lemma) != lemma and form == ("many" if number in ("one", "1") else "one")


def _wrong_be(tokens: Sequence[str], k: int) -> bool:
    """A form of "be" that neither the noun nor the pronoun before it takes: "the bear were"."""
    before = tokens[k - 1].lower() if k else ""
    subject, verb = tokens[k], tokens[k + 1]
    if verb not in ("is", "was", "are", "were") or before in ("and", "if", "of", "or", "with"):
        return False
    one = verb in ("is", "was")
    if subject.lower() == "there":
        number = tokens[k + 2].lower() if k + 2 < len(tokens) else ""
        return number in ("a", "an", "one", "1") if not one else _counts(number) and number not in (
            "one", "1")  # fmt: skip
    word_class, _, form = lex.look_up(subject)
    if word_class != "noun" or not (subject.islower() or subject in lex.lexicon()):
        return False
    if before in ("how", "what", "where", "who") or subject in ("people", "children"):
        return False
    return (
        form == "many" if one else form == "one" and lex.plural(subject.lower()) != subject.lower()
    )


def _wrong_verb(tokens: Sequence[str], k: int) -> bool:
    """A pronoun or name, and right behind it a verb of another number: "they was", "Tom go"."""
    subject, verb, low = tokens[k], tokens[k + 1], tokens[k].lower()
    before = tokens[k - 1].lower() if k else ""
    if before in _HELPERS or before in ("and", "or", "with") or not verb.islower():
        return False  # "did he go", "let Tom go", "Lily and Ben go"
    if low == "i":
        return verb in ("is", "are", "were", "has", "does")
    many = low in _MANY
    if not many and low not in ("he", "she", "it"):
        if not (
            subject.istitle() and subject in lex.lexicon() and lex.look_up(subject)[0] == "noun"
        ):
            return False
    if verb in ("was", "wasn't", "is", "isn't", "has", "does", "doesn't"):
        return many
    if verb in ("were", "weren't", "are", "aren't", "am", "have", "don't"):
        return not many
    word_class, lemma, form = lex.look_up(verb)
    if word_class != "verb" or lemma == "be":
        return False
    return form == "s" if many else _bare(verb, lemma, form)


_HELPERS = frozenset(
    """can could did didn't do does don't doesn't help helped let lets made make must saw see should
    to watch watched will would may heard hear have had has is was are were if than hope wish not
    never""".split()
)
_MANY = frozenset("they we you".split())


def _bare(verb: str, lemma: str, form: str) -> bool:
    """A base form that is no past tense as well ("put", "let")."""
    return form == "base" and lex.verb_form(lemma, "past") != verb


def _counts(word: str) -> bool:
    return word.isdigit() or (word in lex.lexicon() and "number" in lex.lexicon()[word])


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """What the forms of a word share: its lemma where the lexicon knows it, else cut endings."""
    word_class, lemma, _ = lex.look_up(word)
    if word_class != "other" and lemma != word:
        return lemma.lower()
    for ending in ("'s", "ing", "ies", "ed", "es", "s", "ly"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def _content(text: str) -> list[str]:
    return [stem(word) for word in words(text) if word not in _SMALL and len(word) > 1]


def names(text: str) -> list[str]:
    """Words with a capital that do not begin a sentence, and names that the lexicon knows."""
    found = {match.start(): match[0] for match in _NAME.finditer(text)}
    for match in re.finditer(r"\b[A-Z][a-z]+\b", text):
        if match[0] in lex.lexicon():
            found[match.start()] = match[0]
    return [found[k] for k in sorted(found) if found[k] not in _NO_NAMES]


_NO_NAMES = frozenset("I The He She They It We You Mr Mrs Once One Yes No Oh Mommy Daddy".split())


def _introduced(told: Sequence[str]) -> dict[str, int]:
    """Names behind a word that introduces them ("a girl named Sue"), and in which sentence."""
    found: dict[str, int] = {}
    for number, sentence in enumerate(told):
        spoken = _WORD.findall(sentence)
        for before, name in zip(spoken, spoken[1:]):
            if before.lower() in _INTRODUCES and name[0].isupper():
                found.setdefault(name, number)
    return found


def _known_names(prompt: str, text: str) -> float:
    """The share of names that the prompt has or that are introduced; 1 for a text without names."""
    known = set(names(prompt)) | set(_introduced([prompt, text]))
    given = names(text)
    return sum(name in known for name in given) / len(given) if given else 1.0


def _ordered(prompt: str, told: Sequence[str]) -> float:
    """1 less six times the share of sentences that come too early; a repeated one counts once."""
    told = list(dict.fromkeys(told))
    known, introduced, things, early = set(names(prompt)), _introduced(told), set(), 0
    for number, sentence in enumerate(told):
        spoken = [word for _, word in lex.tokens(sentence)]
        early_name = any(introduced.get(n, 0) > number for n in set(names(sentence)) - known)
        the = {stem(b) for a, b in zip(spoken, spoken[1:]) if a.lower() == "the" and _thing(b)}
        new = {
            stem(b) for a, b in zip(spoken, spoken[1:]) if a.lower() in ("a", "an") and _thing(b)
        }
        ends = bool(_END.search(sentence)) and number < len(told) - 2
        early += early_name or bool(new & things) or ends
        things = (things | the) - new  # the next "a" thing of the kind is another one
    return max(0.0, 1 - 6 * early / len(told)) if told else 1.0


_END = re.compile(
    r"\b(learned that|never forgot that|knew that|from that day|the end\b|ever after)"
)


def _thing(word: str) -> bool:
    return word.islower() and lex.look_up(word)[0] == "noun"


def _cohesion(told: Sequence[str]) -> float:
    """The share of sentences that have a content word of the one before, or a pronoun for somebody
    in it, and do not just say it again."""
    linked = []
    for before, after in zip(told, told[1:]):
        here, there = set(words(after)), set(words(before))
        shares = {stem(w) for w in here - _SMALL} & {stem(w) for w in there - _SMALL}
        people = bool(here & _PRONOUNS) and (bool(names(" " + before)) or bool(there & _PRONOUNS))
        linked.append((bool(shares) or people) and not _again(words(before), words(after)))
    return sum(linked) / len(linked) if linked else 0.0


def instruction(required: Iterable[str], features: Iterable[str], text: str) -> float:
    """From 0 to 10: the share of what a TinyStories-Instruct header asked that the text keeps.

    Each word counts once, in any form; "Dialogue" counts if somebody speaks; the ending counts if
    the text has one. Features that no rule can decide are left out.
    """
    stems = {stem(word) for word in words(text)}
    kept = [stem(word.lower()) in stems for word in required]
    if "Dialogue" in features:
        kept.append(text.count('"') >= 2)
    kept.append(text.rstrip()[-1:] in set(".!?\"'”"))
    return 10 * sum(kept) / len(kept)
