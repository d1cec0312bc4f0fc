"""How far the scores can be trusted: agreement with human scores, and sensitivity to corruption."""

import csv
import random
import re
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np

from minislm.model import Transformer
from minislm.runtime.errors import UserError
from minislm.scoring import rules
from minislm.scoring.grading import likelihoods
from minislm.scoring.ngrams import words_of
from minislm.stories.generate import generate
from minislm.stories.lexicon import words
from minislm.tokenizer import Tokenizer

# Which categories of the human scores belong to a dimension; instruction has none.
_CATEGORIES = {
    "grammar": ("Grammar",),
    "creativity": ("Creativity",),
    "consistency": ("Plot", "Factual Knowledge", "Reasoning", "Context-Tracking"),
}


class Agreement(NamedTuple):
    """Rank correlations with human scores."""

    score: float
    length: float  # of the number of words alone, without its sign
    likelihood: float  # of the log-likelihood under a grader alone, without its sign


# python eval.py --score --human human-scores.csv --grader stories260K.bin
MEASURED = {
    "grammar": Agreement(0.62, 0.42, 0.04),
    "creativity": Agreement(0.36, 0.22, 0.12),
    "consistency": Agreement(0.32, 0.11, 0.24),
}


def shown(agreements: dict[str, Agreement]) -> list[str]:
    """The dimensions whose score beats both baselines, or that have no human scores."""
    return [d for d in rules.DIMENSIONS
            if d not in agreements or agreements[d].score > max(agreements[d][1:])]  # fmt: skip


def read_human(path: str) -> dict[str, list[tuple[str, str, float]]]:
    """Category -> (prompt, continuation, mean of the category's criteria), from a CSV file.
    UserError: the file is missing, or lacks a category, a score or the columns category,
    prompt, completion and CATEGORY_..._score."""
    found: dict[str, list[tuple[str, str, float]]] = {}
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                category = row["category"]
                own = [k for k in row if k.startswith(f"{category}_") and k.endswith("_score")]
                prompt, text = (row[k].replace("\r\n", "\n") for k in ("prompt", "completion"))
                mean = fmean(float(row[k]) for k in own if row[k])
                found.setdefault(category, []).append((prompt, text, mean))
    except (OSError, csv.Error, LookupError, ValueError, AttributeError) as error:
        raise UserError(f"cannot read human scores from {path}: {error!r}") from error
    if missing := set(sum(_CATEGORIES.values(), ())) - found.keys():
        raise UserError(f"{path} lacks the categories {', '.join(sorted(missing))}")
    return found


def agreement(
    human: dict[str, list[tuple[str, str, float]]], grader: tuple[Transformer, Tokenizer]
) -> dict[str, Agreement]:
    """Each dimension's agreement with `read_human`'s scores, the mean over its categories."""
    found = {}
    for dimension, categories in _CATEGORIES.items():
        correlations = []
        for category in categories:
            texts = [(prompt, text) for prompt, text, _ in human[category]]
            scores = [getattr(rules.measure(*each), dimension) for each in texts]
            length = [len(words_of(text)) for _, text in texts]
            values = (scores, length, likelihoods(*grader, texts))
            means = [mean for _, _, mean in human[category]]
            correlations.append([spearman(each, means) for each in values])
        score, *baselines = map(fmean, zip(*correlations))
        found[dimension] = Agreement(score, *map(abs, baselines))
    return found


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation; equal values share their mean rank (Spearman 1904). 0 for a constant."""
    ranks = []
    for values in (a, b):
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[place])
    return float(np.corrcoef(*ranks)[0, 1]) if all(each.std() for each in ranks) else 0.0


def sensitivity(count: int = 200, seed: int = 3_000_000) -> dict[str, dict[str, float]]:
    """The mean scores of generated stories, unchanged and corrupted in five ways."""
    rng, stories = random.Random(seed), list(generate(count, seed))
    texts = [rules.split_beginning(story.text) for story in stories]
    wrong = generate(count, seed, agreement_errors=1.0)
    shuffled = [rules.sentences(text) for _, text in texts]
    for parts in shuffled:
        rng.shuffle(parts)
    versions = {
        "unchanged": texts,
        "sentences shuffled": [(p, " ".join(parts)) for (p, _), parts in zip(texts, shuffled)],
        "names swapped": [(p, _swap_names(p, t, rng)) for p, t in texts],
        "text repeated": [(p, f"{t} {t}") for p, t in texts],
        "agreement broken": [rules.split_beginning(story.text) for story in wrong],
        "required words removed": [
            (p, _remove(t, story.required)) for (p, t), story in zip(texts, stories)
        ],
    }
    found = {}
    for name, pairs in versions.items():
        measures = [rules.measure(*pair) for pair in pairs]
        values = {d: [getattr(each, d) for each in measures] for d in rules.DIMENSIONS[:3]}
        values["instruction"] = [rules.instruction(story.required, story.features, text)
                                 for story, (_, text) in zip(stories, pairs)]  # fmt: skip
        found[name] = {d: fmean(each) for d, each in values.items()}
    return found


def _remove(text: str, required: Iterable[str]) -> str:
    """Every form of the required words is replaced with "it"."""
    stems = {rules.stem(word) for word in required}
    return re.sub(r"[A-Za-z]+", lambda m: "it" if rules.stem(m[0].lower()) in stems else m[0], text)


def _swap_names(prompt: str, text: str, rng: random.Random) -> str:
    """Every occurrence of a name becomes a random name that the story does not have."""
    present, known = {*rules.names(prompt), *rules.names(text)}, {*words.boys, *words.girls}
    others = [name for name in (*words.boys, *words.girls) if name not in present]
    parts = text.split(" ")
    for k, part in enumerate(parts):
        name = part.strip('.,!?"').removesuffix("'s")
        if name in known:
            parts[k] = part.replace(name, rng.choice(others))
    return " ".join(parts)
