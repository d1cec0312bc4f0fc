"""Rule-based measures of a story's continuation, and the scores made of them, from 0 to 10.

Every measure is a rule that a reader can check by hand; README.md lists them. A continuation is
measured together with its prompt. Word lists are in rules.json."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from minislm.stories import lexicon as lex

DIMENSIONS = ("grammar", "creativity", "consistency", "instruction")
_RICH = 4.0  # new content words / sqrt(words) of the generator's own stories
_CLOSING = frozenset(".!?\"'”")  # characters that end a finished text
_SENTENCE = re.compile(r"\S(?:[^.!?\n]|[.!?](?![\"'”]?(?:\s|$)))*[.!?]*[\"'”]?")
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_NAME = re.compile(r"(?<![.!?\"'“”\n] )(?<![\n\"'“])(?<!^)\b[A-Z][a-z]+\b")
_ARTICLE = re.compile(r"\b([Aa]n?) ([a-z]+)")
_VOWEL = re.compile(r"(?!uni|use|eu|one|once|ur)[aeiou]|hour|honest")  # takes "an"
_MORAL = re.compile(r"\b((learned|never forgot|knew) that|from that day|the end\b|ever after)")
_LISTS = {
    name: frozenset(" ".join(lines).split())
    for name, lines in json.loads(Path(__file__).with_suffix(".json").read_text("utf-8")).items()
}


@dataclass(frozen=True)
class Measures:
    """The measures of one continuation, each a share from 0 to 1, except `richness`."""

    error_free: float  # sentences without an error
    richness: float  # new content words / sqrt(words)
    copied: float  # word pairs that stand in the nearest training story (ROUGE-2 precision)
    known_names: float  # names that are in the prompt or introduced
    cohesion: float  # sentences linked to the one before
    order: float  # 1 - 6 x the share of sentences that come too early
    prompt_recall: float  # content words of the prompt that are used again

    @property
    def grammar(self) -> float:
        return 10 * self.error_free

    @property
    def creativity(self) -> float:
        return 10 * min(1.0, self.richness / _RICH) * min(1.0, 2 - 2 * self.copied)

    @property
    def consistency(self) -> float:
        recall = min(1.0, 2 * self.prompt_recall)
        return 10 * (self.known_names + self.cohesion + recall + self.order) / 4


def measure(prompt: str, text: str, copied: float = 0.0) -> Measures:
    """All measures of a continuation; `copied` is that of `ngrams.NgramIndex.rouge_2`."""
    parts, found = sentences(text), errors(prompt, text)
    content, given = set(_content(text)), set(_content(prompt))
    present, known = names(text), {*names(prompt), *_introduced([prompt, text])}
    new = content - given - {name.lower() for name in present}  # another name adds nothing
    return Measures(
        error_free=sum(not kinds for kinds in found) / len(found) if found else 0.0,
        richness=len(new) / max(1, len(words(text))) ** 0.5,
        copied=copied,
        known_names=sum(name in known for name in present) / len(present) if present else 1.0,
        cohesion=_cohesion((sentences(prompt) or [""])[-1:] + parts),
        order=_order(prompt, parts),
        prompt_recall=len(given & content) / max(1, len(given)),
    )


def instruction(required: Iterable[str], features: Iterable[str], text: str) -> float:
    """The share, from 0 to 10, of a TinyStories-Instruct header that a text fulfils.
    Required words count in any form, dialogue where it is required, and a finished text. Other
    features are left out: no rule can decide them."""
    stems = {stem(word) for word in words(text)}
    fulfilled = [stem(word.lower()) in stems for word in required]
    if "Dialogue" in features:
        fulfilled.append(text.count('"') >= 2)
    fulfilled.append(text.rstrip()[-1:] in _CLOSING)
    return 10 * sum(fulfilled) / len(fulfilled)


def words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]


def sentences(text: str) -> list[str]:
    return [part for part in _SENTENCE.findall(text) if words(part)]


def split_beginning(text: str) -> tuple[str, str]:
    """A story's first three sentences, and the rest: a prompt and its continuation."""
    parts = sentences(text)
    start = text.index(parts[min(3, len(parts) - 1)])
    return text[:start], text[start:]


