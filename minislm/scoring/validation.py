"""How far the scores can be trusted: their agreement with human scores."""

import csv
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from minislm.model import Transformer
from minislm.runtime.errors import UserError
from minislm.scoring import rules
from minislm.scoring.grading import likelihoods
from minislm.scoring.ngrams import words_of
from minislm.tokenizer import Tokenizer

# The category of a dimension in the human scores; repetition and instruction have none.
_CATEGORIES = {"grammar": "Grammar", "creativity": "Creativity", "context": "Context-Tracking",
               "plot": "Plot"}  # fmt: skip
# Rank correlations with human scores: the score (its weights fitted to the other prompts), three
# baselines (with the sign that each has on all texts), and score - best baseline.
COLUMNS = ("score", "length", "likelihood", "distinct triples", "difference")
Interval = tuple[float, float, float]  # value, low, high
Rated = list[tuple[str, str, float]]  # prompt, continuation, human score from 0 to 1
SHOWN = ["repetition", "instruction"]  # --human human-scores.csv --grader stories260K.bin


def shown(agreements: Mapping[str, Sequence[Interval]]) -> list[str]:
    """The dimensions whose score is above all baselines, or that have no human scores."""
    return [d for d in rules.DIMENSIONS if d not in agreements or agreements[d][-1][1] > 0]


def read_human(path: str) -> dict[str, Rated]:
    """Category -> (prompt, continuation, mean of the category's criteria), from a CSV file.
    UserError: the file is missing, or lacks a category, a score, a second prompt or the columns
    category, prompt, completion and CATEGORY_..._score."""
    found: dict[str, Rated] = {}
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
    if few := [c for c in _CATEGORIES.values() if len({p for p, *_ in found.get(c, ())}) < 2]:
        raise UserError(f"{path} has fewer than two prompts of {', '.join(few)}")
    return found


def agreement(
    human: dict[str, Rated], grader: tuple[Transformer, Tokenizer]
) -> tuple[dict[str, list[Interval]], dict]:
    """Dimension -> COLUMNS for `read_human`'s scores, and `rules.WEIGHTS` fitted to all of them."""
    found, weights = {}, {}
    for dimension, category in _CATEGORIES.items():
        prompts, texts, means = zip(*human[category])
        measures = [rules.measure(*each) for each in zip(prompts, texts)]
        columns = [[getattr(each, dimension) for each in measures],
                   [len(words_of(text)) for text in texts],
                   likelihoods(*grader, list(zip(prompts, texts))),
                   [each.distinct_triples for each in measures]]  # fmt: skip
        means, numbers = np.array(means), np.unique(prompts, return_inverse=True)[1]
        if dimension in rules.WEIGHTS:
            names = list(rules.WEIGHTS[dimension][1])
            values = np.array([[getattr(each, name) for name in names] for each in measures])
            weights[dimension] = _ridge(names, values, means)
            fits = [_ridge(names, values[numbers != k], means[numbers != k]) for k in numbers]
            columns[0] = [rules.weighted(vars(each), *fit) for each, fit in zip(measures, fits)]
        found[dimension] = _intervals(np.array(columns), means, numbers)
    return found, weights


def _ridge(names: list[str], values: np.ndarray, means: np.ndarray) -> tuple[float, dict]:
    """Intercept and weights of ridge regression on standardised values [texts, names], with a
    penalty of 10 (not tuned). means [texts]: human scores from 0 to 1; 0 to 10 is predicted."""
    center, deviation = values.mean(0), values.std(0) + 1e-9
    scaled = (values - center) / deviation
    square = scaled.T @ scaled + 10 * np.eye(len(names))
    fitted = (np.linalg.solve(square, scaled.T @ (10 * means)) / deviation).round(2)
    return round(float(10 * means.mean() - center @ fitted), 2), dict(zip(names, fitted.tolist()))


def _intervals(columns: np.ndarray, means: np.ndarray, prompts: np.ndarray) -> list[Interval]:
    """COLUMNS for the values of the score and baselines [4, texts]; prompts: numbers [texts].
    Whole prompts are resampled (cluster bootstrap), as the texts of one prompt are alike."""
    rng, groups = np.random.default_rng(0), [np.flatnonzero(prompts == k) for k in set(prompts)]
    chosen = rng.integers(len(groups), size=(1000, len(groups)))
    samples = [np.arange(len(means)), *(np.concatenate([groups[k] for k in d]) for d in chosen)]
    found = np.array([[spearman(each[s], means[s]) for each in columns] for s in samples])
    found[:, 1:] *= np.where(found[0, 1:] < 0, -1, 1)
    found = np.c_[found, found[:, 0] - found[:, 1:].max(1)]
    return list(zip(found[0], *np.quantile(found[1:], (0.025, 0.975), axis=0)))


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Rank correlation; equal values share their mean rank (Spearman 1904). 0 for a constant."""
    ranks = []
    for values in (a, b):
        _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[place])
    return float(np.corrcoef(*ranks)[0, 1]) if all(each.std() for each in ranks) else 0.0
