"""The fast loss and gradient against the plain one, and worker threads."""

import threading
import time

import pytest
import torch
from helpers import random_model
from torch.nn import functional as F

from minislm.dataset import IGNORED
from minislm.evaluation import token_losses
from minislm.fast.backward import FastLossAndGrad
from minislm.fast.cross_entropy import fused_loss
from minislm.fast.threads import run_threads
from minislm.training import loss_and_grad


def test_the_fused_loss_and_its_gradients_are_those_of_cross_entropy():
    fused, plain = random_model(seed=1), random_model(seed=1)
    inputs = torch.randint(0, 300, (20, 64))
    targets = torch.randint(0, 300, (20, 64))
    targets[torch.rand(20, 64) < 0.3] = IGNORED
    count = int((targets != IGNORED).sum())
    loss = fused_loss(fused, inputs, targets, torch.float32, count)
    expected = F.cross_entropy(plain(inputs).flatten(0, 1), targets.flatten())
    (3 * loss).backward()
    (3 * expected).backward()
    torch.testing.assert_close(loss, expected)
    for (name, got), wanted in zip(fused.named_parameters(), plain.parameters()):
        torch.testing.assert_close(got.grad, wanted.grad, atol=1e-5, rtol=1e-3, msg=name)
    each = token_losses(plain, inputs, targets, torch.float32)
    assert each[targets == IGNORED].eq(0).all()
    torch.testing.assert_close(each.sum() / count, expected)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rows, length", [(1, 30), (2, 64), (37, 64), (4, 600)])
def test_micro_batches_have_the_loss_and_the_gradients_of_the_whole(threads, rows, length):
    config = dict(context=700, qkv_bias=True, mlp_bias=True)
    parts, whole = random_model(seed=1, **config), random_model(seed=1, **config)
    fast = FastLossAndGrad(parts)
    inputs, targets = torch.randint(0, 300, (2, rows, length))
    targets[torch.rand(rows, length) < 0.3] = IGNORED
    count = int((targets != IGNORED).sum())
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        runs = []
        for _ in range(2):
            parts.zero_grad()
            losses = [float(fast(parts, inputs, targets, torch.float32, count)) for _ in range(2)]
            runs.append([weight.grad.clone() for weight in parts.parameters()])
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    plain = [float(loss_and_grad(whole, inputs, targets, torch.float32, count)) for _ in range(2)]
    assert losses == pytest.approx(plain, rel=1e-5)
    for got, wanted, again in zip(runs[0], whole.parameters(), runs[1]):
        torch.testing.assert_close(got, wanted.grad, atol=1e-5, rtol=1e-3)
        assert torch.equal(got, again)  # whichever worker is done first


def test_only_weights_that_require_a_gradient_get_one():
    model = random_model()
    for weight in model.embedding.parameters():
        weight.requires_grad_(False)
    inputs = torch.randint(0, 300, (4, 16))
    FastLossAndGrad(model)(model, inputs, inputs.roll(-1, 1), torch.float32, 64)
    assert model.embedding.weight.grad is None
    assert model.blocks[0].mlp.up.weight.grad.abs().sum() > 0


def test_compiled_blocks_train_the_models_own_weights(monkeypatch):
    compile, compiled = torch.nn.Module.compile, []

    def quickly(block, **options):  # all but the machine code
        compiled.append(block)
        compile(block, backend="eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", quickly)
    model, plain = random_model(seed=1, n_layer=3), random_model(seed=1, n_layer=3)
    fast, slow = FastLossAndGrad(model, compiled=True), FastLossAndGrad(plain)
    assert len(compiled) == 3
    for rows, length in ((4, 16), (3, 48)):
        inputs, targets = torch.randint(0, 300, (2, rows, length))
        fast(model, inputs, targets, torch.float32, rows * length)
        slow(plain, inputs, targets, torch.float32, rows * length)
    for got, wanted in zip(model.parameters(), plain.parameters()):
        torch.testing.assert_close(got.grad, wanted.grad, atol=1e-6, rtol=1e-4)


def test_bfloat16_products_change_the_loss_by_little():
    model = random_model()
    inputs = torch.randint(0, 300, (4, 64))
    losses = [
        fused_loss(model, inputs, inputs.roll(-1, 1), dtype, 256).item()
        for dtype in (torch.float32, torch.bfloat16)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


def test_threads_return_results_in_order_and_raise_a_failure():
    def work(number):
        assert torch.get_num_threads() == 1
        if number == 1:
            time.sleep(0.05)
        return number

    threads = torch.get_num_threads()
    assert run_threads([lambda n=n: work(n) for n in range(3)], cores=1) == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        run_threads([lambda: 1, lambda: 1 // 0])
    assert torch.get_num_threads() == threads
    try:
        torch.set_num_threads(3)
        run_threads([lambda: 1] * 2, cores=1)
        later = []  # a thread that begins afterwards has as many as PyTorch was given
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert later == [3]
    finally:
        torch.set_num_threads(threads)
