"""N-gram measures: BLEU, self-BLEU, ROUGE-N, distinct-n, and overlap with the training text."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import reduce
from operator import or_

_ORDER = 4  # the largest n of BLEU
Tokens = Sequence[str]


def words_of(text: str) -> list[str]:
    """The lower-case words and numbers of a text, as in ROUGE's reference implementation."""
    return re.findall(r"[a-z0-9]+", text.lower())


def ngrams(tokens: Tokens, n: int) -> Counter[tuple[str, ...]]:
    """The n-grams of a text with their counts."""
    return Counter(zip(*(tokens[k:] for k in range(n))))


def bleu(hypotheses: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """Corpus BLEU from 0 to 100 (Papineni et al. 2002), smoothed as sacrebleu does by default.
    references[i] are all references of hypotheses[i]. The brevity penalty takes the reference
    nearest in length (the shorter of two). An order without a match counts as 1 / (2^k x total)
    for the k-th such order (Chen & Cherry 2014, method 3). 0 if no token matches, or no hypothesis
    has n-grams of an order. ValueError: lists of different lengths, or one without a reference."""
    pairs = list(zip(hypotheses, references, strict=True))
    length = sum(map(len, hypotheses))
    nearest = sum(min((abs(len(ref) - len(own)), len(ref)) for ref in refs)[1]
                  for own, refs in pairs)  # fmt: skip
    logs, smooth = 0.0, 1.0
    for n in range(1, _ORDER + 1):
        counts = [ngrams(own, n) for own, _ in pairs]
        highest = [reduce(or_, (ngrams(ref, n) for ref in refs)) for _, refs in pairs]
        matches = sum((own & most).total() for own, most in zip(counts, highest))
        total = sum(own.total() for own in counts)
        if not total or (n == 1 and not matches):
            return 0.0
        smooth *= 1.0 if matches else 0.5
        logs += math.log((matches or smooth) / total)
    return 100 * math.exp(logs / _ORDER + min(0.0, 1 - nearest / length))


def self_bleu(texts: Sequence[Tokens]) -> float:
    """The mean BLEU of each text against all others (Zhu et al. 2018); 100: all are the same."""
    scores = [bleu([text], [[*texts[:k], *texts[k + 1 :]]]) for k, text in enumerate(texts) if text]
    return sum(scores) / len(scores) if scores else 0.0


def rouge_n(text: Tokens, reference: Tokens, n: int) -> tuple[float, float]:
    """ROUGE-N precision and recall, from 0 to 1 (Lin 2004)."""
    own, other = ngrams(text, n), ngrams(reference, n)
    matches = (own & other).total()
    return matches / max(1, own.total()), matches / max(1, other.total())


def distinct(texts: Iterable[Tokens], n: int) -> float:
    """Distinct-n: different n-grams over all n-grams, of all texts together (Li et al. 2016)."""
    counts = Counter(gram for text in texts for gram in ngrams(text, n).elements())
    return len(counts) / max(1, counts.total())


class NgramIndex:
    """The training stories, indexed by word pairs, to find what a text was copied from."""

    def __init__(self, stories: Iterable[str]):
        self._stories: list[str] = []  # words with a space before and behind each
        self._with: dict[tuple[str, ...], list[int]] = {}  # word pair -> numbers of its stories
        for number, story in enumerate(stories):
            words = words_of(story)
            self._stories.append(f" {' '.join(words)} ")
            for pair in ngrams(words, 2):
                self._with.setdefault(pair, []).append(number)

    def rouge_2(self, text: str) -> float:
        """ROUGE-2 precision against the nearest training story (Eldan & Li 2023, section 4.4)."""
        words = words_of(text)
        shared = Counter(k for pair in ngrams(words, 2) for k in self._with.get(pair, ()))
        near = (self._stories[k].split() for k, _ in shared.most_common(20))  # most pairs in common
        return max((rouge_n(words, story, 2)[0] for story in near), default=0.0)

    def longest_copied(self, text: str) -> int:
        """Words of the longest run that a training story has too; 0 if that is a single word."""
        words, best = words_of(text), 1
        for start in range(len(words)):
            while start + best < len(words):
                run = words[start : start + best + 1]
                rarest = min((self._with.get(pair, ()) for pair in zip(run, run[1:])), key=len)
                if not any(f" {' '.join(run)} " in self._stories[k] for k in rarest):
                    break
                best += 1
        return best if best > 1 else 0
