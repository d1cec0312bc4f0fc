"""The loop: the plain loss, learning, and a run that is stopped and resumed."""

import argparse
import json
import math
from pathlib import Path

import pytest
import torch
from helpers import TINY, random_model, read_metrics
from torch.nn import functional as F

from minislm import checkpoint, training
from minislm.cli.run_settings import settings_from
from minislm.config import PRESET_TRAINING, TrainConfig
from minislm.dataset import IGNORED, Batches, TokenDataset
from minislm.evaluation import TextLoss
from minislm.fast.backward import FastLossAndGrad
from minislm.optimizer import make_optimizers
from minislm.tokenizer import Tokenizer
from minislm.training import Trainer, loss_and_grad, train_step, validation_subset


def test_the_plain_loss_is_the_mean_cross_entropy_and_gradients_add_up():
    model, whole = random_model(seed=1), random_model(seed=1)
    inputs, targets = torch.randint(0, 300, (2, 4, 30))
    targets[torch.rand(4, 30) < 0.3] = IGNORED
    count = int((targets != IGNORED).sum())
    losses = [float(loss_and_grad(model, inputs, targets, torch.float32, count)) for _ in range(2)]
    expected = F.cross_entropy(whole(inputs).flatten(0, 1), targets.flatten())
    (2 * expected).backward()
    assert losses == pytest.approx([expected.item()] * 2, rel=1e-5)
    for got, wanted in zip(model.parameters(), whole.parameters()):
        torch.testing.assert_close(got.grad, wanted.grad, atol=1e-6, rtol=1e-4)


def test_accumulated_batches_are_one_large_batch():
    one, two = random_model(seed=1), random_model(seed=1)
    inputs, targets = torch.randint(0, 300, (2, 8, 30))
    results = []
    for model, parts in ((one, 1), (two, 4)):
        optimizers = make_optimizers(model, TrainConfig(), torch.float32)
        batches = list(zip(inputs.chunk(parts), targets.chunk(parts)))
        results.append(train_step(
            model, batches, optimizers, multiplier=1.0, clip=1.0, dtype=torch.float32
        ))  # fmt: skip
    for at, tolerance in ((0, 1e-4), (1, 1e-3)):
        assert float(results[0][at]) == pytest.approx(float(results[1][at]), rel=tolerance)
    assert results[0][2] == results[1][2] == 240
    for a, b in zip(one.parameters(), two.parameters()):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=0)


