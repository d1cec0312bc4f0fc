"""Small models for tests, and comparisons of their logits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from helpers import random_model

from minislm.kv_cache import KVCache
from minislm.model import Transformer
from minislm.pretrained.load import load
from minislm.pretrained.rope import scaled_rotary_tables
from minislm.runtime.errors import CheckpointError

VOCAB, CONTEXT = 400, 128
LLAMA3_ROPE = dict(
    rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=64,
)  # fmt: skip


def our_model(**options) -> Transformer:
    """A random model; one with a rope_scaling computes it, as `load` makes it."""
    scaling = options.pop("rope_scaling", None)
    model = random_model(vocab_size=VOCAB, **options)
    if scaling is not None:
        model.config = replace(model.config, rope_scaling=scaling)
        model.cos, model.sin = scaled_rotary_tables(model.config)
    return model


def texts(lengths=(90, 3, 41)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, VOCAB, (n,), generator=generator) for n in lengths]


def padded(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded tokens and their mask."""
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return tokens, torch.arange(tokens.shape[1]) < torch.tensor([[len(row)] for row in rows])


@torch.no_grad()
def cached_logits(model, tokens, first: int = 30) -> torch.Tensor:
    """The same logits in two halves: a prompt at once, the rest token by token."""
    rows, length = tokens.shape
    cache = KVCache.empty(model.config, rows, length, like=model.embedding.weight)
    parts = [model(tokens[:, :first], cache, torch.arange(first).expand(rows, first))]
    for at in range(first, length):
        parts.append(model(tokens[:, at : at + 1], cache, torch.full((rows, 1), at)))
    return torch.cat(parts, dim=1)


@torch.no_grad()
def greedy(model, prompt: torch.Tensor, steps: int) -> list[int]:
    cache = KVCache.empty(model.config, 1, len(prompt) + steps, like=model.embedding.weight)
    tokens, pos, found = prompt[None], torch.arange(len(prompt))[None], []
    for _ in range(steps):
        tokens = model(tokens, cache, pos)[:, -1:].argmax(-1)
        pos = pos[:, -1:] + 1
        found.append(int(tokens))
    return found


def assert_same(ours, theirs) -> None:
    """Equal logits at all real positions, with and without cache, and the same greedy tokens."""
    tokens, real = padded(texts())
    with torch.no_grad():
        expected = theirs(tokens, attention_mask=real.long()).logits
        got = ours(tokens)
    assert expected.std() > 0.3  # else anything would be close
    assert (got - expected)[real].abs().max() < 1e-4
    assert (cached_logits(ours, tokens) - expected)[real].abs().max() < 1e-4
    prompt = texts((9,))[0]
    theirs.generation_config.eos_token_id = None
    wanted = theirs.generate(
        prompt[None], attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        max_new_tokens=100, do_sample=False, pad_token_id=0,
    )[0, len(prompt) :]  # fmt: skip
    assert greedy(ours, prompt, 100) == wanted.tolist()


def refused(source, *words: str, error: type = CheckpointError) -> str:
    """Load it: the error is one line with all the words."""
    with pytest.raises(error) as caught:
        load(source)
    message = str(caught.value)
    for word in words:
        assert word in message, message
    assert "weights_only" not in message
    assert len(message.splitlines()) == 1, message
    return message
