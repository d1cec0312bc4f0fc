"""Hyperparameters at equal compute: one is changed at a time, and the winner of each is named.

A run gets as many floating-point operations as the base run makes in its steps, so a model twice as
large sees half as many tokens. To try another value, add it to CHANGES.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from minislm.config import ModelConfig, TrainConfig
from minislm.dataset import TokenDataset
from minislm.evaluation import text_loss
from minislm.model import Transformer
from minislm.reporting.intervals import of_mean
from minislm.reporting.plots import dots
from minislm.reporting.tables import markdown_table
from minislm.studies.config import StudyConfig
from minislm.studies.fine_tuning import train_on_stories
from minislm.studies.runner import Row
from minislm.studies.variants import texts_of
from minislm.tokenizer import Tokenizer

BASE: dict[str, Any] = dict(
    learning_rate=7e-3, matrix_rate=0.02, batch_tokens=4096, stories=6000, optimizer="muon",
    weight_decay=0.1, dropout=0.0, n_layer=1, width=128, n_head=4, vocabulary=1024,
)  # fmt: skip
CHANGES: dict[str, tuple[Any, ...]] = {
    "learning_rate": (2e-3, 2e-2),
    "matrix_rate": (0.007, 0.06),
    "batch_tokens": (2048, 8192),
    "stories": (750, 3000),  # the fewer, the more epochs
    "optimizer": ("adamw",),
    "weight_decay": (0.0, 0.5),
    "dropout": (0.1,),
    "n_layer": (2, 4),
    "width": (64, 256),
    "n_head": (1, 8),
    "vocabulary": (512, 2048),
}
_STEPS = 150  # of the base run
_HELD_OUT = 200  # stories


def plan(config: StudyConfig) -> list[list[dict[str, Any]]]:
    """The base run and every change, for each seed."""
    changes = {"n_layer": (2,), "optimizer": ("adamw",)} if config.quick else CHANGES
    seeds, steps = config.seeds or (2 if config.quick else 3), 20 if config.quick else _STEPS
    settings = [BASE] + [BASE | {k: v} for k, values in changes.items() for v in values]
    return [[{"settings": s, "seed": seed, "steps": steps} for s in settings
             for seed in range(seeds)]]  # fmt: skip


def work(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train one setting on plain stories; bits per byte on others, and what it took."""
    s, seed = job["settings"], job["seed"]
    texts = texts_of("plain", 0, s["stories"])
    tokenizer = Tokenizer.train(texts, s["vocabulary"], "single")
    torch.manual_seed(seed)
    model = Transformer(_shape(s, tokenizer.vocab_size))
    budget = job["steps"] * BASE["batch_tokens"] * _operations(_shape(BASE, BASE["vocabulary"]))
    steps = max(1, round(budget / s["batch_tokens"] / _operations(model.config)))
    names = ("learning_rate", "matrix_rate", "optimizer", "weight_decay", "batch_tokens")
    config = TrainConfig(seed=seed, **{name: s[name] for name in names})
    stories = TokenDataset.from_texts(texts, tokenizer)
    loss = train_on_stories(model, tokenizer, stories, config, steps)
    held_out = TokenDataset.from_texts(texts_of("plain", 0, _HELD_OUT, start=1_000_000), tokenizer)
    found = text_loss(model, held_out, tokenizer.eot_id)
    return {"bits_per_byte": found.bits_per_byte, "train_loss": loss, "steps": steps,
            "parameters": model.n_parameters(),
            "epochs": steps * config.batch_tokens / stories.n_tokens}  # fmt: skip


def _shape(s: dict[str, Any], vocabulary: int) -> ModelConfig:
    names = ("n_layer", "width", "n_head", "dropout")
    return ModelConfig(n_kv_head=0, vocab_size=vocabulary, **{name: s[name] for name in names})


def _operations(c: ModelConfig) -> int:
    """Weights that multiply each token, in the blocks and in the head: operations up to a factor.

    What attention adds with the length of a text is left out: it is small at this size.
    """
    block = c.width * c.head_width * (2 * c.n_head + 2 * c.kv_heads) + 3 * c.width * c.mlp_hidden
    return c.n_layer * block + c.width * c.vocab_size


def report(rows: list[Row], folder: Path) -> str:
    """One table of all settings, the winner of each knob, and a picture."""
    found: dict[tuple[str, Any], list[Row]] = {}
    for row in rows:
        changed = {k: v for k, v in row["job"]["settings"].items() if BASE[k] != v}
        found.setdefault(next(iter(changed.items()), ("base", "")), []).append(row)
    base = _mean(found["base", ""])
    lines, points, winners = [], [], []
    for (knob, value), group in sorted(found.items(), key=lambda item: item[0][0] != "base"):
        values = [row["result"]["bits_per_byte"] for row in group]
        mean, low, high = of_mean(values)
        name = "base" if knob == "base" else f"{knob} {value}"
        last = group[-1]["result"]
        lines.append([name, f"{mean:.4f}", f"{low:.4f} to {high:.4f}",
                      f"{mean - base:+.4f}", f"{last['steps']:,}",
                      f"{last['epochs']:.1f}", f"{last['parameters']:,}"])  # fmt: skip
        points.append((name, mean, low, high))
    for knob in dict.fromkeys(knob for knob, _ in found if knob != "base"):
        tried = {value: _mean(group) for (k, value), group in found.items() if k == knob}
        tried[BASE[knob]] = base
        best = min(tried, key=tried.get)
        kept = " (the base's)" if best == BASE[knob] else ""
        winners.append([knob, ", ".join(map(str, tried)), f"{best}{kept}", f"{tried[best]:.4f}"])
    picture = dots(
        points, "bits per byte on held-out stories", folder / "hyperparameters.png", line=base
    )
    head = ("setting", "bits per byte", "95 % interval", "to base", "steps", "epochs", "parameters")
    about = ", ".join(f"{k} {v}" for k, v in BASE.items())
    return (
        f"Base: {about}. Every run makes about the same number of floating-point operations; "
        f"{len(found['base', ''])} seeds each, Student's interval over them.\n\n"
        + markdown_table(("knob", "tried", "winner", "bits per byte"), winners)
        + "\n" + markdown_table(head, lines) + "\n" + picture
    )  # fmt: skip


def _mean(rows: list[Row]) -> float:
    return sum(row["result"]["bits_per_byte"] for row in rows) / len(rows)
