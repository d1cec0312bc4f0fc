"""Searches in two levels against the library."""

import pytest
import torch

from minislm.fast import topk
from minislm.fast.topk import FastTokenSampler


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


def test_the_vocabulary_of_gpt2_is_viewed_without_a_copy():
    logits = torch.zeros(1, 50_257)
    for about in (topk._ROWS, topk._ROWS_OF_TOP):
        assert topk._view(logits, about, 0.0).data_ptr() == logits.data_ptr()
