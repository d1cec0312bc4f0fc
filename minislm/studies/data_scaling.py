"""How much text, and how good: size, noise and duplicates against loss, stories and transfer.

A model learns from part of the stories, or from all of them with some spoilt, for the same number
of steps; then it is measured on clean stories it has not seen, asked to tell some, and fine-tuned
on pairs.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minislm.config import SampleConfig, TrainConfig
from minislm.dataset import TokenDataset
from minislm.evaluation import Answer, answers, text_loss
from minislm.fast.sampler import FastSampler
from minislm.reporting.intervals import of_mean
from minislm.reporting.plots import dots, lines
from minislm.reporting.tables import markdown_table
from minislm.scoring.grading import cut
from minislm.scoring.ngrams import Library
from minislm.scoring.rules import DIMENSIONS, measure
from minislm.stories.generate import generate
from minislm.studies.config import StudyConfig
from minislm.studies.fine_tuning import FINE_TUNING, fine_tune_on_pairs, train_on_stories
from minislm.studies.runner import Row
from minislm.studies.variants import make_tokenizer, random_weights
from minislm.tasks import pairs
from minislm.tokenizer import Tokenizer

SHAPE, STORIES = "two blocks", 6000
_NUMBERS = 0.7  # share of stories with numbers in use: without them nothing transfers
SIZES = (0.01, 0.03, 0.1, 0.3, 1.0)
QUALITIES: dict[str, dict[str, float]] = {
    "half with broken agreement": {"agreement_errors": 0.5},
    "all with broken agreement": {"agreement_errors": 1.0},
    "half with shuffled sentences": {"shuffled": 0.5},
    "all with shuffled sentences": {"shuffled": 1.0},
    "half duplicates": {"duplicates": 0.5},
    "nine in ten duplicates": {"duplicates": 0.9},
}
TASKS = ("copy", "successor")
_STEPS, _HELD_OUT, _TOLD = 300, 200, 60
_FINE_TUNING = 300  # steps at most


def plan(config: StudyConfig) -> list[list[dict[str, Any]]]:
    """The tokenizer, then every size and every quality for each seed."""
    seeds = config.seeds or (2 if config.quick else 3)
    made: list[tuple[str, float]] = [("clean", size) for size in SIZES]
    made += [(quality, 1.0) for quality in QUALITIES]
    if config.quick:
        made = [("clean", 0.1), ("clean", 1.0), ("all with broken agreement", 1.0)]
    steps, stories = (25, 800) if config.quick else (_STEPS, STORIES)
    jobs = [{"kind": "train", "quality": quality, "size": size, "seed": seed, "steps": steps,
             "stories": stories} for quality, size in made for seed in range(seeds)]  # fmt: skip
    return [[{"kind": "tokenizer"}], jobs]


def work(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train one model and measure it; see the module."""
    if job["kind"] == "tokenizer":
        return {"vocabulary": make_tokenizer(folder).vocab_size}
    tokenizer, seed = Tokenizer.load(folder / "tokenizer"), job["seed"]
    count, spoilt = round(job["stories"] * job["size"]), QUALITIES.get(job["quality"], {})
    texts = [s.text for s in generate(count, seed, numbers=_NUMBERS, **spoilt)]
    stories = TokenDataset.from_texts(texts, tokenizer)
    model = random_weights(SHAPE, seed, tokenizer)
    config = TrainConfig(seed=seed)
    loss = train_on_stories(model, tokenizer, stories, config, job["steps"])
    held_out = [s.text for s in generate(_HELD_OUT, 1_000_000, numbers=_NUMBERS)]
    found = text_loss(model, TokenDataset.from_texts(held_out, tokenizer), tokenizer.eot_id)
    row = {"tokens": stories.n_tokens, "train_loss": loss, "bits_per_byte": found.bits_per_byte,
           "epochs": job["steps"] * config.batch_tokens / stories.n_tokens}  # fmt: skip
    row["stories"] = _told(model, tokenizer, texts)
    steps = min(_FINE_TUNING, 3 * job["steps"])
    row["transfer"] = {task: _transferred(model, tokenizer, task, seed, steps) for task in TASKS}
    return row


