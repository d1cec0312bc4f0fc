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

DIMENSIONS = ("repetition", "grammar", "creativity", "context", "plot", "instruction")
# Ridge regression on human scores: python eval.py --score --human FILE --grader MODEL
WEIGHTS = {  # intercept, and the weights of measures
    "context": (-2.05, {"distinct_triples": 3.92, "prompt_recall": 6.11, "known_names": 1.63,
                        "cohesion": 0.3}),
    "plot": (-3.88, {"distinct_triples": 2.9, "prompt_recall": 4.41, "known_names": 1.24,
                     "cohesion": 1.71, "richness": 0.96}),
}  # fmt: skip
_RICH = 4.0  # new content words / sqrt(words) of the generator's own stories
_CLOSING = frozenset(".!?\"'”")  # characters that end a finished text
_SENTENCE = re.compile(r"\S(?:[^.!?\n]|[.!?](?![\"'”]?(?:\s|$)))*[.!?]*[\"'”]?")
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_NAME = re.compile(r"(?<![.!?\"'“”\n] )(?<![\n\"'“])(?<!^)\b[A-Z][a-z]+\b")
_ARTICLE = re.compile(r"\b([Aa]n?) ([a-z]+)")
_VOWEL = re.compile(r"(?!uni|use|eu|one|once|ur)[aeiou]|hour|honest")  # takes "an"
_TEXT = Path(__file__).with_suffix(".json").read_text("utf-8")
_LISTS = {name: frozenset(" ".join(v).split()) for name, v in json.loads(_TEXT).items()}


@dataclass(frozen=True)
class Measures:
    """The measures of one continuation, shares from 0 to 1 except `richness`, and its scores."""

    distinct_triples: float  # different triples of words over all triples
    error_free: float  # sentences without an error
    richness: float  # new content words / sqrt(words)
    copied: float  # word pairs that stand in the nearest training story (ROUGE-2 precision)
    known_names: float  # names that are in the prompt or introduced
    cohesion: float  # sentences linked to the one before
    prompt_recall: float  # content words of the prompt that are used again
    repetition: float  # the scores, from 0 to 10
    grammar: float
    creativity: float
    context: float
    plot: float


def measure(prompt: str, text: str, copied: float = 0.0) -> Measures:
    """All measures of a continuation; `copied` is that of `ngrams.NgramIndex.rouge_2`."""
    parts, tokens, found = sentences(text), words(text), errors(prompt, text)
    content, given = set(_content(text)), set(_content(prompt))
    both = [*_WORD.findall(prompt), "", *_WORD.findall(text)]
    introduced = (name for word, name in zip(both, both[1:])  # "a girl named Sue"
                  if word.lower() in _LISTS["introduces"] and name[:1].isupper())  # fmt: skip
    present, known = names(text), {*names(prompt), *introduced}
    new = content - given - {name.lower() for name in present}  # another name adds nothing
    shares = dict(
        distinct_triples=len(_trigrams(tokens)) / max(1, len(tokens) - 2),
        error_free=sum(not kinds for kinds in found) / len(found) if found else 0.0,
        richness=len(new) / max(1, len(tokens)) ** 0.5, copied=copied,
        known_names=sum(name in known for name in present) / len(present) if present else 1.0,
        cohesion=_cohesion((sentences(prompt) or [""])[-1:] + parts),
        prompt_recall=len(given & content) / max(1, len(given)),
    )  # fmt: skip
    return Measures(
        **shares, **{d: weighted(shares, *each) for d, each in WEIGHTS.items()},
        repetition=10 * shares["distinct_triples"], grammar=10 * shares["error_free"],
        creativity=10 * min(1.0, shares["richness"] / _RICH) * min(1.0, 2 - 2 * copied),
    )  # fmt: skip


def weighted(shares: dict[str, float], intercept: float, weights: dict[str, float]) -> float:
    """A score from 0 to 10: the weighted sum of some measures and an intercept."""
    total = sum(weight * shares[name] for name, weight in weights.items())
    return min(10.0, max(0.0, intercept + total))


def instruction(required: Iterable[str], features: Iterable[str], text: str) -> float:
    """The share, from 0 to 10, of a TinyStories-Instruct header that a text fulfils: required words
    in any form, dialogue and a finished text. No rule can decide the other features."""
    stems = {stem(word) for word in words(text)}
    fulfilled = [text.rstrip()[-1:] in _CLOSING, *(stem(w.lower()) in stems for w in required)]
    if "Dialogue" in features:
        fulfilled.append(text.count('"') >= 2)
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
    """The kinds of error in each sentence; the first one may complete the prompt's last one."""
    parts, found, repeatable = sentences(text), [], _LISTS["may repeat"]
    completes = bool(prompt.strip()) and prompt.rstrip()[-1:] not in '.!?"'
    for number, sentence in enumerate(parts):
        tokens = words(sentence)
        after_quote = number > 0 and parts[number - 1][-1] in "\"'”"  # "Stop!" cried Tom.
        lower = sentence.lstrip("\"'“” -*")[:1].islower()
        articles = _ARTICLE.findall(sentence)
        kinds = {
            "lower case": lower and not after_quote and (number > 0 or not completes),
            "repeated word": any(a == b not in repeatable for a, b in zip(tokens, tokens[1:])),
            "article": any((a[-1] == "n") != bool(_VOWEL.match(noun)) for a, noun in articles),
            "agreement": _wrong_agreement(sentence),
            "unfinished": number == len(parts) - 1 and text.rstrip()[-1:] not in _CLOSING,
        }
        found.append({kind for kind, present in kinds.items() if present})
    return found


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


def _cohesion(parts: Sequence[str]) -> float:
    """The share of sentences that have a content word of the one before, or a pronoun for a person
    in it, and do not repeat half of it or more."""
    linked, pronouns = [], _LISTS["pronoun"]
    for before, after in zip(parts, parts[1:]):
        old, new = words(before), words(after)
        stems = [{stem(word) for word in set(each) - _LISTS["stop"]} for each in (old, new)]
        person = names(" " + before) or not pronouns.isdisjoint(old)
        pronoun = person and not pronouns.isdisjoint(new)
        repeated = 2 * len(_trigrams(old) & _trigrams(new)) >= len(_trigrams(new))
        linked.append(bool(stems[0] & stems[1] or pronoun) and not repeated)
    return sum(linked) / len(linked) if linked else 0.0
