"""Synthetic short stories: seeded, endless, and with the class and lemma of every word."""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from minislm.runtime.errors import UserError
from minislm.stories import lexicon as lex
from minislm.stories.lexicon import plural
from minislm.stories.narrator import StoryState
from minislm.stories.number_plots import NUMBER_PLOTS
from minislm.stories.plots import PLOTS

# Verbs too common for a required word.
_COMMON_VERBS = frozenset("be can could do get go have let must say should will would".split())
# Words after which "have" does not show number (did you have, to have).
_BEFORE_INFINITIVE = frozenset("can could did didn't do don't must should to will would".split())
_WRONG_NUMBER = {"was": "were", "were": "was", "is": "are", "are": "is", "am": "is", "does": "do",
                 "has": "have", "have": "has", "doesn't": "don't", "don't": "doesn't"}  # fmt: skip
# Plots mark a word that is not of its most common class: "a long walk/n", "One/o day".
_MARKED = re.compile(r"(\s*)([^\W\d_]+(?:['-][^\W\d_]+)*|\d+|\S)(?:/([nvao])\b)?")
_MARKS = {"n": "noun", "v": "verb", "a": "adjective", "o": "other", "": ""}


@dataclass(frozen=True)
class Word:
    """One word or punctuation mark as it is in the text, with the white space before it."""

    text: str  # the form as written: "dogs", "Forty-one", "3", ","
    lemma: str  # "dog", "forty-one", "3"
    word_class: str  # one of lexicon.WORD_CLASSES; names are nouns, punctuation is "other"
    before: str  # "", " " or "\n"


@dataclass(frozen=True)
class Story:
    """A story as words, with the metadata of TinyStories-Instruct."""

    words: tuple[Word, ...]
    required: tuple[str, ...]  # lemmas of one verb, one noun and one adjective in the story
    features: tuple[str, ...]  # those of TinyStories' own features that hold
    summary: str  # one sentence
    header: tuple[str, ...]  # the lines of the instruct header, in order

    @property
    def text(self) -> str:
        return "".join(word.before + word.text for word in self.words)

    @property
    def instruct(self) -> str:
        """The story under a TinyStories-Instruct header: some of Features, Words and Summary."""
        lines = {"Features": ", ".join(self.features), "Words": ", ".join(self.required),
                 "Summary": self.summary}  # fmt: skip
        header = "".join(f"{name}: {lines[name]}\n" for name in self.header)
        return f"{header}Story:\n\n{self.text}"


def generate(
    count: int, seed: int = 0, *, start: int = 0, agreement_errors: float = 0.0,
    duplicates: float = 0.0, numbers: float = 0.0,
) -> Iterator[Story]:  # fmt: skip
    """Yield `count` stories, numbers `start`, `start` + 1, ... of the stream that `seed` names.
    A story depends on the seed and its own number only. Shares of stories, from 0 to 1:
    `agreement_errors`, in which one to three words break agreement ("they was", "three apple");
    `duplicates`, equally many of each; `numbers`, of `number_plots.py`.
    UserError: a negative count or start, or a share outside [0, 1]."""
    if min(count, start) < 0:
        raise UserError(f"count and start of stories are {count} and {start}; give 0 or more")
    shares = dict(agreement_errors=agreement_errors, duplicates=duplicates, numbers=numbers)
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise UserError(f"share of stories with {name} is {share}; give a number from 0 to 1")
    return (_story(seed, number, shares) for number in range(start, start + count))


def _story(seed: int, number: int, shares: dict[str, float]) -> Story:
    # The options have their own stream, so a change of one leaves all other stories as they are.
    if shares["duplicates"]:  # of 0.9: each story ten times, one after the other
        number = int(number * (1 - shares["duplicates"]) + 1e-9)
    options = random.Random(f"{seed}:{number}:knobs")  # another name would change the stories,
    _ = options.random(), options.random()  # and so would its first numbers, of former options
    rng = random.Random(f"{seed}:{number}")
    state = StoryState(rng)
    share = shares["numbers"]
    about_numbers = share and random.Random(f"{seed}:{number}:plots").random() < share
    plot = rng.choice(NUMBER_PLOTS if about_numbers else PLOTS)
    summary = _MARKED.sub(r"\1\2", plot(state))
    marked = "".join(gap + sentence for gap, sentence in zip(state.gaps, state.sentences))
    words = tuple(_word(*groups) for groups in _MARKED.findall(marked))
    required = _required(rng, words)
    if options.random() < shares["agreement_errors"]:
        words = _break_agreement(options, words)
    quoted = any(word.text == '"' for word in words)
    features = tuple(sorted(state.features | ({"Dialogue"} if quoted else set())))
    parts = ["Features", "Words", "Summary"] if features else ["Words", "Summary"]
    header = tuple(rng.sample(parts, rng.randint(1, len(parts))))
    return Story(words, required, features, summary, header)


# -- from sentences to words


@lru_cache(maxsize=1 << 16)
def _word(before: str, surface: str, mark: str) -> Word:
    """The one shared `Word` of this form."""
    word_class, lemma, _ = lex.look_up(surface, _MARKS[mark])
    return Word(surface, lemma, word_class, before)


def _required(rng: random.Random, words: Sequence[Word]) -> tuple[str, ...]:
    """One verb, one noun (no name) and one adjective of the story, as lemmas."""
    found: dict[str, list[str]] = {"verb": [], "noun": [], "adjective": []}
    for word in words:
        if word.word_class in found and word.lemma not in _COMMON_VERBS and word.lemma.islower():
            found[word.word_class].append(word.lemma)
    return tuple(rng.choice(lemmas) for lemmas in found.values())


def _break_agreement(rng: random.Random, words: tuple[Word, ...]) -> tuple[Word, ...]:
    """Flip the number of one to three verbs or counted nouns; lemmas and classes stay."""
    flips = {i: flipped for i in range(1, len(words)) if (flipped := _flipped(words, i))}
    broken = list(words)
    for i in rng.sample(sorted(flips), min(len(flips), rng.randint(1, 3))):
        broken[i] = replace(words[i], text=flips[i])
    return tuple(broken)


def _flipped(words: tuple[Word, ...], i: int) -> str:
    """The form of word i in the wrong number, or "" where its form does not show number."""
    word, previous = words[i], words[i - 1]
    if word.word_class == "noun" and previous.word_class == "number":
        _, lemma, form = lex.look_up(word.text.lower(), "noun")
        flipped = plural(lemma) if form == "one" else lemma
        return "" if flipped == word.text or word.text[0].isupper() else flipped
    if word.word_class != "verb":
        return ""
    if word.text in _WRONG_NUMBER:
        bare = word.text == "have" and previous.text.lower() in _BEFORE_INFINITIVE
        return "" if bare else _WRONG_NUMBER[word.text]
    _, lemma, form = lex.look_up(word.text, "verb")
    return lemma if form == "s" and word.text.islower() else ""
