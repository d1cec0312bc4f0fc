"""Word classes: what nouns, verbs, adjectives, numbers and the rest cost a model, and how often it
is right; on stories, on the `sentence` task, and after the data was balanced otherwise.

A generated story knows the class of each of its words. A token belongs to the word that its last
character stands in; the end of text is "other". So the losses of the classes add up to the text's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from minislm.config import TrainConfig
from minislm.dataset import TokenDataset
from minislm.interpret.activations import class_of_characters
from minislm.model import Transformer
from minislm.reporting.intervals import of_mean
from minislm.reporting.plots import bars
from minislm.reporting.tables import markdown_table
from minislm.stories.generate import Story, generate
from minislm.stories.lexicon import WORD_CLASSES, classify
from minislm.studies.config import StudyConfig
from minislm.studies.fine_tuning import FINE_TUNING, fine_tune_on_pairs, train_on_stories
from minislm.studies.runner import Row
from minislm.studies.variants import make_tokenizer, random_weights
from minislm.tasks import encode_pair, pairs
from minislm.tokenizer import Tokenizer

SHAPE = "one block"
# How the stories that are learned from are chosen among three times as many: as they come, or
# those with the largest share of a class. The last adds stories with numbers in use.
BALANCES = ("as they come", "more adjectives", "more numbers", "more nouns", "numbers in use")
_STORIES, _HELD_OUT, _STEPS = 4000, 300, 400
_FINE_TUNING = 300  # steps at most


def plan(config: StudyConfig) -> list[list[dict[str, Any]]]:
    """The tokenizer, then every balance for each seed."""
    balances = BALANCES[:2] if config.quick else BALANCES
    seeds, steps = config.seeds or (2 if config.quick else 3), 40 if config.quick else _STEPS
    stories = 600 if config.quick else _STORIES
    jobs = [
        {"kind": "train", "balance": balance, "seed": seed, "steps": steps, "stories": stories}
        for balance in balances
        for seed in range(seeds)
    ]
    return [[{"kind": "tokenizer"}], jobs]


def work(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train on stories of a balance; losses by class on others, then on `sentence`."""
    if job["kind"] == "tokenizer":
        return {"vocabulary": make_tokenizer(folder).vocab_size}
    tokenizer, seed = Tokenizer.load(folder / "tokenizer"), job["seed"]
    stories = chosen(job["balance"], job["stories"], seed)
    model = random_weights(SHAPE, seed, tokenizer)
    tokens = TokenDataset.from_texts((s.text for s in stories), tokenizer)
    train_on_stories(model, tokenizer, tokens, TrainConfig(seed=seed), job["steps"])
    trained = [class_ids(story, tokenizer) for story in stories]
    held_out = list(generate(_HELD_OUT, 1_000_000))
    row = {
        "trained": _counts(np.concatenate(trained)),
        "stories": by_class(model, tokenizer, held_out),
    }
    fine_tune_on_pairs(model, tokenizer, pairs("sentence", "train"), TrainConfig(seed=seed, **FINE_TUNING),
             _FINE_TUNING)  # fmt: skip
    return row | {split: pairs_by_class(model, tokenizer, split) for split in ("train", "test")}


def chosen(balance: str, count: int, seed: int) -> list[Story]:
    """`count` stories of a balance; see BALANCES."""
    if balance == "as they come":
        return list(generate(count, seed))
    if balance == "numbers in use":
        return list(generate(count, seed, numbers=0.5))
    wanted = balance.removeprefix("more ").removesuffix("s")
    share = lambda story: np.mean([w.word_class == wanted for w in story.words])  # noqa: E731
    return sorted(generate(3 * count, seed), key=share, reverse=True)[:count]


def class_ids(story: Story, tokenizer: Tokenizer) -> np.ndarray:
    """The class of every token of a story and its end of text, as places in WORD_CLASSES."""
    return _class_ids(
        [(word.before + word.text, word.word_class) for word in story.words], tokenizer
    )


def _class_ids(pieces: Sequence[tuple[str, str]], tokenizer: Tokenizer) -> np.ndarray:
    text = "".join(piece for piece, _ in pieces)
    of_character = class_of_characters(pieces)
    ends = [end for _, end in tokenizer.backend.encode(text, add_special_tokens=False).offsets]
    return np.append(of_character[np.array(ends) - 1], WORD_CLASSES.index("other"))


def by_class(
    model: Transformer, tokenizer: Tokenizer, stories: Sequence[Story]
) -> dict[str, list[float]]:
    """For each class: the nats of its tokens, how many, and how many the model had right."""
    rows = [
        ([tokenizer.eot_id], tokenizer.encode(story.text) + [tokenizer.eot_id],
         class_ids(story, tokenizer))
        for story in stories
    ]  # fmt: skip
    return _measure(model, rows)


