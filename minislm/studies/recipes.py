"""The recipes study: what a change of the training recipe gives on little text, read several times.
Every recipe is trained from the same seeds on the same batches as the first one. A change counts
where the interval of the mean difference excludes zero."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from minislm.config import PRESET_TRAINING, PRESETS, TrainConfig
from minislm.reporting.intervals import student
from minislm.reporting.tables import markdown_table
from minislm.runtime.errors import UserError
from minislm.studies import trends
from minislm.studies.config import StudyConfig
from minislm.studies.runner import Row, Study, Trial

PART, EPOCHS, SEEDS = 4, 4, 5  # a quarter of the stories
# name -> options of `ModelConfig` and `TrainConfig` that are not those of the preset
RECIPES: dict[str, dict[str, Any]] = {
    "two blocks": {},
    "AdamW for all": dict(optimizer="adamw", learning_rate=3e-3),
    "weight decay 0.8": dict(weight_decay=0.8),
    "dropout 0.1": dict(dropout=0.1),
    "rates fall over the last 70 %": dict(decay=0.7),
    "batches of 2,048 tokens": dict(batch_tokens=2048),
}


def plan(config: StudyConfig) -> list[list[Trial]]:
    """The token file; then all recipes, seed by seed. UserError: no text is given."""
    if not config.text:
        raise UserError("--study recipes needs real stories: give --data TEXT")
    trials: list[Trial] = []
    for seed in range(config.seeds or (2 if config.quick else SEEDS)):
        for name, changes in RECIPES.items():
            of_training = {k: v for k, v in changes.items() if k in TrainConfig.__annotations__}
            of_model = {k: v for k, v in changes.items() if k not in of_training}
            trials.append(dict(
                kind="recipe", name=name, shape=PRESETS["two-blocks"] | of_model,
                recipe=PRESET_TRAINING["two-blocks"] | of_training, part=PART,
                epochs=EPOCHS / (8 if config.quick else 1), seed=seed, data=config.text,
            ))  # fmt: skip
    return [[dict(kind="text", data=config.text)], trials]


def learn(name: str, folder: Path, **trial: Any) -> dict[str, Any]:
    return trends.learn(folder=folder, **trial)


def report(rows: Sequence[Row], folder: Path) -> str:
    """The report in Markdown."""
    losses: dict[str, dict[int, float]] = defaultdict(dict)
    for trial, result in ((row["trial"], row["result"]) for row in rows):
        if trial["kind"] == "recipe":
            losses[trial["name"]][trial["seed"]] = result["loss"]
    lines, base = [], losses[next(iter(RECIPES))]
    for name, own in losses.items():
        differences = [own[seed] - base[seed] for seed in own if seed in base]
        low, high = student(differences) if len(differences) > 1 else (-9.0, 9.0)
        counts = "yes" if max(low, -high) > 0 else "no"
        gap = (f"{fmean(differences):+.4f} ({low:+.4f} to {high:+.4f})", counts)
        lines.append((name, str(len(own)), f"{fmean(own.values()):.4f}",
                      *(("-", "-") if own is base else gap)))  # fmt: skip
    head = ("recipe", "seeds", "bits per byte", "beside the first, 95 % interval", "counts")
    return markdown_table(head, lines) if lines else ""


STUDY = Study(plan, dict(text=trends.prepared, recipe=learn), report)
