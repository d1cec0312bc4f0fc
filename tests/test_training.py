"""The loop: losses and optimizers against the plain way, learning, stopping and going on."""

import argparse
import json
import math
import threading
import time

import pytest
import torch
from helpers import TINY, random_model
from torch.nn import functional as F

from minislm import checkpoint
from minislm.cli.run_settings import settings_from
from minislm.config import PRESET_TRAINING, TrainConfig
from minislm.fast.backward import backward, with_compiled_blocks
from minislm.fast.cross_entropy import token_losses, training_loss
from minislm.fast.threads import run_threads
from minislm.optimizer import _move_alike, _Part, make_optimizers, orthogonalize
from minislm.runtime.errors import UserError
from minislm.training import schedule


def test_the_fused_loss_and_its_gradients_are_those_of_cross_entropy():
    fused, plain = random_model(seed=1), random_model(seed=1)
    inputs = torch.randint(0, 300, (20, 64))
    targets = torch.randint(0, 300, (20, 64))
    targets[torch.rand(20, 64) < 0.3] = -100
    counting = int((targets >= 0).sum())
    loss = training_loss(fused, inputs, targets, torch.float32, counting)
    expected = F.cross_entropy(plain(inputs).flatten(0, 1), targets.flatten())
    (3 * loss).backward()
    (3 * expected).backward()
    torch.testing.assert_close(loss, expected)
    for (name, got), wanted in zip(fused.named_parameters(), plain.parameters()):
        torch.testing.assert_close(got.grad, wanted.grad, atol=1e-5, rtol=1e-3, msg=name)
    each = token_losses(plain, inputs, targets, torch.float32)
    assert each[targets < 0].eq(0).all()
    torch.testing.assert_close(each.sum() / (targets >= 0).sum(), expected)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rows, length", [(1, 30), (2, 64), (37, 64), (5, 700)])
def test_a_batch_in_pieces_has_the_loss_and_the_gradients_of_the_whole(threads, rows, length):
    config = dict(context=700, qkv_bias=True, mlp_bias=True)
    pieces, whole = random_model(seed=1, **config), random_model(seed=1, **config)
    inputs, targets = torch.randint(0, 300, (2, rows, length))
    targets[torch.rand(rows, length) < 0.3] = -100
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        runs = []
        for _ in range(2):
            pieces.zero_grad()
            losses = [backward(pieces, inputs, targets, torch.float32) for _ in range(2)]
            runs.append([weight.grad.clone() for weight in pieces.parameters()])
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    expected = F.cross_entropy(whole(inputs).flatten(0, 1), targets.flatten())
    (2 * expected).backward()  # what is there already is added to
    assert losses == pytest.approx([expected.item()] * 2, rel=1e-5)
    for got, wanted, again in zip(runs[0], whole.parameters(), runs[1]):
        torch.testing.assert_close(got, wanted.grad, atol=1e-5, rtol=1e-3)
        assert torch.equal(got, again)  # whichever lane is done first