def pairs_by_class(model: Transformer, tokenizer: Tokenizer, split: str) -> dict[str, list[float]]:
    """The same for the right answers of the `sentence` task, each behind its prompt."""
    rows = [
        (*encode_pair(tokenizer, pair), _class_ids(classify(pair.answer), tokenizer))
        for pair in pairs("sentence", split)
    ]
    return _measure(model, rows)


@torch.inference_mode()
def _measure(
    model: Transformer, rows: Sequence[tuple[list[int], list[int], np.ndarray]]
) -> dict[str, list[float]]:
    """Rows of (what stands before, tokens that count, their classes), each at most a context."""
    model.eval()
    total = np.zeros((len(WORD_CLASSES), 3))
    context = model.config.context
    for before, ids, classes in rows:
        text = torch.tensor((before + ids)[: context + 1])
        logits_TV = model(text[None, :-1])[0, len(before) - 1 :].float()
        targets = text[len(before) :]
        losses = F.cross_entropy(logits_TV, targets, reduction="none").double().numpy()
        right = (logits_TV.argmax(-1) == targets).numpy()
        for column, values in enumerate((losses, np.ones_like(losses), right)):
            np.add.at(total[:, column], classes[: len(losses)], values)
    return dict(zip(WORD_CLASSES, total.tolist()))


def _counts(classes: np.ndarray) -> dict[str, int]:
    counts = np.bincount(classes, minlength=len(WORD_CLASSES)).tolist()
    return dict(zip(WORD_CLASSES, counts))


def report(rows: list[Row], folder: Path) -> str:
    """Loss and accuracy by class for each balance, with the share of each class in the data."""
    groups: dict[str, list[dict]] = {}
    for row in rows:
        if row["job"]["kind"] == "train":
            groups.setdefault(row["job"]["balance"], []).append(row["result"])
    parts = [
        f"One block of width 128, {len(next(iter(groups.values())))} seeds, Student's intervals. "
        "Nats per token of each word class; accuracy is how often the likeliest token is the right "
        "one. A balance is how the stories learned from were chosen.\n"
    ]
    for name, key in (("held-out stories", "stories"), ("sentence, D_train", "train"),
                      ("sentence, D_test", "test")):  # fmt: skip
        parts.append(f"\n## {name}\n\n" + _by_class_table(groups, key))
    parts.append("\n## Shares of the tokens learned from\n\n" + markdown_table(
        ("balance", *WORD_CLASSES),
        [[name, *(f"{_share(results, c):.1%}" for c in WORD_CLASSES)]
         for name, results in groups.items()],
    ))  # fmt: skip
    base = next(iter(groups))
    parts.append(_reading(groups, base))
    series = {
        name: [of_mean([r["stories"][c][0] / r["stories"][c][1] for r in results])
               for c in WORD_CLASSES] for name, results in groups.items()
    }  # fmt: skip
    label = "nats per token, held-out stories"
    return "".join(parts) + "\n" + bars(WORD_CLASSES, series, label, folder / "classes.png")


def _by_class_table(groups: dict[str, list[dict]], key: str) -> str:
    lines = []
    for name, results in groups.items():
        cells = []
        for c in WORD_CLASSES:
            if not results[0][key][c][1]:
                cells.append("-")
                continue
            nats, low, high = of_mean([r[key][c][0] / r[key][c][1] for r in results])
            right = np.mean([r[key][c][2] / r[key][c][1] for r in results])
            cells.append(f"{nats:.3f} ({low:.3f} to {high:.3f}), {right:.0%}")
        lines.append([name, *cells])
    counts = [f"{results[0][key][c][1]:,.0f}" for c in WORD_CLASSES]
    return markdown_table(("balance", *WORD_CLASSES), [["tokens measured", *counts], *lines])


def _share(results: list[dict], word_class: str) -> float:
    return float(np.mean([r["trained"][word_class] / sum(r["trained"].values()) for r in results]))


def _reading(groups: dict[str, list[dict]], base: str) -> str:
    """What rebalancing did, from the figures: a change counts if intervals do not touch."""
    lines = ["\n## What rebalancing did\n\n"]
    for name, results in groups.items():
        if name == base:
            continue
        better, worse = [], []
        for c in WORD_CLASSES:
            old = of_mean([r["stories"][c][0] / r["stories"][c][1] for r in groups[base]])
            new = of_mean([r["stories"][c][0] / r["stories"][c][1] for r in results])
            better += [c] if new[2] < old[1] else []
            worse += [c] if new[1] > old[2] else []
        told = [f"{word}: {', '.join(found)}" for word, found in
                (("lower loss", better), ("higher loss", worse)) if found]  # fmt: skip
        lines.append(f"- {name}: {'; '.join(told) or 'no class changed beyond the intervals'}.\n")
    return "".join(lines)
