"""Searches in two levels, and the k largest in compiled steps, against the library."""

import subprocess
import sys

import pytest
import torch

from minislm.fast import topk
from minislm.fast.topk import FastTokenSampler, partition_topk


@pytest.mark.parametrize("rows", [9, 70])
@pytest.mark.parametrize("vocabulary", [7, 64, 100, 4096, 5003])
def test_two_levels_find_what_one_finds(vocabulary, rows):
    logits = torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(3))
    fast = FastTokenSampler(1.0)
    assert torch.equal(fast.argmax(logits), logits.argmax(-1))
    for k in {1, min(50, vocabulary)}:
        values, ids = fast.largest(logits, k)
        assert torch.equal(values, logits.topk(k).values)
        assert torch.equal(ids, logits.topk(k).indices)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])  # many are equal in bfloat16
@pytest.mark.parametrize("vocabulary, k", [(7, 6), (64, 64), (4096, 50), (5003, 700), (70_000, 9)])
def test_the_k_largest_in_compiled_steps(vocabulary, k, dtype, monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(topk, "_MANY", 9)
    logits = torch.randn(9, vocabulary, generator=torch.Generator().manual_seed(3)).to(dtype)
    logits[0], logits[1, 3:], logits[2, ::2] = 1.5, -torch.inf, -0.0
    before = logits.clone()
    for values, ids in (
        FastTokenSampler(1.0).largest(logits, k),
        partition_topk(logits, torch.arange(vocabulary).expand(9, -1), k, below=vocabulary),
    ):
        assert torch.equal(values.to(dtype), logits.topk(k).values)
        assert torch.equal(values.to(dtype), logits.gather(1, ids))
        assert all(len(set(row)) == k for row in ids.tolist())
    assert torch.equal(ids[0], torch.arange(k))  # of equal ones the first
    assert torch.equal(logits, before)


def test_no_operator_is_registered_at_import():
    code = "import torch, minislm.fast.topk; assert not hasattr(torch.ops.minislm, 'k_smallest')"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_vocabulary_of_gpt2_is_viewed_without_a_copy():
    logits = torch.zeros(1, 50_257)
    for about in (topk._ROWS, topk._ROWS_OF_TOP):
        assert topk._view(logits, about).data_ptr() == logits.data_ptr()