def names(text: str) -> list[str]:
    """Capitalised words that do not begin a sentence, and names that the lexicon knows."""
    found = re.finditer(r"\b[A-Z][a-z]+\b", text)
    found = (m[0] for m in found if m[0] in lex.lexicon() or _NAME.match(text, m.start()))
    return [name for name in found if name not in _LISTS["no name"]]


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """The lemma of a word where the lexicon knows it, else the word without its ending."""
    word_class, lemma, _ = lex.look_up(word)
    if word_class != "other" and lemma != word:
        return lemma.lower()
    return re.sub(r"(?<=...)(?:'s|ing|ies|ed|es|s|ly)$", "", word)


def _content(text: str) -> list[str]:
    return [stem(word) for word in words(text) if word not in _LISTS["stop"] and len(word) > 1]


def errors(prompt: str, text: str) -> list[set[str]]:
    """The kinds of error in each sentence of a continuation.
    The first sentence may complete the prompt's last one, so it may begin in lower case."""
    parts, found, before = sentences(text), [], []
    completes = bool(prompt.strip()) and prompt.rstrip()[-1:] not in '.!?"'
    for number, sentence in enumerate(parts):
        tokens = words(sentence)
        after_quote = number > 0 and parts[number - 1][-1] in "\"'”"  # "Stop!" cried Tom.
        lower = sentence.lstrip("\"'“” -*")[:1].islower()
        repeated = {a for a, b in zip(tokens, tokens[1:]) if a == b} - _LISTS["may repeat"]
        articles = _ARTICLE.findall(sentence)
        kinds = {
            "lower case": lower and not after_quote and (number > 0 or not completes),
            "repeated word": bool(repeated),
            "article": any((a[-1] == "n") != bool(_VOWEL.match(noun)) for a, noun in articles),
            "agreement": _wrong_agreement(sentence),
            "repetition": len(tokens) > 2 and len(_trigrams(tokens)) < len(tokens) - 2,
            "repeated sentence": number > 0 and _repeats(before, tokens),
            "unfinished": number == len(parts) - 1 and text.rstrip()[-1:] not in _CLOSING,
        }
        found.append({kind for kind, present in kinds.items() if present})
        before = tokens
    return found


def _repeats(before: Sequence[str], after: Sequence[str]) -> bool:
    """Whether half of the trigrams of `after` are in `before`."""
    return 2 * len(_trigrams(after) & _trigrams(before)) >= len(_trigrams(after))


def _trigrams(tokens: Sequence[str]) -> set[tuple[str, ...]]:
    return set(zip(tokens, tokens[1:], tokens[2:])) if len(tokens) > 2 else {tuple(tokens)}


def _wrong_agreement(sentence: str) -> bool:
    """Whether a verb directly behind its subject, or a noun behind a number, does not agree."""
    tokens = [word for _, word in lex.tokens(sentence)]
    return any(
        _wrong_noun(word.lower(), following, after)
        or _wrong_be(before.lower(), word, following, after.lower())
        or _wrong_verb(before.lower(), word, following)
        for before, word, following, after
        in zip(["", *tokens], tokens, tokens[1:], [*tokens[2:], "."])
    )  # fmt: skip


def _wrong_noun(number: str, noun: str, after: str) -> bool:
    """A noun in the wrong form behind a number: "three apple", "one birds"."""
    word_class, lemma, form = lex.look_up(noun)
    if lex.look_up(number)[:2] != ("number", number) or not noun.islower() or word_class != "noun":
        return False
    if after[0].isalpha() and lex.look_up(after)[0] == "noun":  # "two apple pies"
        return False
    return lex.plural(lemma) != lemma and form == ("many" if number in ("one", "1") else "one")


