"""Models that only pretend: one that proves the evaluator, and the shallow heuristics.

All stand behind the transformer's own interface, `forward(tokens [B, T]) -> logits [B, T, V]`, and
are asked through the same sampler and evaluation. Most of them spell: they find the prompt at the
beginning of the tokens, think of an answer, and give all weight to its next token. To add one,
write a class with a one-sentence docstring and an `answer`, and put it into HEURISTICS.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from minislm.config import ModelConfig
from minislm.tasks import TASKS, Pair, encode_pair, pairs
from minislm.tokenizer import Tokenizer


class Baseline(nn.Module):
    """What all of them are given.

    Args:
        known: the pairs it can be asked (default: all pairs of all tasks).
        shown: what it may have learned from (default: those of `known` in D_train).
        context: as a transformer's: the evaluation asks only pairs that fit.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        known: Iterable[Pair] | None = None,
        shown: Iterable[Pair] | None = None,
        context: int = 512,
    ):
        super().__init__()
        self.tokenizer = tokenizer
        self.config = ModelConfig(context=context, vocab_size=tokenizer.vocab_size)
        self.known = [p for task in TASKS for p in pairs(task)] if known is None else list(known)
        own = (p for p in self.known if p.split == "train")
        self.shown = list(own if shown is None else shown)


class Speller(Baseline):
    """Spells `answer(pair)` to each prompt it knows, then the end of text; it knows no other."""

    def __init__(self, tokenizer: Tokenizer, *of_baseline, **more):
        super().__init__(tokenizer, *of_baseline, **more)
        self._asked = {tuple(tokenizer.prompt_ids(pair.prompt)): pair for pair in self.known}
        self._lengths = sorted({len(ids) for ids in self._asked}, reverse=True)
        self._spelt: dict[Pair, list[int]] = {}

    def of_task(self, task: str) -> list[Pair]:
        """The pairs of a task that it was shown."""
        return [pair for pair in self.shown if pair.task == task]

    def answer(self, pair: Pair) -> str:
        """What to say to `pair.prompt`; only a model that cheats on purpose reads `pair.answer`."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits [B, T, V]: 0 for the next token of the answer, -30 for every other."""
        next_BT = [self._next(row) for row in tokens_BT.tolist()]
        logits_BTV = torch.full((*tokens_BT.shape, self.config.vocab_size), -30.0)
        return logits_BTV.scatter_(2, torch.tensor(next_BT)[..., None], 0.0)

    def _next(self, row: list[int]) -> list[int]:
        """The token that should follow each token of a row: of no interest inside the prompt."""
        eot = self.tokenizer.eot_id
        lengths = (n for n in self._lengths if n <= len(row))
        begin = next((n for n in lengths if tuple(row[:n]) in self._asked), None)
        if begin is None:
            return [eot] * len(row)
        spelt = self._spelling(self._asked[tuple(row[:begin])])
        said, following = row[begin:], [eot] * (begin - 1)
        for n in range(len(said) + 1):
            follows = n < len(spelt) and said[:n] == spelt[:n]
            following.append(spelt[n] if follows else eot)
        return following

    def _spelling(self, pair: Pair) -> list[int]:
        if pair not in self._spelt:
            self._spelt[pair] = self.tokenizer.encode(self.answer(pair)) + [self.tokenizer.eot_id]
        return self._spelt[pair]


class DummyModel(Speller):
    """Knows the right answers and gives one with a known probability: it tests the evaluator.

    Each prompt is decided by its own seeded draw, so a score does not depend on what else is asked.
    """

    def __init__(self, tokenizer: Tokenizer, accuracy: float, seed: int = 0, **of_speller):
        super().__init__(tokenizer, **of_speller)
        self.accuracy, self.seed = accuracy, seed

    def answer(self, pair: Pair) -> str:
        draw = random.Random(f"{self.seed}:{pair.task}:{pair.prompt}")
        if draw.random() < self.accuracy:
            return pair.answer
        others = {each.answer for each in self.known if each.task == pair.task}
        return draw.choice(sorted(others - {pair.answer}))


