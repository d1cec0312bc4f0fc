"""Sampling settings so small or large that arithmetic in float32 reaches its limits."""

import pytest
import torch

from minislm.config import SampleConfig
from minislm.fast.topk import FastTokenSampler
from minislm.sampling import TokenSampler

LOGITS_BV = 20 * torch.randn(64, 500, generator=torch.Generator().manual_seed(0))
U_B = torch.rand(64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", [TokenSampler, FastTokenSampler])
@pytest.mark.parametrize("temperature", [9e-6, 1e-20, 1e-38, 1e-40, 1e-46, 5e-324])
@pytest.mark.parametrize("more", [{}, {"top_k": 7}, {"top_p": 0.9}, {"min_p": 0.1}], ids=str)
def test_a_temperature_near_zero_is_greedy(kind, temperature, more):
    SampleConfig(temperature=temperature, **more)  # it is allowed
    for logits_BV in (LOGITS_BV, LOGITS_BV.bfloat16()):
        greedy_B = kind(0.0)(logits_BV, U_B)
        assert torch.equal(kind(temperature, **more)(logits_BV, U_B), greedy_B)


@pytest.mark.parametrize("kind", [TokenSampler, FastTokenSampler])
@pytest.mark.parametrize("more", [{"top_p": 1e-40}, {"top_p": 5e-324}, {"top_k": 1}, {"min_p": 1}])
def test_the_most_probable_token_stays_whatever_is_left_out(kind, more):
    assert torch.equal(kind(1.0, **more)(LOGITS_BV, U_B), LOGITS_BV.argmax(-1))


@pytest.mark.parametrize("kind", [TokenSampler, FastTokenSampler])
def test_a_large_temperature_is_uniform(kind):
    tokens_B = kind(1e39)(LOGITS_BV, U_B)
    assert torch.equal(tokens_B, (U_B * 500).long()) or (tokens_B - U_B * 500).abs().max() < 1.01
