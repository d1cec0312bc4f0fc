"""data/recipes.py: its plan, one small run, and differences in pairs."""

import importlib.util

import numpy as np
import pytest
from helpers import ROOT

from minislm.config import PRESET_TRAINING, PRESETS, ModelConfig, TrainConfig
from minislm.stories.generate import generate

spec = importlib.util.spec_from_file_location("recipes", ROOT / "data" / "recipes.py")
recipes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(recipes)


def test_every_recipe_is_the_preset_but_for_its_changes():
    trials = recipes.plan("some.txt", recipes.SEEDS)[1]
    assert {trial["seed"] for trial in trials} == set(range(recipes.SEEDS))
    for trial in trials:
        changes = recipes.RECIPES[trial["name"]]
        assert ModelConfig(**trial["shape"]) and TrainConfig(**trial["recipe"])
        preset = PRESETS["two-blocks"] | PRESET_TRAINING["two-blocks"]
        assert trial["shape"] | trial["recipe"] == preset | changes
    first = next(iter(recipes.RECIPES))
    assert recipes.RECIPES[first] == {}


def test_a_run_and_its_change_have_the_same_start(tmp_path, monkeypatch):
    """A change that changes nothing gives the same loss, another one does not."""
    path = tmp_path / "stories.txt"
    path.write_text("<|endoftext|>".join(s.text for s in generate(300, 5)), encoding="utf-8")
    monkeypatch.setitem(PRESETS, "two-blocks", dict(width=64, n_head=2, n_kv_head=0))
    monkeypatch.setattr(
        recipes, "RECIPES", {"a": {}, "b": {"dropout": 0.0}, "c": {"learning_rate": 0.03}}
    )
    monkeypatch.setattr(recipes, "EPOCHS", 0.5)
    first, second = recipes.plan(str(path), 1)
    losses = []
    for trial in first + second:
        options = {key: value for key, value in trial.items() if key != "kind"}
        losses.append(recipes.KINDS[trial["kind"]](**options, folder=tmp_path).get("loss"))
    assert losses[1] == losses[2] != losses[3]


def row(name, seed, loss):
    return {"trial": dict(kind="recipe", name=name, seed=seed), "result": dict(loss=loss)}


def test_differences_are_taken_in_pairs(tmp_path):
    """Seeds differ by more than the change does."""
    seeds = [0.81, 0.90, 0.85, 0.70]
    base = next(iter(recipes.RECIPES))
    rows = [{"trial": {"kind": "text"}, "result": {}}]
    rows += [row(base, n, loss) for n, loss in enumerate(seeds)]
    rows += [row("better", n, loss - 0.01 - 0.0005 * n) for n, loss in enumerate(seeds)]
    rows += [row("same", n, loss + 0.01 * (-1) ** n) for n, loss in enumerate(seeds)]
    rows += [row("one seed", 0, 0.5)]
    table = recipes.report(rows, tmp_path)
    better = next(line for line in table.splitlines() if line.startswith("| better"))
    assert better == "| better | 4 | 0.8043 | -0.0107 (-0.0118 to -0.0097) | yes |"
    for name in ("same", "one seed"):
        assert next(x for x in table.splitlines() if x.startswith(f"| {name}")).endswith("| no |")


def test_a_study_that_was_stopped_before_the_first_recipe_has_a_table(tmp_path):
    rows = [row("better", 0, 0.8), row("better", 1, 0.9)]
    assert "| better | 2 | 0.8500 | - | - |" in recipes.report(rows, tmp_path)
    rows.append(row(next(iter(recipes.RECIPES)), 7, 0.8))  # of another seed
    assert "| better | 2 | 0.8500 | - | - |" in recipes.report(rows, tmp_path)


def test_an_interval_of_a_known_sample_and_its_coverage():
    assert recipes.interval([1, 2, 3, 4, 5]) == pytest.approx((3 - 1.9633, 3 + 1.9633), abs=1e-3)
    rng = np.random.default_rng(0)
    for n in (2, 3, 5, 8):
        intervals = [recipes.interval(rng.normal(size=n)) for _ in range(3000)]
        assert sum(low < 0 < high for low, high in intervals) / 3000 == pytest.approx(
            0.95, abs=0.02
        )