def _told(model: Any, tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, float]:
    """The scores of how the model goes on from beginnings of stories it has not seen."""
    beginnings = [cut(s.text)[0] for s in generate(_TOLD, 1_000_000)]
    settings = SampleConfig(max_new_tokens=300, temperature=0.7)
    told = FastSampler(model, tokenizer).generate(beginnings, settings, seeds=range(_TOLD))
    library = Library(texts)
    measures = [measure(p, text, library.copied(text)) for p, text in zip(beginnings, told)]
    found = {d: float(np.mean([getattr(m, d) for m in measures])) for d in DIMENSIONS[:3]}
    return found | {"copied": float(np.mean([m.copied for m in measures]))}


def _transferred(
    model: Any, tokenizer: Tokenizer, task: str, seed: int, steps: int
) -> list[int]:
    """Right answers on D_test and how many were asked, after fine-tuning a copy on D_train."""
    own = copy.deepcopy(model)
    config = TrainConfig(seed=seed, **FINE_TUNING)
    fine_tune_on_pairs(own, tokenizer, pairs(task, "train"), config, steps)
    asked = pairs(task, "test")
    said = answers(FastSampler(own, tokenizer), asked)
    return [sum(a == Answer(p.answer, True) for a, p in zip(said, asked)), len(asked)]


def report(rows: list[Row], folder: Path) -> str:
    """Two tables, by size and by quality, and two pictures."""
    groups: dict[tuple[str, float], list[dict]] = {}
    for row in rows:
        if row["job"]["kind"] == "train":
            key = (row["job"]["quality"], row["job"]["size"])
            groups.setdefault(key, []).append(row["result"])
    sizes = {f"{size:.0%}": r for (quality, size), r in groups.items() if quality == "clean"}
    full = {quality: r for (quality, size), r in groups.items() if size == 1.0}
    curve = [(found[0]["tokens"], *of_mean([r["bits_per_byte"] for r in found]))
             for found in sizes.values()]  # fmt: skip
    learned = [
        (found[0]["tokens"], *of_mean([_rate(r) for r in found])) for found in sizes.values()
    ]
    points = [(name, *of_mean([_rate(r) for r in found])) for name, found in full.items()]
    return "\n".join((
        f"Two blocks of width 128, {len(next(iter(groups.values())))} seeds, Student's intervals. "
        "Every model is trained for as many steps, so less text is read more often. Loss on clean "
        f"stories that were held out; scores (see `eval.py --score`) and share copied of {_TOLD} "
        "stories that each model goes on with; transfer is exact match on D_test after "
        f"fine-tuning on D_train ({', '.join(TASKS)}).\n",
        "## Size\n\n" + _table(sizes, "share of the text"),
        lines({"held-out stories": curve}, "tokens", "bits per byte", folder / "sizes.png", True),
        lines({"D_test after fine-tuning": learned}, "tokens", "right", folder / "transfer.png",
              True),
        "## Quality\n\n" + _table(full, "text"),
        dots(points, "right on D_test after fine-tuning", folder / "qualities.png"),
    ))  # fmt: skip


def _table(groups: dict[str, list[dict]], first: str) -> str:
    measures = list(next(iter(groups.values()))[0]["stories"])
    body = []
    for name, found in groups.items():
        bits, low, high = of_mean([r["bits_per_byte"] for r in found])
        rate, rate_low, rate_high = of_mean([_rate(r) for r in found])
        by_task = [f"{np.mean([r['transfer'][t][0] / r['transfer'][t][1] for r in found]):.0%}"
                   for t in TASKS]  # fmt: skip
        told = [f"{np.mean([r['stories'][m] for r in found]):.2f}" for m in measures]
        body.append([name, f"{found[0]['tokens']:,}", f"{found[0]['epochs']:.1f}",
                     f"{bits:.3f} ({low:.3f} to {high:.3f})", *told,
                     f"{rate:.0%} ({max(0, rate_low):.0%} to {min(1, rate_high):.0%})",
                     *by_task])  # fmt: skip
    head = (first, "tokens", "epochs", "bits per byte", *measures, "transfer", *TASKS)
    return markdown_table(head, body)


def _rate(result: dict) -> float:
    """Right answers on D_test over all tasks."""
    right, asked = (sum(each) for each in zip(*result["transfer"].values()))
    return right / asked
