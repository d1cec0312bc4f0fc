"""Models graded: many continuations, four scores from 0 to 10 with intervals, and the raw measures.

The scores are held against what a person said of other models' continuations (`agreement`): a score
that follows the person no better than the length of a text or its likelihood is not shown. What
each score does when a text is spoilt on purpose is shown by `sensitivity`.
"""

from __future__ import annotations

import csv
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from minislm.config import SampleConfig
from minislm.fast.sampler import FastSampler
from minislm.model import Transformer
from minislm.reporting.intervals import bootstrap, wilson
from minislm.runtime.errors import UserError
from minislm.scoring.ngrams import Library, distinct, self_bleu, words_of
from minislm.scoring.prompts import BEGINNINGS, QUESTIONS, Question
from minislm.scoring.rules import DIMENSIONS, Measures, instruction, measure, names, sentences, stem
from minislm.stories.generate import Story, generate
from minislm.stories.lexicon import words
from minislm.tokenizer import Tokenizer

_INSTRUCT_SEED = 4_000_000  # of the stories whose headers are given as instructions
_SHARE = 8  # one continuation in so many answers an instruction
_SELF_BLEU = 40  # texts whose self-BLEU is taken: it grows with the square

# Rank correlation with a person's scores, of the score, of the length alone and of the likelihood
# under stories260K alone: python eval.py --score --human human-scores.csv --grader stories260K.bin
MEASURED = {
    "grammar": (0.62, 0.42, 0.08),
    "creativity": (0.36, 0.22, 0.10),
    "consistency": (0.32, 0.11, 0.26),
}


@dataclass(frozen=True)
class Graded:
    """One model's continuations and what was counted in them."""

    name: str
    texts: list[tuple[str, str]]  # prompt, continuation
    measures: list[Measures]
    instructions: list[float]  # 0 to 10 each
    questions: dict[str, tuple[int, int]]  # kind -> right, asked
    likelihood: float | None  # nats per byte under the grader
    longest: float | None  # words of the longest run read before, mean

    def values(self, dimension: str) -> list[float]:
        if dimension == "instruction":
            return self.instructions
        return [getattr(each, dimension) for each in self.measures]

    def answered(self) -> tuple[float, float, float]:
        """Questions answered right, from 0 to 10, with Wilson's interval; guessing gives 3.3."""
        right, asked = (sum(each) for each in zip(*self.questions.values()))
        low, high = wilson(right, asked)
        return 10 * right / asked, 10 * low, 10 * high


