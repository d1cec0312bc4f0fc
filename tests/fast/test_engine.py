"""The decode step: packed, recorded, in a growing cache, and still the model's own numbers."""

import pytest
import torch
from helpers import brute_force, random_prompts, random_model

from minislm.config import PRESETS
from minislm.fast.engine import Decoder, Engine
from minislm.fast.linear import pack
from minislm.fast.traced import Recording, Step, Steps, record_steps
from minislm.kv_cache import KVCache

FAMILIES = {
    "llama": {},
    "gpt2": PRESETS["gpt2"],
    "gpt-neo": PRESETS["gpt-neo"] | {"windows": (0, 7)},
}


def greedy(logits_BV, u_B):
    return logits_BV.argmax(-1)


def by_uniform(logits_BV, u_B):
    cdf_BV = logits_BV.float().softmax(-1).cumsum(-1)
    return (cdf_BV <= u_B[:, None] * cdf_BV[:, -1:]).sum(-1).clamp(max=cdf_BV.shape[1] - 1)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rows", [1, 5])
def test_the_packed_model_gives_the_same_logits(family, rows):
    model = random_model(**FAMILIES[family])
    tokens = torch.randint(0, 300, (rows, 20), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, found = model(tokens), pack(model, "float32", rows)(tokens)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_packing_leaves_the_model_alone():
    model = random_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    pack(model, "int8", 4), pack(model, "bfloat16", 4)
    pack(model, "float32", 4), Decoder(model, 2)
    assert model.embedding.weight.dtype == torch.float32
    assert all(weight.requires_grad for weight in model.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("precision, error", [("bfloat16", 0.05), ("int8", 0.06)])
def test_reduced_precision_stays_close(monkeypatch, precision, error):
    monkeypatch.setattr("minislm.fast.linear._INT8_FROM", 1)
    model = random_model()
    tokens = torch.randint(0, 300, (4, 30), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, found = model(tokens), pack(model, precision, 4)(tokens).float()
    assert (found - expected).norm() < error * expected.norm()
    assert not torch.allclose(found, expected, atol=1e-5)  # it is not float32 in disguise


def test_a_row_in_int8_does_not_depend_on_its_neighbours(monkeypatch):
    monkeypatch.setattr("minislm.fast.linear._INT8_FROM", 1)
    model = pack(random_model(), "int8", 4)
    quiet, loud = torch.full((1, 8), 5), torch.arange(8)[None]
    with torch.inference_mode():
        alone, together = model(quiet), model(torch.cat((quiet, loud)))[:1]
    torch.testing.assert_close(alone, together, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("choose", [greedy, by_uniform])
def test_a_recording_does_what_it_recorded(family, choose):
    model = pack(random_model(**FAMILIES[family]), "float32", 3)
    steps, recording = Steps(Step(model, choose)), record_steps(Step(model, choose))
    generator = torch.Generator().manual_seed(2)
    # Other shapes than the recorded one, and other numbers of steps.
    for rows, slots, count in ((2, 5, 4), (3, 40, 8), (7, 16, 1)):
        shape = (2, rows, model.config.kv_heads, slots, model.config.head_width)
        k, v = (torch.randn(shape, generator=generator) for _ in range(2))
        tokens = torch.randint(0, 300, (rows,), generator=generator)
        pos = torch.randint(0, slots - count + 1, (rows,), generator=generator)
        u = torch.rand(rows, count, generator=generator)
        ours = [k.clone(), v.clone()]
        with torch.inference_mode():
            expected = steps(tokens, pos, *ours, u)
            found = recording(tokens, pos, k, v, u)
        assert torch.equal(found, expected)
        torch.testing.assert_close(k, ours[0])
        torch.testing.assert_close(v, ours[1])


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_prompts_are_read_the_same_by_a_recording_and_without(family):
    """Every length has to do, also one that a window of the model cuts."""
    model = random_model(**FAMILIES[family])
    decoder = Decoder(model, 3)
    for length in (3, 1, 7, 40, 64, 2):  # the first is read without a recording
        prompts = random_prompts((length, max(1, length - 1), length))
        engine = Engine(decoder, 3, 100)
        for ids, logits in zip(prompts, engine.prefill(range(3), prompts)):
            expected = model(torch.tensor([ids]))[0, -1]
            torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
        for row, ids in enumerate(prompts):
            cache = KVCache(model.config, 1, len(ids), decoder.like)
            model(torch.tensor([ids]), cache, torch.arange(len(ids))[None])
            found = engine.cache.k_LBKSD[:, row, :, : len(ids)]
            torch.testing.assert_close(found, cache.k_LBKSD[:, 0], atol=1e-4, rtol=1e-4)
    assert isinstance(decoder.reading(2), Recording) == decoder.recorded


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_an_engine_says_what_brute_force_says(family):
    model = random_model(**FAMILIES[family])
    prompts = random_prompts((1, 40, 3, 59, 17))
    engine = Engine(Decoder(model, 5), 5, 100)
    tokens = engine.prefill(range(5), prompts).argmax(-1)
    found, pos = [tokens[:, None]], torch.tensor([len(ids) for ids in prompts])
    for count in (8, 1, 8, 8, 8):  # on past 64 slots: the cache has to grow
        end = int(pos.max()) + count
        found.append(engine.steps(tokens, pos, torch.zeros(5, count), greedy, end))
        tokens, pos = found[-1][:, -1], pos + count
    for row, ids in zip(torch.cat(found, 1).tolist(), prompts):
        assert row == brute_force(model, ids, len(row))


@torch.inference_mode()
def test_step_and_copied_rows_give_the_next_logits():
    model = random_model()
    prompts = random_prompts((9, 30))
    engine = Engine(Decoder(model, 3), 3, 128)
    engine.prefill([1, 2], prompts)
    engine.copy([0], [2])
    found = engine.step(torch.tensor([7, 7, 7]), torch.tensor([30, 9, 30]))
    for row, ids in zip(found, (prompts[1], prompts[0], prompts[1])):
        expected = model(torch.tensor([ids + [7]]))[0, -1]
        torch.testing.assert_close(row, expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_an_engine_does_not_grow_past_its_slots():
    engine = Engine(Decoder(random_model(), 1), 1, 20)
    engine.prefill([0], random_prompts((15,)))
    with pytest.raises(ValueError, match="exceed"):
        engine.steps(torch.tensor([1]), torch.tensor([15]), torch.zeros(1, 8), greedy, 23)
