"""data/recipes.py: its plan, one small run, and differences in pairs."""

import importlib.util

import numpy as np
import pytest
import torch
from helpers import ROOT, random_model

from minislm.config import PRESET_TRAINING, PRESETS, ModelConfig, TrainConfig
from minislm.dataset import Batches, TokenDataset
from minislm.optimizer import schedule
from minislm.stories.generate import generate
from minislm.tokenizer import Tokenizer
from minislm.training import Trainer, loss_and_grad

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
        assert trial["shape"] | trial["recipe"] | trial["changes"] == preset | changes
        assert set(trial["changes"]) <= {*recipes.CHANGES, "bpe_dropout"}
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
    trial = dict(kind="recipe", name=name, seed=seed)
    return {"trial": trial, "result": dict(loss=loss), "seconds": 9.4}


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
    assert better == "| better | 4 | 0.8043 | -0.0107 (-0.0118 to -0.0097) | yes | 9 |"
    for name in ("same", "one seed"):
        assert next(x for x in table.splitlines() if x.startswith(f"| {name}")).endswith(
            "| no | 9 |"
        )


def test_a_study_that_was_stopped_before_the_first_recipe_has_a_table(tmp_path):
    rows = [row("better", 0, 0.8), row("better", 1, 0.9)]
    assert "| better | 2 | 0.8500 | - | - | 9 |" in recipes.report(rows, tmp_path)
    rows.append(row(next(iter(recipes.RECIPES)), 7, 0.8))  # of another seed
    assert "| better | 2 | 0.8500 | - | - | 9 |" in recipes.report(rows, tmp_path)


@pytest.fixture
def trainer():
    model = random_model(vocab_size=300)
    text = TokenDataset.from_ids([[5, 6, 7, 8, 9] * 6, [7, 8, 7, 6] * 8])
    batches = Batches(text, context=64, batch_tokens=64, eot_id=0)
    config = TrainConfig(steps=100, batch_tokens=64, weight_decay=0.0)
    return Trainer(model, batches, config)


def weights_of(trainer):
    return [weight.detach().clone() for weight in trainer.model.parameters()]


def test_averaged_weights_are_the_moving_average_of_the_last_steps(trainer):
    after, seen = recipes.averaged(trainer, 0.6), []

    def after_step():
        seen.append(weights_of(trainer))
        after()

    trainer.train(after_step)
    mean = seen[88]  # 89 of 100 steps are done
    for weights in seen[88:]:
        mean = [m + (w - m) / 5.5 for m, w in zip(mean, weights)]
    for weight, last, average in zip(weights_of(trainer), seen[-1], mean):
        torch.testing.assert_close(weight, 0.4 * last + 0.6 * average)


def test_cautious_decay_shrinks_what_shrinks(trainer):
    after = recipes.cautious_decay(trainer, 0.8)
    weight = trainer.model.embedding.weight
    trainer.progress.step = 50
    with torch.no_grad():
        old = weight.fill_(1.0).clone()
        after()  # all have grown from N(0, 0.02^2), or shrunk from below
        old = weight.clone()
        weight[0] += 0.1
        weight[1] -= 0.1
        after()
    peak = trainer.optimizers[1].param_groups[0]["peak"]
    torch.testing.assert_close(weight[0], old[0] + 0.1)
    shrunk = 0.8 * (1 - 0.5 * 7 / 8) * peak  # of the weight before; the rates have not fallen yet
    torch.testing.assert_close(weight[1], old[1] - 0.1 - shrunk * old[1])
    assert torch.equal(weight[2], old[2])


def test_momentum_and_rates_follow_their_schedules(trainer):
    muon = trainer.optimizers[0].param_groups[0]
    after = recipes.momentum_back(trainer, 0.85)
    rates = recipes.power_decay(trainer, 1.2)
    peak, found = muon["peak"], {}
    for step in (0, 5, 10, 50, 80, 100):
        trainer.progress.step = step
        after()
        rates()
        usual = schedule(step / 100, trainer.config.warmup, trainer.config.decay)
        found[step] = muon["momentum"], [o.param_groups[0]["peak"] * usual
                                         for o in trainer.optimizers]  # fmt: skip
    assert [found[n][0] for n in (0, 5, 10, 50, 100)] == pytest.approx(
        [0.85, 0.9, 0.95, 0.95, 0.85]
    )
    assert found[10][1][0] == peak and found[50][1][0] == pytest.approx(peak * (0.5 / 0.82) ** 1.2)
    assert found[50][1][1] == trainer.config.learning_rate
    assert found[80][1][1] == pytest.approx(trainer.config.learning_rate * 0.4**1.2)


def test_bigrams_are_those_of_the_text_and_fade_out(trainer):
    p = recipes._bigrams(trainer.batches, 300).exp()
    torch.testing.assert_close(p.sum(1), torch.ones(300))
    assert p[5].argmax() == 6 and p[8, 9] > 0.3 and p[8, 7] > 0.3 > p[8, 5]
    recipes.bigram_targets(trainer, 0.3)
    inputs, targets = next(iter(trainer.batches))
    count = int((targets != -100).sum())
    grads = []
    for step in (0, 30):
        trainer.progress.step = step
        loss = trainer.loss_and_grad(trainer.model, inputs, targets, torch.float32, count)
        grads.append(trainer.model.embedding.weight.grad.clone())
        trainer.model.zero_grad()
    plain = loss_and_grad(trainer.model, inputs, targets, torch.float32, count)
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(grads[1], trainer.model.embedding.weight.grad)
    assert not torch.allclose(grads[0], grads[1], atol=1e-3)


def test_bpe_dropout_gives_other_tokens_of_the_same_texts():
    texts = [story.text for story in generate(20, 1)]
    tokenizer = Tokenizer.train(texts, 600, "single")
    plain = TokenDataset.from_texts(texts, tokenizer)
    batches = Batches(plain, context=64, batch_tokens=256, eot_id=tokenizer.eot_id, seed=4)
    dropped = recipes.with_bpe_dropout(batches, tokenizer, 0.1, 3)
    found = dropped.documents
    assert (dropped.context, dropped.batch_tokens, dropped.seed) == (64, 256, 4)
    assert len(found) == 60 and found.n_tokens > 3.1 * plain.n_tokens
    assert [tokenizer.decode(found.document(i)[:-1].tolist()) for i in range(60)] == texts * 3
    assert TokenDataset.from_texts(texts, tokenizer).n_tokens == plain.n_tokens  # off again


def test_an_interval_of_a_known_sample_and_its_coverage():
    assert recipes.interval([1, 2, 3, 4, 5]) == pytest.approx((3 - 1.9633, 3 + 1.9633), abs=1e-3)
    rng = np.random.default_rng(0)
    for n in (2, 3, 5, 8):
        intervals = [recipes.interval(rng.normal(size=n)) for _ in range(3000)]
        assert sum(low < 0 < high for low, high in intervals) / 3000 == pytest.approx(
            0.95, abs=0.02
        )
