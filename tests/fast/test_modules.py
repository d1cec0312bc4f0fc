"""Drop-in modules give the results of those of model.py."""

import copy

import pytest
import torch
from helpers import random_model
from torch.nn import functional as F

from minislm.fast.modules import (
    BlockedAttention,
    FusedRMSNorm,
    LoopAttention,
    SingleQueryAttention,
    copy_with,
)
from minislm.model import Attention, RMSNorm, causal_mask


def attention_like(heads, kv_heads, D, scale=0.3):
    attention = random_model(n_head=heads, n_kv_head=kv_heads, head_dim=D).blocks[0].attention
    attention.scale = scale
    return attention


def as_kind(kind, attention):
    twin = copy.copy(attention)
    twin.__class__ = kind  # as `copy_with` makes it
    return twin


@pytest.mark.parametrize("tokens", [1, 127, 128, 300])
@pytest.mark.parametrize("key_heads", [2, 4])
def test_blocked_attention_is_attention_with_its_gradients(tokens, key_heads, monkeypatch):
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: True)
    shapes = [(3, heads, tokens, 8) for heads in (4, key_heads, key_heads)]
    q, k, v = (torch.randn(shape, requires_grad=True) for shape in shapes)
    weight = torch.randn(shapes[0])
    plain = attention_like(4, key_heads, 8)
    ours = as_kind(BlockedAttention, plain).attend(q, k, v, None)
    theirs = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    for got, wanted in zip(
        torch.autograd.grad((ours * weight).sum(), (q, k, v)),
        torch.autograd.grad((theirs * weight).sum(), (q, k, v)),
    ):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("heads, kv_heads, window", [(4, 4, 0), (4, 2, 0), (6, 2, 5)])
@torch.inference_mode()
def test_attention_of_a_single_query(heads, kv_heads, window):
    B, S, D = 3, 20, 8
    q = torch.randn(B, 1, heads, D).transpose(1, 2)
    k, v = torch.randn(2, B, kv_heads, 40, D)[:, :, :, :S]
    mask = causal_mask(torch.tensor([[4], [19], [0]]), S, window)[:, None]
    plain = attention_like(heads, kv_heads, D)
    wanted = plain.attend(q, k, v, mask)
    assert wanted.shape == (B, heads, 1, D)
    for kind in (SingleQueryAttention, LoopAttention):
        torch.testing.assert_close(as_kind(kind, plain).attend(q, k, v, mask), wanted)
        rough = as_kind(kind, plain).attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask)
        assert rough.dtype == torch.bfloat16
        torch.testing.assert_close(rough.float(), wanted, atol=0.03, rtol=0.03)


def test_a_copy_with_other_modules_shares_the_parameters():
    model = random_model()
    twin = copy_with(model, {Attention: BlockedAttention, RMSNorm: FusedRMSNorm})
    assert type(twin.blocks[1].attention) is BlockedAttention and type(twin.norm) is FusedRMSNorm
    assert type(model.blocks[1].attention) is Attention  # the given one is unchanged
    assert all(a is b for a, b in zip(twin.parameters(), model.parameters()))
    frozen = copy_with(model, {}, frozen=True)
    assert not any(weight.requires_grad for weight in frozen.parameters())
    assert frozen.head.weight is frozen.embedding.weight
    assert frozen.embedding.weight.data_ptr() == model.embedding.weight.data_ptr()
    tokens = torch.randint(0, 300, (2, 30))
    torch.testing.assert_close(twin(tokens), model(tokens), atol=1e-5, rtol=1e-4)