class Majority(Speller):
    """Knows only which answer was the commonest."""

    def answer(self, pair: Pair) -> str:
        return _commonest(self.of_task(pair.task))


class LastDigit(Speller):
    """Knows only the last digit of a number: says what was commonest after the nearest digit."""

    def answer(self, pair: Pair) -> str:
        digit = number_in(pair.prompt) % 10
        shown = {number_in(each.prompt) % 10 for each in self.of_task(pair.task)}
        nearest = min(shown, key=lambda other: (abs(other - digit), other))
        return _commonest(p for p in self.of_task(pair.task) if number_in(p.prompt) % 10 == nearest)


class NearestNumber(Speller):
    """Knows the pairs by heart and takes the answer of the nearest number (the lower of two)."""

    def answer(self, pair: Pair) -> str:
        asked = number_in(pair.prompt)
        near = lambda each: (abs(number_in(each.prompt) - asked), each.i)  # noqa: E731
        return min(self.of_task(pair.task), key=near).answer


class NearestPrompt(Speller):
    """Knows the pairs by heart and takes the answer of the prompt that is spelt most alike."""

    def answer(self, pair: Pair) -> str:
        near = lambda each: (edit_distance(each.prompt, pair.prompt), each.i)  # noqa: E731
        return min(self.of_task(pair.task), key=near).answer


class CopyPrompt(Speller):
    """Knows nothing and says the prompt's number again."""

    def answer(self, pair: Pair) -> str:
        return f" {number_in(pair.prompt)}"


class Ngram(Baseline):
    """Knows which token came after the last `order - 1` tokens (of fewer, where these are new)."""

    order = 2

    def __init__(self, tokenizer: Tokenizer, *of_baseline, **more):
        super().__init__(tokenizer, *of_baseline, **more)
        self.counts: dict[tuple[int, ...], Counter[int]] = {}
        for pair in self.shown:
            prompt, completion = encode_pair(tokenizer, pair)
            ids = prompt + completion
            for end in range(1, len(ids)):
                for n in range(min(self.order, end + 1)):  # the n tokens before ids[end]
                    before = tuple(ids[end - n : end])
                    self.counts.setdefault(before, Counter())[ids[end]] += 1

    @torch.no_grad()
    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits [B, T, V]: the logarithm of the count, or -30 for what never came."""
        logits_BTV = torch.full((*tokens_BT.shape, self.config.vocab_size), -30.0)
        for b, row in enumerate(tokens_BT.tolist()):
            for t in range(len(row)):
                counted = self._after(row[max(0, t + 2 - self.order) : t + 1])
                logits_BTV[b, t, list(counted)] = torch.tensor(list(counted.values())).log()
        return logits_BTV

    def _after(self, last: Sequence[int]) -> Counter[int]:
        while tuple(last) not in self.counts:
            last = last[1:]
        return self.counts[tuple(last)]


class Bigram(Ngram):
    """Knows which token came after the last one."""


class Trigram(Ngram):
    """Knows which token came after the last two."""

    order = 3


HEURISTICS: dict[str, type[Baseline]] = {
    "majority": Majority,
    "last digit": LastDigit,
    "nearest number": NearestNumber,
    "nearest prompt": NearestPrompt,
    "copy the prompt": CopyPrompt,
    "bigram": Bigram,
    "trigram": Trigram,
}


def number_in(prompt: str) -> int:
    """The number that a prompt asks about: the first in it."""
    return int(re.search(r"\d+", prompt)[0])


def edit_distance(one: str, other: str) -> int:
    """Insertions, deletions and replacements that turn one text into the other (Levenshtein)."""
    while one and other and one[0] == other[0]:  # prompts of one task begin and end alike
        one, other = one[1:], other[1:]
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def _commonest(shown: Iterable[Pair]) -> str:
    return Counter(pair.answer for pair in shown).most_common(1)[0][0]