def test_lanes_give_what_they_made_in_order_and_tell_a_failure():
    def work(number):
        assert torch.get_num_threads() == 1
        if number == 1:
            time.sleep(0.05)
        return number

    threads = torch.get_num_threads()
    assert run_threads([lambda n=n: work(n) for n in range(3)], threads=1) == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        run_threads([lambda: 1, lambda: 1 // 0])
    assert torch.get_num_threads() == threads
    try:
        torch.set_num_threads(3)
        run_threads([lambda: 1] * 2, threads=1)
        later = []  # a thread that begins afterwards has as many as torch was told
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert later == [3]
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_muon_moves_every_matrix_the_same_way_in_any_number_of_lanes(threads):
    before, moved = torch.get_num_threads(), []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            model = random_model(seed=3)
            muon, generator = make_optimizers(model, TrainConfig())[0], torch.Generator()
            matrices = [weight for group in muon.param_groups for weight in group["params"]]
            old = [weight.detach().clone() for weight in matrices]
            for weight in matrices:
                weight.grad = torch.randn(weight.shape, generator=generator.manual_seed(5))
            muon.step()
            assert not any(torch.equal(*pair) for pair in zip(old, matrices))
            moved.append(matrices)
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*moved):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_matrices_of_a_shape_are_moved_together_as_they_are_one_by_one():
    """As on a GPU, where the matrices of all blocks are one stack."""
    generator = torch.Generator().manual_seed(2)
    one_by_one, together = (
        [
            _Part(torch.ones(8, 24), direction.clone(), power.clone(), rate=0.1, step=3)
            for direction, power in zip(directions, powers)
        ]
        for directions, powers in [
            (torch.randn(3, 8, 24, generator=generator), torch.rand(3, 8, 1, generator=generator))
        ]
        for _ in range(2)
    )
    assert len({part.kind for part in together}) == 1
    for part in one_by_one:
        _move_alike([part], torch.float32)
    _move_alike(together, torch.float32)
    for one, other in zip(one_by_one, together):
        assert not torch.equal(one.weight, torch.ones(8, 24))
        torch.testing.assert_close(one.weight, other.weight)
        torch.testing.assert_close(one.row_power, other.row_power)


def test_compiled_blocks_learn_with_the_models_own_weights(monkeypatch):
    compile, compiled = torch.nn.Module.compile, []

    def quickly(block, **options):  # all but the machine code
        compiled.append(block)
        compile(block, backend="eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", quickly)
    model, plain = random_model(seed=1, n_layer=3), random_model(seed=1, n_layer=3)
    learner = with_compiled_blocks(model)
    assert len(compiled) == 3 and all(
        one is other for one, other in zip(learner.parameters(), model.parameters())
    )
    for rows, length in ((4, 16), (3, 48)):
        inputs, targets = torch.randint(0, 300, (2, rows, length))
        for each in (learner, plain):
            backward(each, inputs, targets, torch.float32)
    for got, wanted in zip(model.parameters(), plain.parameters()):
        torch.testing.assert_close(got.grad, wanted.grad, atol=1e-6, rtol=1e-4)


def test_bfloat16_products_change_the_loss_by_little():
    model = random_model()
    inputs = torch.randint(0, 300, (4, 64))
    losses = [
        training_loss(model, inputs, inputs.roll(-1, 1), dtype, 256).item()
        for dtype in (torch.float32, torch.bfloat16)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


@pytest.mark.parametrize("shape", [(64, 256), (256, 64), (64, 128)])
def test_orthogonalize_moves_all_singular_values_close_to_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    matrix[:, 0] *= 30
    values = torch.linalg.svdvals(orthogonalize(matrix))
    assert values.min() > 0.4 and values.max() < 1.4
    # The directions stay: the nearest orthogonal matrix is U V^T of the matrix's own SVD.
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert F.cosine_similarity((u @ v).flatten(), orthogonalize(matrix).flatten(), dim=0) > 0.9


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_only_matrices_decay_and_every_weight_is_moved_once(kind):
    model = random_model(norm="layernorm", mlp="gelu", mlp_bias=True, position="learned")
    optimizers = make_optimizers(model, TrainConfig(optimizer=kind))
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    held = [id(weight) for group in groups for weight in group["params"]]
    assert sorted(held) == sorted(id(weight) for weight in model.parameters())
    for group in groups:
        for weight in group["params"]:
            assert (group["weight_decay"] > 0) == (weight.ndim == 2)


def test_a_fused_matrix_is_orthogonalised_part_by_part():
    model = random_model(n_layer=1)
    muon = make_optimizers(model, TrainConfig(weight_decay=0.0))[0]
    weight = model.blocks[0].attention.qkv.weight
    before = weight.detach().clone()
    for each in model.parameters():
        each.grad = torch.randn_like(each)
    muon.step()
    change = (before - weight.detach()) / muon.param_groups[0]["lr"]
    for part, rows in zip(change.split([64, 32, 32]), (64, 32, 32)):
        # (the smallest values of a square matrix take longer than five steps)
        values = torch.linalg.svdvals(part)
        assert values.quantile(0.2) > 0.4 and values.max() < 1.4, rows


def test_the_schedule_rises_and_falls():
    assert schedule(0.0, 0.1, 0.5) < 0.01 and schedule(0.05, 0.1, 0.5) == pytest.approx(0.5)
    assert schedule(0.1, 0.1, 0.5) == schedule(0.5, 0.1, 0.5) == pytest.approx(1.0)
    assert schedule(0.75, 0.1, 0.5) == pytest.approx(0.5)
    assert schedule(1.0, 0.1, 0.5) == pytest.approx(0.0)
    falling = [schedule(p / 100, 0.1, 0.5) for p in range(10, 101)]
    assert falling == sorted(falling, reverse=True)


def test_a_run_leaves_what_it_promises(tiny_run):
    names = {path.name for path in tiny_run.iterdir()}
    assert names >= {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "generation_config.json", "train_state.pt", "metrics.jsonl", "run.json", "loss.png",
    }  # fmt: skip
    assert not [name for name in names if name.endswith(".tmp")]
    records = checkpoint.read_metrics(tiny_run)
    assert records[-1]["step"] == 6 and math.isfinite(records[-1]["valid_loss"])


def weights_of(run):
    return checkpoint.load_state(run)["model"]


RUN = [*TINY, "--stories", 40, "--evals", 3, "--samples", 0, "--tasks", "copy", "--dropout", 0.1]


def test_training_learns_and_is_the_same_twice(run_script):
    for name in "ab":
        outcome = run_script("train.py", *RUN, "--steps", 40, "--out", name)
        assert outcome.code == 0, outcome.err
    a, b = (checkpoint.read_metrics(checkpoint.Path(name)) for name in "ab")
    same = [{k: v for k, v in record.items() if k != "seconds"} for record in a]
    assert same == [{k: v for k, v in record.items() if k != "seconds"} for record in b]
    assert a[-1]["valid_loss"] < a[0]["valid_loss"] < math.log(300)


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(run_script, monkeypatch):
    run_script("train.py", *RUN, "--steps", 12, "--out", "whole")
    for stop_at in (1, 7, 11):
        stop_and_go_on(run_script, monkeypatch, stop_at, f"stopped-at-{stop_at}")


def stop_and_go_on(run_script, monkeypatch, stop_at, run):
    from minislm.training import Trainer

    step = Trainer._step

    def interrupted(self, stream):
        step(self, stream)
        self.stopped = self.progress.step == stop_at  # as if Ctrl-C came in this step

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", interrupted)
        outcome = run_script("train.py", *RUN, "--steps", 12, "--out", run)
    assert outcome.code == 130 and "--resume" in outcome.err
    assert checkpoint.load_state(checkpoint.Path(run))["step"] == stop_at
    outcome = run_script("train.py", "--resume", "--out", run)
    assert outcome.code == 0, outcome.err
    whole, parts = (weights_of(checkpoint.Path(name)) for name in ("whole", run))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    losses = [
        [record["train_loss"] for record in checkpoint.read_metrics(checkpoint.Path(name))]
        for name in ("whole", run)
    ]
    assert losses[0] == losses[1]


def test_a_loss_read_a_step_later_is_told_in_time(run_script, monkeypatch):
    from minislm import training

    init, told = training.Trainer.__init__, []
    for late in (False, True):

        def begin(trainer, *arguments, late=late):
            init(trainer, *arguments)
            trainer.late = late

        monkeypatch.setattr(training.Trainer, "__init__", begin)
        assert run_script("train.py", *RUN, "--steps", 4, "--out", f"late-{late}").code == 0
        records = checkpoint.read_metrics(checkpoint.Path(f"late-{late}"))
        told.append([record["train_loss"] for record in records])
    assert told[0] == told[1] and all(map(math.isfinite, told[0]))


def test_momentum_is_the_one_asked_for():
    muon = make_optimizers(random_model(), TrainConfig(momentum=0.7))[0]
    assert {group["momentum"] for group in muon.param_groups} == {0.7}
    with pytest.raises(UserError, match="--momentum"):
        TrainConfig(momentum=1.0)


@pytest.mark.parametrize("late", [False, True], ids=["at once", "a step later"])
def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_state(
    run_script, monkeypatch, late
):
    from minislm import training

    honest, init = training.backward, training.Trainer.__init__

    def begin(trainer, *arguments):
        init(trainer, *arguments)
        trainer.late = late  # as on a GPU

    monkeypatch.setattr(training.Trainer, "__init__", begin)

    def broken(*batch):
        broken.calls += 1
        loss = honest(*batch)
        return loss * math.nan if broken.calls == 9 else loss

    broken.calls = 0
    monkeypatch.setattr(training, "backward", broken)
    outcome = run_script("train.py", *RUN, "--steps", 12, "--out", "nan")
    assert outcome.code == 2 and "step 9" in outcome.err and "--learning-rate" in outcome.err
    state = checkpoint.load_state(checkpoint.Path("nan"))
    assert state["step"] == 8
    assert all(torch.isfinite(weight).all() for weight in state["model"].values())


def test_resume_refuses_another_shape_and_takes_a_longer_run(run_script):
    run_script("train.py", *RUN, "--steps", 4, "--out", "r")
    outcome = run_script("train.py", "--resume", "--out", "r", "--width", 64)
    assert outcome.code == 2 and "--width" in outcome.err
    outcome = run_script("train.py", "--resume", "--out", "r", "--steps", 6)
    assert outcome.code == 0, outcome.err
    assert checkpoint.load_state(checkpoint.Path("r"))["step"] == 6


def test_minutes_bound_a_run(run_script):
    outcome = run_script(
        "train.py", *RUN, "--minutes", 0.02, "--out", "short", "--json", "result.json"
    )
    assert outcome.code == 0, outcome.err
    model = json.loads(open("result.json").read())["models"]["short"]
    assert model["seconds"] < 10 and model["steps"] > 0


def test_a_preset_brings_its_rates_and_a_flag_comes_first():
    asked = argparse.Namespace(preset="two-blocks")
    assert settings_from(asked).train.matrix_rate == PRESET_TRAINING["two-blocks"]["matrix_rate"]
    asked.matrix_rate = 0.5
    assert settings_from(asked).train.matrix_rate == 0.5
    assert settings_from(argparse.Namespace()).train == TrainConfig(minutes=3.5)
