"""The fast engine: traced, in a growing cache, and still the numbers of the model."""

import pytest
import torch
from helpers import brute_force, random_model, random_prompts

from minislm.config import PRESETS
from minislm.fast.engine import FastEngine, PreparedModel
from minislm.fast.linear import prepack
from minislm.fast.topk import FastTokenSampler
from minislm.fast.traced import Step, Steps, Trace, trace_steps
from minislm.kv_cache import KVCache
from minislm.sampling import TokenSampler

FAMILIES = {
    "llama": {},
    "gpt2": PRESETS["gpt2"],
    "gpt-neo": PRESETS["gpt-neo"] | {"windows": (0, 7)},
}
GREEDY = TokenSampler(temperature=0.0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sample", [FastTokenSampler(0.0), FastTokenSampler(1.0, top_k=9)], ids=str)
def test_a_trace_computes_what_was_traced(family, sample):
    model = prepack(random_model(**FAMILIES[family]), "float32", 3)
    steps, trace = Steps(Step(model, sample)), trace_steps(Step(model, sample))
    generator = torch.Generator().manual_seed(2)
    # Other shapes than the traced one, and other numbers of steps.
    for rows, length, count in ((2, 5, 4), (3, 40, 8), (7, 16, 1)):
        shape = (2, rows, model.config.kv_heads, length, model.config.head_width)
        k, v = (torch.randn(shape, generator=generator) for _ in range(2))
        tokens = torch.randint(0, 300, (rows,), generator=generator)
        pos = torch.randint(0, length - count + 1, (rows,), generator=generator)
        u = torch.rand(rows, count, generator=generator)
        ours = [k.clone(), v.clone()]
        with torch.inference_mode():
            expected = steps(tokens, pos, *ours, u)
            found = trace(tokens, pos, k, v, u)
        assert torch.equal(found, expected)
        torch.testing.assert_close(k, ours[0])
        torch.testing.assert_close(v, ours[1])


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_prefill_is_the_same_traced_and_not(family):
    """Prompts of every length, also one that a window of the model cuts."""
    model = random_model(**FAMILIES[family])
    prepared = PreparedModel(model, 3)
    for length in (3, 1, 7, 40, 64, 2):  # the first one is read without a trace
        prompts = random_prompts((length, max(1, length - 1), length))
        engine = FastEngine(prepared, 3, 100)
        for ids, logits in zip(prompts, engine.prefill(range(3), prompts)):
            expected = model(torch.tensor([ids]))[0, -1]
            torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
        for row, ids in enumerate(prompts):
            cache = KVCache.empty(model.config, 1, len(ids), like=prepared.like)
            model(torch.tensor([ids]), cache, torch.arange(len(ids))[None])
            found = engine.cache.k_LBKSD[:, row, :, : len(ids)]
            torch.testing.assert_close(found, cache.k_LBKSD[:, 0], atol=1e-4, rtol=1e-4)
    assert isinstance(prepared.prefill(2), Trace) == prepared.traced


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_an_engine_decodes_what_brute_force_decodes(family):
    model = random_model(**FAMILIES[family])
    prompts = random_prompts((1, 40, 3, 59, 17))
    engine = FastEngine(PreparedModel(model, 5), 5, 100)
    tokens = engine.prefill(range(5), prompts).argmax(-1)
    found, pos = [tokens[:, None]], torch.tensor([len(ids) for ids in prompts])
    for count in (8, 1, 8, 8, 8):  # beyond 64 positions: the cache has to grow
        found.append(engine.decode(tokens, pos, torch.zeros(5, count), GREEDY))
        tokens, pos = found[-1][:, -1], pos + count
    for row, ids in zip(torch.cat(found, 1).tolist(), prompts):
        assert row == brute_force(model, ids, len(row))


@torch.inference_mode()
def test_a_moved_row_continues_where_it_was():
    model = random_model()
    prompts = random_prompts((9, 30))
    engine = FastEngine(PreparedModel(model, 3), 3, 128)
    engine.prefill([1, 2], prompts)
    engine.move(2, 0)
    pos = torch.tensor([30, 9, 30])
    found = engine.decode(torch.tensor([7, 7, 7]), pos, torch.zeros(3, 8), GREEDY)
    for row, ids in zip(found.tolist(), (prompts[1], prompts[0], prompts[1])):
        assert row == brute_force(model, [*ids, 7], 8)


@torch.inference_mode()
def test_an_engine_does_not_exceed_its_length():
    prepared = PreparedModel(random_model(context=24), 1)
    engine = FastEngine(prepared, 1, 20)
    engine.prefill([0], random_prompts((15,)))
    with pytest.raises(ValueError, match="exceed"):
        engine.decode(torch.tensor([1]), torch.tensor([17]), torch.zeros(1, 8), GREEDY)
