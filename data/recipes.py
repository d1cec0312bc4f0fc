"""What a change of the training recipe gives where little text is read several times:

    python data/recipes.py v2-train.txt

Each recipe is trained from the same seeds on the same stories as the first one (and on the same
batches, if it does not change them). A seed has a fifth of the text. A recipe counts if the 95 %
interval of the mean difference excludes zero. What is finished is kept in --out: the same
command again trains what is missing.
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from minislm.config import PRESET_TRAINING, PRESETS, TrainConfig
from minislm.reporting.tables import markdown_table
from minislm.runtime.errors import run_script
from minislm.studies import trends
from minislm.studies.config import StudyConfig
from minislm.studies.runner import Row, Study, Trial, run_study

PART, EPOCHS, SEEDS = 5, 4, 5  # one story in 5, others for each seed
# Name -> options of `ModelConfig` and `TrainConfig` that are not those of the preset.
RECIPES: dict[str, dict[str, Any]] = {
    "two blocks": {},
    "AdamW for all": dict(optimizer="adamw", learning_rate=3e-3),
    "weight decay 0.8": dict(weight_decay=0.8),
    "dropout 0.1": dict(dropout=0.1),
    "rates fall over the last 70 %": dict(decay=0.7),
    "batches of 2,048 tokens": dict(batch_tokens=2048),
}
# Student's t, 97.5 %, from 1 degree of freedom on.
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("text", help="stories: a file or a folder, as --data of train.py")
    parser.add_argument("--out", default="runs/studies/recipes", help="folder of the results")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--processes", type=int, help="trials at a time (default: one per core)")
    given = parser.parse_args()
    config = StudyConfig(out=given.out, seeds=given.seeds, processes=given.processes)
    study = Study(lambda _: plan(given.text, given.seeds), KINDS, report)
    print(run_study("recipes", study, config, f"python data/recipes.py {given.text}").read_text())


def plan(text: str, seeds: int) -> list[list[Trial]]:
    """The token file; then all recipes, seed by seed."""
    trials: list[Trial] = []
    for seed in range(seeds):
        for name, changes in RECIPES.items():
            of_training = {k: v for k, v in changes.items() if k in TrainConfig.__annotations__}
            of_model = {k: v for k, v in changes.items() if k not in of_training}
            trials.append(dict(
                kind="recipe", name=name, shape=PRESETS["two-blocks"] | of_model, data=text,
                recipe=PRESET_TRAINING["two-blocks"] | of_training, part=PART, epochs=EPOCHS,
                seed=seed,
            ))  # fmt: skip
    return [[dict(kind="text", data=text)], trials]


def learn(name: str, **trial: Any) -> dict[str, Any]:
    return trends.learn(**trial)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The interval of the mean by Student's t; of one value, all numbers."""
    if len(values) < 2:
        return -math.inf, math.inf
    half = T[min(len(values) - 2, len(T) - 1)] * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def report(rows: Sequence[Row], folder: Path) -> str:
    """A table in Markdown."""
    losses: dict[str, dict[int, float]] = defaultdict(dict)
    for trial, result in ((row["trial"], row["result"]) for row in rows):
        if trial["kind"] == "recipe":
            losses[trial["name"]][trial["seed"]] = result["loss"]
    lines, first = [], next(iter(RECIPES))
    for name, own in losses.items():
        base = {} if name == first else losses.get(first, {})
        gap, differences = ("-", "-"), [own[seed] - base[seed] for seed in own if seed in base]
        if differences:
            low, high = interval(differences)
            gap = (f"{fmean(differences):+.4f} ({low:+.4f} to {high:+.4f})",
                   "yes" if low > 0 or high < 0 else "no")  # fmt: skip
        lines.append((name, str(len(own)), f"{fmean(own.values()):.4f}", *gap))
    head = ("recipe", "seeds", "bits per byte", "beside the first, 95 % interval", "counts")
    return markdown_table(head, lines) if lines else ""


KINDS = dict(text=trends.prepared, recipe=learn)

if __name__ == "__main__":
    run_script(main)