def test_the_gradient_is_clipped_to_its_norm():
    model = random_model()
    before = [weight.detach().clone() for weight in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    optimizer.param_groups[0]["peak"] = 2.0
    batch = tuple(torch.randint(0, 300, (2, 4, 30)))
    _, norm, _ = train_step(
        model, [batch], [optimizer], multiplier=0.5, clip=0.01, dtype=torch.float32
    )
    moved = torch.cat([(a.detach() - b).flatten() for a, b in zip(model.parameters(), before)])
    assert norm > 0.01 and float(moved.norm()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("keep_best, kept", [(True, [1, 2]), (False, [1, 2, 3])])
def test_the_best_weights_are_kept_or_the_last(tmp_path, monkeypatch, keep_best, kept):
    nats, saved = iter((3.0, 1.0, 2.0)), []
    monkeypatch.setattr(training, "text_loss", lambda *_, **__: TextLoss(next(nats), 1, 1))
    documents = TokenDataset.from_ids([[1, 2, 3, 0]] * 8)
    trainer = Trainer(
        random_model(), Batches(documents, context=16, batch_tokens=32, eot_id=0),
        TrainConfig(steps=3, evals=3), run=tmp_path, valid=documents, keep_best=keep_best,
        tokenizer=Tokenizer.train([], 257), save=lambda *_: saved.append(trainer.progress.step),
    )  # fmt: skip
    trainer.train()
    assert saved == kept


def test_a_trainer_without_a_run_folder_learns_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    documents = TokenDataset.from_ids([[1, 2, 3, 4, 5, 0]] * 40)
    batches = Batches(documents, context=16, batch_tokens=64, eot_id=0)
    model, losses = random_model(n_layer=1, context=16), []
    trainer = Trainer(model, batches, TrainConfig(steps=30))
    trainer.train(lambda: losses.append(trainer.read_loss()))
    assert len(losses) == 30 and losses[-1] < 0.2 * losses[0]
    assert not list(tmp_path.iterdir())
    losses.clear()
    stopped = Trainer(model, batches, TrainConfig(steps=30))

    def stop():
        losses.append(0)
        stopped.stopped = len(losses) == 4

    assert stopped.train(stop).step == 4


def test_the_validation_subset_is_spread_over_the_text_and_knows_its_bytes():
    documents = TokenDataset.from_ids([[1] * 100] * 1000, [n for n in range(1000)])
    subset = validation_subset(documents)
    assert len(subset) == 500 and subset.n_tokens == 50_000
    assert subset.bytes == sum(range(0, 1000, 2))
    assert validation_subset(subset) is subset


def test_a_run_folder_has_its_files(tiny_run):
    names = {path.name for path in tiny_run.iterdir()}
    assert names >= {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "generation_config.json", "train_state.pt", "metrics.jsonl", "run.json", "loss.png",
    }  # fmt: skip
    assert not [name for name in names if name.endswith(".tmp")]
    records = read_metrics(tiny_run)
    assert records[-1]["step"] == 6 and math.isfinite(records[-1]["valid_loss"])


def weights_of(run):
    return checkpoint.load_state(run)["model"]


RUN = [*TINY, "--stories", 40, "--evals", 3, "--samples", 0, "--tasks", "copy", "--dropout", 0.1]


def test_training_learns_and_is_the_same_twice(run_script):
    for name in "ab":
        outcome = run_script("train.py", *RUN, "--steps", 40, "--out", name)
        assert outcome.code == 0, outcome.err
    a, b = (read_metrics(Path(name)) for name in "ab")
    same = [{k: v for k, v in record.items() if k != "seconds"} for record in a]
    assert same == [{k: v for k, v in record.items() if k != "seconds"} for record in b]
    assert a[-1]["valid_loss"] < a[0]["valid_loss"] < math.log(300)


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(run_script, monkeypatch):
    run_script("train.py", *RUN, "--steps", 12, "--out", "whole")
    for stop_at in (1, 7, 11):
        stop_and_resume(run_script, monkeypatch, stop_at, f"stopped-at-{stop_at}")


def stop_and_resume(run_script, monkeypatch, stop_at, run):
    step = Trainer._step

    def interrupted(self, batches):
        step(self, batches)
        self.stopped = self.progress.step == stop_at  # as if Ctrl-C came in this step

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", interrupted)
        outcome = run_script("train.py", *RUN, "--steps", 12, "--out", run)
    assert outcome.code == 130 and "--resume" in outcome.err
    assert checkpoint.load_state(Path(run))["step"] == stop_at
    outcome = run_script("train.py", "--resume", "--out", run)
    assert outcome.code == 0, outcome.err
    whole, parts = (weights_of(Path(name)) for name in ("whole", run))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    losses = [
        [record["train_loss"] for record in read_metrics(Path(name))] for name in ("whole", run)
    ]
    assert losses[0] == losses[1]


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_state(run_script, monkeypatch):
    honest, calls = FastLossAndGrad.__call__, []

    def broken(self, *batch):
        calls.append(0)
        loss = honest(self, *batch)
        return loss * math.nan if len(calls) == 9 else loss

    monkeypatch.setattr(FastLossAndGrad, "__call__", broken)
    outcome = run_script("train.py", *RUN, "--steps", 12, "--out", "nan")
    assert outcome.code == 2 and "step 9" in outcome.err and "--learning-rate" in outcome.err
    state = checkpoint.load_state(Path("nan"))
    assert state["step"] == 8
    assert all(torch.isfinite(weight).all() for weight in state["model"].values())


def test_resume_refuses_another_shape_and_takes_a_longer_run(run_script):
    run_script("train.py", *RUN, "--steps", 4, "--out", "r")
    outcome = run_script("train.py", "--resume", "--out", "r", "--width", 64)
    assert outcome.code == 2 and "--width" in outcome.err
    outcome = run_script("train.py", "--resume", "--out", "r", "--steps", 6)
    assert outcome.code == 0, outcome.err
    assert checkpoint.load_state(Path("r"))["step"] == 6


def test_minutes_bound_a_run(run_script):
    outcome = run_script(
        "train.py", *RUN, "--minutes", 0.02, "--out", "short", "--json", "result.json"
    )
    assert outcome.code == 0, outcome.err
    model = json.loads(open("result.json").read())["models"]["short"]
    assert model["seconds"] < 10 and model["steps"] > 0


def test_a_preset_brings_its_rates_and_a_flag_comes_first():
    flags = argparse.Namespace(preset="two-blocks")
    assert settings_from(flags).train.matrix_rate == PRESET_TRAINING["two-blocks"]["matrix_rate"]
    flags.matrix_rate = 0.5
    assert settings_from(flags).train.matrix_rate == 0.5
    assert settings_from(argparse.Namespace()).train == TrainConfig(minutes=3.5)