def grade(
    name: str,
    model: Transformer,
    tokenizer: Tokenizer,
    *,
    completions: int,
    prompts: Sequence[str] = BEGINNINGS,
    library: Library | None = None,
    grader: tuple[Transformer, Tokenizer] | None = None,
    seed: int = 0,
) -> Graded:
    """Let a model go on from prompts and instructions, and measure what it says.

    library: the text it was trained on, to see what is copied. grader: another model, whose
    likelihood of the texts is reported.
    """
    context = model.config.context
    asked = instructions(max(1, completions // _SHARE))
    beginnings = [prompts[k % len(prompts)] for k in range(completions - len(asked))]
    headers = [header for header, _ in asked]
    everything = [p for p in beginnings + headers if len(tokenizer.prompt_ids(p)) < context // 2]
    if len(everything) < completions // 2:
        raise UserError(f"{name}: most prompts exceed half its context of {context}; give others")
    settings = SampleConfig(max_new_tokens=300, temperature=0.7, seed=seed)
    said = FastSampler(model, tokenizer).generate(everything, settings, seeds=range(len(everything)))
    texts = list(zip(everything, said))
    stories = [(p, t) for p, t in texts if p not in set(headers)]
    said_to = dict(texts)
    followed = [
        instruction(story.required, _decidable(header, story), said_to[header])
        for header, story in asked if header in said_to
    ]  # fmt: skip
    copied = [library.copied(text) if library else 0.0 for _, text in stories]
    return Graded(
        name, texts,
        [measure(p, t, c) for (p, t), c in zip(stories, copied)],
        followed,
        answer(model, tokenizer, QUESTIONS),
        float(np.mean(likelihoods(*grader, stories))) if grader else None,
        float(np.mean([library.longest(t) for _, t in stories[:50]])) if library else None,
    )  # fmt: skip


def instructions(count: int) -> list[tuple[str, Story]]:
    """Headers of TinyStories-Instruct's kind, each with words to use, and their stories."""
    found = []
    for story in generate(20 * count, _INSTRUCT_SEED):
        if "Words" in story.header and len(found) < count:
            found.append((story.instruct.split("Story:")[0] + "Story:\n\n", story))
    return found


def _decidable(header: str, story: Story) -> tuple[str, ...]:
    return story.features if "Features:" in header else ()


@torch.inference_mode()
def answer(
    model: Transformer, tokenizer: Tokenizer, questions: Iterable[Question]
) -> dict[str, tuple[int, int]]:
    """For each kind of question: how often the right ending is the likeliest per byte, of how many.

    Per byte, because a longer ending is less likely as a whole.
    """
    found: dict[str, list[int]] = {}
    for question in questions:
        said = [(question.prompt, ending) for ending in question.endings]
        values = likelihoods(model, tokenizer, said)
        found.setdefault(question.kind, []).append(int(np.argmax(values) == 0))
    return {kind: (sum(right), len(right)) for kind, right in found.items()}


@torch.inference_mode()
def likelihoods(
    model: Transformer, tokenizer: Tokenizer, texts: Sequence[tuple[str, str]]
) -> list[float]:
    """Log-likelihood of each continuation behind its prompt, in nats per byte, as far as the model
    can read: the end of a long prompt, and the beginning of a long continuation."""
    values, most = [], model.config.context
    for prompt, text in texts:
        before, whole = tokenizer.prompt_ids(prompt)[-most:], tokenizer.encode(text)
        after = whole[: most + 1 - len(before)]
        if len(after) < len(whole):
            text = tokenizer.continuation(before, after)
        tokens = torch.tensor([before + after], device=model.embedding.weight.device)
        logprobs = model(tokens[:, :-1]).float().log_softmax(-1)
        each = logprobs.gather(2, tokens[:, 1:, None])[0, len(before) - 1 :, 0]
        values.append(float(each.sum()) / max(1, len(text.encode())))
    return values


# --- held against people --------------------------------------------------------------------------

# Which criteria of the file belong to a dimension; instruction-following has none.
_CATEGORIES = {
    "grammar": ("Grammar",),
    "creativity": ("Creativity",),
    "consistency": ("Plot", "Factual Knowledge", "Reasoning", "Context-Tracking"),
}


def read_human(path: str) -> list[tuple[str, str, str, float]]:
    """(category, prompt, continuation, mean of the category's criteria) of a CSV file.

    Raises:
        UserError: the file is missing or has not the columns category, prompt, completion and
            scores named CATEGORY_..._score.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        found = []
        for row in rows:
            own = [k for k in row if k.startswith(f"{row['category']}_") and k.endswith("_score")]
            given = [float(row[k]) for k in own if row[k]]
            prompt, text = (row[k].replace("\r\n", "\n") for k in ("prompt", "completion"))
            found.append((row["category"], prompt, text, float(np.mean(given))))
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError) as error:
        raise UserError(f"cannot read human scores from {path}: {error!r}") from error
    if not found or not set(sum(_CATEGORIES.values(), ())) <= {row[0] for row in found}:
        raise UserError(f"{path} lacks some of the categories {sum(_CATEGORIES.values(), ())}")
    return found


def agreement(
    rows: Sequence[tuple[str, str, str, float]], grader: tuple[Transformer, Tokenizer]
) -> dict[str, tuple[float, float, float]]:
    """For each dimension: the rank correlation with the person's scores, of the score, and (without
    its sign) of the length and of the likelihood alone; the mean over the dimension's categories.
    """
    texts = [(prompt, text) for _, prompt, text, _ in rows]
    measures = [measure(*each) for each in texts]
    length = np.array([len(words_of(text)) for _, text in texts], float)
    likely = np.array(likelihoods(*grader, texts))
    category, human = (np.array([row[k] for row in rows]) for k in (0, 3))
    found = {}
    for dimension, categories in _CATEGORIES.items():
        own = np.array([getattr(m, dimension) for m in measures])
        values = [[spearman(x[category == c], human[category == c]) for c in categories]
                  for x in (own, length, likely)]  # fmt: skip
        score, *baselines = (float(np.mean(v)) for v in values)
        found[dimension] = (score, *map(abs, baselines))
    return found


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Rank correlation, equal values sharing their mean rank (Spearman 1904); 0 if one is flat."""
    a, b = _ranks(one), _ranks(other)
    return float(np.corrcoef(a, b)[0, 1]) if a.std() and b.std() else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def shown(measured: dict[str, tuple[float, float, float]]) -> dict[str, bool]:
    """Whether a dimension beats both baselines; one that nobody scored is shown, and said to be."""
    beats = {name: score > max(others) for name, (score, *others) in measured.items()}
    return {name: beats.get(name, True) for name in DIMENSIONS}


# --- spoilt on purpose ----------------------------------------------------------------------------


def sensitivity(count: int = 200, seed: int = 3_000_000) -> dict[str, dict[str, float]]:
    """The mean scores of generated stories, as they are and spoilt in five ways."""
    told = list(generate(count, seed))
    broken = list(generate(count, seed, agreement_errors=1.0))
    rows: dict[str, list[tuple[str, str]]] = {"as told": [cut(story.text) for story in told]}
    rng = random.Random(seed)
    rows["sentences shuffled"] = [(p, _shuffled(t, rng)) for p, t in rows["as told"]]
    rows["names swapped"] = [(p, _renamed(p, t, rng)) for p, t in rows["as told"]]
    rows["text repeated"] = [(p, f"{t} {t}") for p, t in rows["as told"]]
    rows["agreement broken"] = [cut(story.text) for story in broken]
    rows["asked words left out"] = [
        (p, _without(t, story.required)) for (p, t), story in zip(rows["as told"], told)
    ]
    found = {}
    for name, texts in rows.items():
        measures = [measure(*each) for each in texts]
        found[name] = {d: float(np.mean([getattr(m, d) for m in measures]))
                       for d in DIMENSIONS[:3]}  # fmt: skip
        kept = [instruction(s.required, s.features, t) for s, (_, t) in zip(told, texts)]
        found[name]["instruction"] = float(np.mean(kept))
    return found


def cut(text: str) -> tuple[str, str]:
    """A story's first three sentences, and the rest."""
    told = sentences(text)
    place = text.index(told[min(3, len(told) - 1)])
    return text[:place], text[place:]


def _shuffled(text: str, rng: random.Random) -> str:
    parts = sentences(text)
    rng.shuffle(parts)
    return " ".join(parts)


def _without(text: str, required: Iterable[str]) -> str:
    """Each form of a required word becomes another word of the story."""
    stems = {stem(word) for word in required}
    return re.sub(r"[A-Za-z]+", lambda m: "it" if stem(m[0].lower()) in stems else m[0], text)


def _renamed(prompt: str, text: str, rng: random.Random) -> str:
    """Each name, each time it comes, becomes another that the story does not have."""
    taken = set(names(prompt)) | set(names(text))
    others = [name for name in (*BOYS, *GIRLS) if name not in taken]
    pieces = text.split(" ")
    known = taken & set((*BOYS, *GIRLS))
    for k, piece in enumerate(pieces):
        bare = piece.strip('.,!?"').removesuffix("'s")
        if bare in known:
            pieces[k] = piece.replace(bare, rng.choice(others))
    return " ".join(pieces)


# --- tables ---------------------------------------------------------------------------------------


def table(graded: Sequence[Graded], measured: dict[str, tuple[float, float, float]]) -> str:
    """The models by their mean score, best first; a dimension that is not shown has a dash."""
    show = shown(measured)
    width = max(len("model"), *(len(g.name) for g in graded))
    head = (*DIMENSIONS, "questions")
    lines = [f"{'model':<{width}}" + "".join(f"{d:>20}" for d in head) + f"{'all':>7}"]
    for g in sorted(graded, key=lambda g: -overall(g, show)):
        cells = []
        for dimension in DIMENSIONS:
            values = g.values(dimension)
            low, high = bootstrap(values)
            told = f"{np.mean(values):.2f} ({low:.2f}-{high:.2f})" if show[dimension] else "-"
            cells.append(f"{told:>20}")
        told = "{:.2f} ({:.2f}-{:.2f})".format(*g.answered())
        lines.append(f"{g.name:<{width}}" + "".join(cells) + f"{told:>20}{overall(g, show):>7.2f}")
    return "\n".join(lines)


def overall(graded: Graded, show: dict[str, bool]) -> float:
    """The mean of the scores that are shown and of the questions."""
    scores = [float(np.mean(graded.values(d))) for d in DIMENSIONS if show[d]]
    return float(np.mean([*scores, graded.answered()[0]]))


def raw_table(graded: Sequence[Graded]) -> str:
    """The raw measures beside the scores; a dash where nothing was there to measure with."""
    rows: dict[str, Callable[[Graded], str]] = {
        "sentences without a mistake": lambda g: _mean(g, "sound"),
        "new content words / root of words": lambda g: _mean(g, "richness"),
        "distinct 2-grams": lambda g: f"{distinct(_tokens(g), 2):.3f}",
        "distinct 4-grams": lambda g: f"{distinct(_tokens(g), 4):.3f}",
        "self-BLEU": lambda g: f"{self_bleu(_tokens(g)[:_SELF_BLEU]):.1f}",
        "ROUGE-2 precision, nearest story read": lambda g: _mean(g, "copied") if g.longest else "-",
        "longest run read before, words": lambda g: f"{g.longest:.1f}" if g.longest else "-",
        "names that are known": lambda g: _mean(g, "known"),
        "sentences that go on": lambda g: _mean(g, "cohesion"),
        "sentences in order": lambda g: _mean(g, "ordered"),
        "words of the prompt taken up": lambda g: _mean(g, "taken_up"),
        "nats per byte under the grader": lambda g: (
            f"{-g.likelihood:.3f}" if g.likelihood is not None else "-"),
    }  # fmt: skip
    for kind in ("factual", "reasoning", "context"):
        rows[f"{kind} questions"] = lambda g, kind=kind: "{} of {}".format(*g.questions[kind])
    shorts = [g.name.rstrip("/").split("/")[-1] for g in graded]
    width = max(12, *(len(name) + 2 for name in shorts))
    lines = [f"{'measure':<40}" + "".join(f"{name:>{width}}" for name in shorts)]
    for name, cell in rows.items():
        lines.append(f"{name:<40}" + "".join(f"{cell(g):>{width}}" for g in graded))
    return "\n".join(lines)


def _mean(graded: Graded, name: str) -> str:
    return f"{np.mean([getattr(m, name) for m in graded.measures]):.3f}"


def _tokens(graded: Graded) -> list[list[str]]:
    return [words_of(text) for _, text in graded.texts]


def agreement_table(measured: dict[str, tuple[float, float, float]]) -> str:
    """The rank correlations, and which scores are shown for it."""
    lines = [
        f"{'score':<14}{'with the person':>16}{'length alone':>14}{'likelihood alone':>18}  shown"
    ]
    for name, (score, length, likely) in measured.items():
        verdict = "yes" if shown(measured)[name] else "no: does not beat the baselines"
        lines.append(f"{name:<14}{score:>16.2f}{length:>14.2f}{likely:>18.2f}  {verdict}")
    lines.append(
        f"{'instruction':<14}{'-':>16}{'-':>14}{'-':>18}  yes, unproved: no person scored it"
    )
    return "\n".join(lines)


def sensitivity_table(found: dict[str, dict[str, float]]) -> str:
    lines = [f"{'text':<22}" + "".join(f"{d:>14}" for d in DIMENSIONS)]
    for name, values in found.items():
        lines.append(f"{name:<22}" + "".join(f"{values[d]:>14.2f}" for d in DIMENSIONS))
    return "\n".join(lines)
