"""What two texts have in common: BLEU, ROUGE, distinct runs, and how much was read before.

Texts are lists of tokens; `words_of` is the tokenization of ROUGE's reference implementation.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Tokens = Sequence[str]


def words_of(text: str) -> list[str]:
    """Small letters and digits, everything else between them left out."""
    return re.findall(r"[a-z0-9]+", text.lower())


def runs(tokens: Tokens, n: int) -> Counter[tuple[str, ...]]:
    """The n-grams of a text and how often each comes."""
    return Counter(zip(*(tokens[k:] for k in range(n))))


def bleu(
    hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]], order: int = 4
) -> float:
    """Corpus BLEU from 0 to 100 (Papineni et al. 2002), smoothed as sacrebleu does by default.

    references[i] are all references of hypotheses[i]. The brevity penalty takes the reference
    nearest in length (the shorter of two). An order without a match counts as 1 / (2^k x total)
    for the k-th such order (Chen & Cherry 2014, method 3); 0 if no single token matches.

    Raises:
        ValueError: the lists differ in length, or a hypothesis has no reference.
    """
    if len(hypotheses) != len(references) or not all(references):
        raise ValueError("every hypothesis needs at least one reference")
    right, total = [0] * order, [0] * order
    length = wanted = 0
    for said, refs in zip(hypotheses, references):
        length += len(said)
        wanted += min((abs(len(ref) - len(said)), len(ref)) for ref in refs)[1]
        for n in range(order):
            counted, allowed = runs(said, n + 1), Counter()
            for ref in refs:
                allowed |= runs(ref, n + 1)
            right[n] += sum((counted & allowed).values())
            total[n] += sum(counted.values())
    if not right[0]:
        return 0.0
    logs, smooth = 0.0, 1.0
    for matches, count in zip(right, total):
        if not count:  # shorter than the order: sacrebleu's precision is 0 there
            return 0.0
        if not matches:
            smooth *= 2
        logs += math.log(matches / count if matches else 1 / (smooth * count))
    penalty = min(1.0, math.exp(1 - wanted / length))
    return 100 * penalty * math.exp(logs / order)


def self_bleu(texts: Sequence[Tokens]) -> float:
    """The mean BLEU of each text against all others (Zhu et al. 2018): 100 is all the same."""
    if len(texts) < 2:
        raise ValueError("self-BLEU needs at least two texts")
    scores = [bleu([text], [[*texts[:k], *texts[k + 1 :]]]) for k, text in enumerate(texts) if text]
    return sum(scores) / len(scores) if scores else 0.0


@dataclass(frozen=True)
class Rouge:
    """Precision, recall and their harmonic mean, from 0 to 1 (Lin 2004)."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


def rouge_n(said: Tokens, reference: Tokens, n: int) -> Rouge:
    """Runs of n tokens in common."""
    one, other = runs(said, n), runs(reference, n)
    both = sum((one & other).values())
    return Rouge(both / max(1, sum(one.values())), both / max(1, sum(other.values())))


def rouge_l(said: Tokens, reference: Tokens) -> Rouge:
    """The longest common subsequence."""
    row = [0] * (len(reference) + 1)
    for token in said:
        diagonal = 0
        for j, other in enumerate(reference, 1):
            longest = diagonal + 1 if token == other else max(row[j], row[j - 1])
            diagonal, row[j] = row[j], longest
    return Rouge(row[-1] / max(1, len(said)), row[-1] / max(1, len(reference)))


def distinct(texts: Iterable[Tokens], n: int) -> float:
    """Different runs of n tokens over all runs (Li et al. 2016), over all texts together."""
    counted: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        counted += runs(text, n)
    return len(counted) / max(1, sum(counted.values()))


class Library:
    """The training stories, indexed by their word pairs, to find what a text was copied from."""

    def __init__(self, stories: Iterable[str]):
        self.stories = [words_of(story) for story in stories]
        self._with: dict[tuple[str, ...], list[int]] = {}
        for number, story in enumerate(self.stories):
            for pair in runs(story, 2):
                self._with.setdefault(pair, []).append(number)

    def copied(self, text: str) -> float:
        """ROUGE-2 precision against the nearest training story (Eldan & Li 2023, section 4.4)."""
        said = words_of(text)
        shared: Counter[int] = Counter()
        for pair in runs(said, 2):
            shared.update(self._with.get(pair, ()))
        near = [number for number, _ in shared.most_common(20)]  # by different pairs, not by counts
        return max((rouge_n(said, self.stories[k], 2).precision for k in near), default=0.0)

    def longest(self, text: str) -> int:
        """Words of the longest run that some training story has too."""
        said, best = words_of(text), 0
        begins: dict[tuple[str, ...], list[int]] = {}
        for t in range(len(said) - 1):
            begins.setdefault((said[t], said[t + 1]), []).append(t)
        for number in {k for pair in begins for k in self._with.get(pair, ())}:
            story = self.stories[number]
            for s in range(len(story) - 1):
                for t in begins.get((story[s], story[s + 1]), ()):
                    if s and t and story[s - 1] == said[t - 1]:
                        continue  # not where the run begins
                    n = 2
                    while s + n < len(story) and t + n < len(said) and story[s + n] == said[t + n]:
                        n += 1
                    best = max(best, n)
        return best