def _wrong_be(before: str, subject: str, verb: str, after: str) -> bool:
    """A form of "be" that does not agree with the noun or "there" before it: "the bear were"."""
    if verb not in ("is", "was", "are", "were") or before in ("and", "if", "of", "or", "with"):
        return False
    singular = verb in ("is", "was")
    if subject.lower() == "there":
        one = after in ("a", "an", "one", "1")
        return lex.look_up(after)[:2] == ("number", after) and not one if singular else one
    word_class, _, form = lex.look_up(subject)
    if word_class != "noun" or not (subject.islower() or subject in lex.lexicon()):
        return False
    if before in ("how", "what", "where", "who") or subject in ("people", "children"):
        return False
    invariable = lex.plural(subject.lower()) == subject.lower()
    return form == "many" if singular else form == "one" and not invariable


def _wrong_verb(before: str, subject: str, verb: str) -> bool:
    """A verb that does not agree with the pronoun or name before it: "they was", "Tom go"."""
    if before in _LISTS["base form follows"] or not verb.islower():
        return False  # "did he go", "let Tom go", "Lily and Ben go"
    pronoun = subject.lower()
    plural = pronoun in ("they", "we", "you")
    name = subject.istitle() and subject in lex.lexicon() and lex.look_up(subject)[0] == "noun"
    if pronoun == "i":
        return verb in ("is", "are", "were", "has", "does")
    if not plural and not name and pronoun not in ("he", "she", "it"):
        return False
    if verb in _LISTS["singular verb"] or verb in _LISTS["plural verb"]:
        return plural == (verb in _LISTS["singular verb"])
    word_class, lemma, form = lex.look_up(verb)
    if word_class != "verb" or lemma == "be":
        return False
    if plural:
        return form == "s"
    return form == "base" and lex.verb_form(lemma, "past") != verb  # "he put" may be past


def _introduced(parts: Sequence[str]) -> dict[str, int]:
    """Names behind a word that introduces them ("a girl named Sue"), and their first sentence."""
    found: dict[str, int] = {}
    for number, sentence in enumerate(parts):
        tokens = _WORD.findall(sentence)
        for before, name in zip(tokens, tokens[1:]):
            if before.lower() in _LISTS["introduces"] and name[0].isupper():
                found.setdefault(name, number)
    return found


def _order(prompt: str, parts: Sequence[str]) -> float:
    """1 - 6 x the share of sentences that come too early: with a name before it is introduced, "a"
    noun after "the" noun, or the story's moral before the last two sentences; at least 0."""
    parts = list(dict.fromkeys(parts))  # a repeated sentence counts once
    known, introduced = set(names(prompt)), _introduced(parts)
    early, definite = 0, set()  # definite: nouns with "the" so far
    for number, sentence in enumerate(parts):
        tokens = [word for _, word in lex.tokens(sentence)]
        nouns = [(article.lower(), stem(noun)) for article, noun in zip(tokens, tokens[1:])
                 if noun.islower() and lex.look_up(noun)[0] == "noun"]  # fmt: skip
        new = {noun for article, noun in nouns if article in ("a", "an")}
        name = any(introduced.get(name, 0) > number for name in set(names(sentence)) - known)
        moral = number < len(parts) - 2 and _MORAL.search(sentence)
        early += bool(name or new & definite or moral)
        # The next noun with "a" is another thing of its kind, so "the" may follow it again.
        definite = (definite | {noun for article, noun in nouns if article == "the"}) - new
    return max(0.0, 1 - 6 * early / len(parts)) if parts else 1.0


def _cohesion(parts: Sequence[str]) -> float:
    """The share of sentences that have a content word of the one before, or a pronoun for a person
    in it, and do not repeat it."""
    linked, pronouns = [], _LISTS["pronoun"]
    for before, after in zip(parts, parts[1:]):
        old, new = words(before), words(after)
        stems = [{stem(word) for word in set(each) - _LISTS["stop"]} for each in (old, new)]
        person = names(" " + before) or not pronouns.isdisjoint(old)
        pronoun = person and not pronouns.isdisjoint(new)
        linked.append(bool(stems[0] & stems[1] or pronoun) and not _repeats(old, new))
    return sum(linked) / len(linked) if linked else 0.0
