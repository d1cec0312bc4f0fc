"""Steps captured for a GPU: filled up to a few sizes, and still the model's own tokens.

What is captured is tried on any machine with a capture that only calls; the capture itself, and
what comes of it in the sampler, where there is a GPU.
"""

import pytest
import torch
from helpers import brute_force, random_prompts, random_model

from minislm.config import PRESETS
from minislm.fast.cuda_graphs import CapturedSteps, padded_rows
from minislm.fast.engine import Decoder, Engine
from minislm.fast.traced import Step
from minislm.kv_cache import rounded_up
from minislm.sampler import Sampler
from minislm.sampling import Choice

GREEDY = Choice(temperature=0.0)
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
SHAPES = {"llama": {}, "gpt2": PRESETS["gpt2"], "gpt-neo": PRESETS["gpt-neo"]}


def test_sizes_are_few_and_hold_what_is_asked():
    assert [padded_rows(n) for n in (1, 2, 3, 33, 64, 65, 1000)] == [1, 2, 4, 64, 64, 128, 1024]
    assert [rounded_up(n, 500) for n in (1, 64, 65, 449, 500)] == [64, 64, 128, 500, 500]


class Calls:
    """Captures that only call; it counts how often it was asked for one."""

    def __init__(self):
        self.captures = 0

    def __call__(self):
        return self.capture

    def capture(self, work):
        self.captures += 1
        work()  # a trial, as before a real capture: it must not harm what is in the cache
        return work


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Decoders that capture their steps, wherever they are."""
    calls = Calls()
    monkeypatch.setattr("minislm.fast.cuda_graphs.Capture", calls)
    of_cpu = Decoder.__init__

    def init(self, *arguments):
        of_cpu(self, *arguments)
        self.recorded, self.captured, self.stride = False, True, 16

    monkeypatch.setattr(Decoder, "__init__", init)
    return calls


@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_filled_up_rows_say_what_brute_force_says(as_on_a_gpu, shape):
    model = random_model(**SHAPES[shape])
    prompts = random_prompts((1, 40, 3, 59, 17))
    engine = Engine(Decoder(model, 5), 5, 120)
    assert engine.cache.k_LBKSD.shape[1] == 8  # three rows that nobody is in
    tokens = engine.prefill(range(5), prompts).argmax(-1)
    found, pos = [tokens[:, None]], torch.tensor([len(ids) for ids in prompts])
    for count in (16, 1, 16):
        end = int(pos.max()) + count
        found.append(engine.steps(tokens, pos, torch.zeros(5, count), GREEDY, end))
        tokens, pos = found[-1][:, -1], pos + count
    for row, ids in zip(torch.cat(found, 1).tolist(), prompts):
        assert row == brute_force(model, ids, len(row))


def test_a_cache_and_its_graphs_are_used_again(as_on_a_gpu):
    sampler = Sampler(random_model(), batch_size=3)
    prompts = random_prompts((5, 9, 2))
    first = sampler.generate_ids(prompts, max_new_tokens=40, temperature=0.0, stop=False)
    captures = as_on_a_gpu.captures
    again = sampler.generate_ids(prompts, max_new_tokens=40, temperature=0.0, stop=False)
    assert first == again and as_on_a_gpu.captures == captures


def test_what_is_drawn_is_what_single_steps_draw(as_on_a_gpu):
    sampler, prompts = Sampler(random_model(), batch_size=3), random_prompts((5, 9, 2))
    told = dict(max_new_tokens=40, temperature=1.0, stop=False, seeds=[1, 2, 3])
    one_by_one = sampler.generate_ids(prompts, logprobs=True, **told)  # not captured
    captures = as_on_a_gpu.captures
    assert sampler.generate_ids(prompts, **told) == one_by_one
    assert captures == 0 < as_on_a_gpu.captures


def test_streams_side_by_side_have_caches_of_their_own(as_on_a_gpu):
    model = random_model()
    sampler, prompts = Sampler(model, batch_size=1), random_prompts((5, 9))
    streams = [
        sampler.stream_ids([ids], max_new_tokens=40, temperature=0.0, stop=False)
        for ids in prompts
    ]
    said = list(zip(*streams))
    for number, ids in enumerate(prompts):
        assert [each[number][1] for each in said] == brute_force(model, ids, 40)


@torch.inference_mode()
def test_a_compiled_step_is_one_graph():
    """Nothing in a step stops torch's compiler, so that nothing stops a capture."""
    model = random_model()
    cache = Engine(Decoder(model, 2), 2, 64).cache
    arguments = (torch.tensor([3, 4]), torch.tensor([0, 0]), cache.k_LBKSD, cache.v_LBKSD)
    expected = Step(model, GREEDY)(*arguments, torch.zeros(2))
    step = torch.compile(Step(model, GREEDY), fullgraph=True, backend="eager")
    found = CapturedSteps(step, capture=Calls())(*arguments, torch.zeros(2, 1))[:, 0]
    assert torch.equal(found, expected)


@on_gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_gpu_says_what_brute_force_says(shape, compiled):
    model = random_model(**SHAPES[shape])
    prompts = random_prompts((1, 40, 3, 59, 17, 4, 4))
    expected = [brute_force(model, ids, 50) for ids in prompts]
    sampler = Sampler(model.to("cuda"), batch_size=1 if compiled else 3, compiled=compiled)
    found = sampler.generate_ids(prompts, max_new_tokens=50, temperature=0.0, stop=False)
    assert found == expected


@on_gpu
def test_on_a_gpu_a_text_does_not_depend_on_the_batch():
    model, prompts = random_model().to("cuda"), random_prompts(range(1, 40))
    told = dict(max_new_tokens=50, temperature=1.0, top_k=50, stop=False)
    seeds = list(range(len(prompts)))
    alone = Sampler(model, batch_size=1).generate_ids(prompts, seeds=seeds, **told)
    for rows in (3, 64):
        together = Sampler(model, batch_size=rows).generate_ids(prompts, seeds=seeds, **told)
        same = sum(a == b for a, b in zip(alone, together))
        assert same >= len(prompts) - 1  # but for a tie in the last bit
