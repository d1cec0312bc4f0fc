"""Muon, AdamW and the schedule: against their definitions and against the library's Muon."""

import pytest
import torch
from helpers import random_model
from torch.nn import functional as F

from minislm import optimizer
from minislm.config import TrainConfig
from minislm.optimizer import Muon, make_optimizers, orthogonalize, schedule
from minislm.runtime.errors import UserError


@pytest.mark.parametrize("shape", [(64, 256), (256, 64), (64, 128), (3, 64, 128)])
def test_orthogonalize_moves_all_singular_values_close_to_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    matrix[..., 0] *= 30
    found = orthogonalize(matrix)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.4 and values.max() < 1.4
    # The directions stay: the nearest orthogonal matrix is U V^T of the matrix's own SVD.
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    assert F.cosine_similarity((u @ v).flatten(), found.flatten(), dim=0) > 0.9


def test_one_step_without_row_norm_is_that_of_the_librarys_muon(monkeypatch):
    """torch.optim.Muon has the same momentum, iteration, scaling and decay, and no row norm."""
    library = getattr(torch.optim, "Muon", None)
    if library is None:
        pytest.skip("this version of PyTorch has no Muon")
    monkeypatch.setattr(
        optimizer, "normalized_update", lambda momentum, *_: orthogonalize(momentum)
    )
    generator = torch.Generator().manual_seed(1)
    start, grads = torch.randn(2, 96, 32, generator=generator)[0], []
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    muon = Muon([{"params": [ours], "weight_decay": 0.1}], lr=0.02, momentum=0.95)
    peer = library([theirs], lr=0.02, momentum=0.95, weight_decay=0.1, nesterov=True)
    for _ in range(3):
        grads.append(torch.randn(96, 32, generator=generator))
        ours.grad, theirs.grad = grads[-1].clone(), grads[-1].clone()
        muon.step()
        peer.step()
    assert not torch.allclose(ours, start, atol=1e-3)
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)  # both iterate in bfloat16


def test_the_rows_of_an_update_are_equally_large():
    momentum = torch.randn(32, 64) * torch.linspace(0.1, 3, 32)[:, None]
    row_power = torch.zeros(32, 1)
    update = optimizer.normalized_update(momentum, row_power, 1, torch.float32)
    norms = update.norm(dim=1)
    assert norms.std() < 0.01 * norms.mean()
    assert float(update.norm()) == pytest.approx(float(orthogonalize(momentum).norm()), rel=0.05)
    assert row_power.gt(0).all()


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_only_matrices_decay_and_every_weight_is_in_one_group(kind):
    model = random_model(norm="layernorm", mlp="gelu", mlp_bias=True, position="learned")
    optimizers = make_optimizers(model, TrainConfig(optimizer=kind))
    groups = [group for each in optimizers for group in each.param_groups]
    grouped = [id(weight) for group in groups for weight in group["params"]]
    assert sorted(grouped) == sorted(id(weight) for weight in model.parameters())
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


def test_momentum_is_that_of_the_config():
    muon = make_optimizers(random_model(), TrainConfig(momentum=0.7))[0]
    assert {group["momentum"] for group in muon.param_groups} == {0.7}
    with pytest.raises(UserError, match="--momentum"):
        TrainConfig(momentum=1.0)


def test_the_schedule_rises_and_falls():
    assert schedule(0.0, 0.1, 0.5) < 0.01 and schedule(0.05, 0.1, 0.5) == pytest.approx(0.5)
    assert schedule(0.1, 0.1, 0.5) == schedule(0.5, 0.1, 0.5) == pytest.approx(1.0)
    assert schedule(0.75, 0.1, 0.5) == pytest.approx(0.5)
    assert schedule(1.0, 0.1, 0.5) == pytest.approx(0.0)
    falling = [schedule(p / 100, 0.1, 0.5) for p in range(10, 101)]
    assert falling == sorted(falling, reverse=True)
