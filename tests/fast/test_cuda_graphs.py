"""Decode steps as CUDA graphs: padded to a few sizes, and still the tokens of the model.

What is captured is tested on any machine with a capture that only calls; the capture itself, and
its result in the sampler, where there is a GPU.
"""

import pytest
import torch
from helpers import brute_force, random_model, random_prompts

from minislm.config import PRESETS
from minislm.fast.cuda_graphs import CUDAGraphSteps, padded_rows
from minislm.fast.engine import FastEngine, PreparedModel
from minislm.fast.kv_cache import rounded_up
from minislm.fast.sampler import FastSampler
from minislm.fast.topk import FastTokenSampler
from minislm.fast.traced import Step
from minislm.sampler import Sampler
from minislm.sampling import TokenSampler

GREEDY = TokenSampler(temperature=0.0)
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
SHAPES = {"llama": {}, "gpt2": PRESETS["gpt2"], "gpt-neo": PRESETS["gpt-neo"]}


def test_sizes_are_few_and_large_enough():
    assert [padded_rows(n) for n in (1, 2, 3, 33, 64, 65, 1000)] == [1, 2, 4, 64, 64, 128, 1024]
    assert [rounded_up(n, 500) for n in (1, 64, 65, 449, 500)] == [64, 64, 128, 500, 500]


class Calls:
    """Captures that only call; it counts them."""

    def __init__(self):
        self.captures = 0

    def __call__(self):
        return self.capture

    def capture(self, work):
        self.captures += 1
        work()  # a warm-up, as before a real capture: it must not harm the cache
        return work


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Prepared models that use CUDA graphs, on any device."""
    calls = Calls()
    monkeypatch.setattr("minislm.fast.cuda_graphs.Capture", calls)
    prepare = PreparedModel.__init__

    def init(self, *arguments):
        prepare(self, *arguments)
        self.traced, self.cuda, self.steps = False, True, 16

    monkeypatch.setattr(PreparedModel, "__init__", init)
    return calls


@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_padded_rows_decode_what_brute_force_decodes(as_on_a_gpu, shape):
    model = random_model(**SHAPES[shape])
    prompts = random_prompts((1, 40, 3, 59, 17))
    engine = FastEngine(PreparedModel(model, 5), 5, 120)
    assert engine.cache.k_LBKSD.shape[1] == 8  # three free rows
    tokens = engine.prefill(range(5), prompts).argmax(-1)
    found, pos = [tokens[:, None]], torch.tensor([len(ids) for ids in prompts])
    for count in (16, 1, 16):
        found.append(engine.decode(tokens, pos, torch.zeros(5, count), GREEDY))
        tokens, pos = found[-1][:, -1], pos + count
    for row, ids in zip(torch.cat(found, 1).tolist(), prompts):
        assert row == brute_force(model, ids, len(row))


def test_a_cache_and_its_graphs_are_used_again(as_on_a_gpu):
    sampler = FastSampler(random_model(), batch_size=3)
    prompts = random_prompts((5, 9, 2))
    first = sampler.generate_ids(prompts, max_new_tokens=40, temperature=0.0, stop=False)
    captures = as_on_a_gpu.captures
    again = sampler.generate_ids(prompts, max_new_tokens=40, temperature=0.0, stop=False)
    assert first == again and as_on_a_gpu.captures == captures


def test_tokens_are_those_of_the_plain_sampler(as_on_a_gpu):
    model, prompts = random_model(), random_prompts((5, 9, 2))
    options = dict(max_new_tokens=40, temperature=1.0, stop=False, seeds=[1, 2, 3])
    plain = Sampler(model, batch_size=3).generate_ids(prompts, **options)
    assert FastSampler(model, batch_size=3).generate_ids(prompts, **options) == plain
    assert as_on_a_gpu.captures > 0


def test_streams_side_by_side_have_caches_of_their_own(as_on_a_gpu, tokenizer):
    model = random_model(vocab_size=tokenizer.vocab_size)
    sampler, prompts = FastSampler(model, tokenizer, batch_size=1), ("Once", "A dog")
    options = dict(max_new_tokens=40, temperature=0.0, stop=False)
    streams = [sampler.stream(prompt, **options) for prompt in prompts]
    parts = list(zip(*streams))
    for number, prompt in enumerate(prompts):
        alone = FastSampler(model, tokenizer).generate([prompt], **options)[0]
        assert "".join(part[number] for part in parts).startswith(alone[:20])


@torch.inference_mode()
def test_a_compiled_step_is_one_graph():
    """Nothing in a step stops the compiler, so nothing stops a capture."""
    model, sample = random_model(), FastTokenSampler(temperature=0.0)
    cache = FastEngine(PreparedModel(model, 2), 2, 64).cache
    arguments = (torch.tensor([3, 4]), torch.tensor([0, 0]), cache.k_LBKSD, cache.v_LBKSD)
    expected = Step(model, sample)(*arguments, torch.zeros(2))
    step = torch.compile(Step(model, sample), fullgraph=True, backend="eager")
    found = CUDAGraphSteps(step, capture=Calls())(*arguments, torch.zeros(2, 1))[:, 0]
    assert torch.equal(found, expected)


@on_gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_gpu_decodes_what_brute_force_decodes(shape, compiled):
    model = random_model(**SHAPES[shape])
    prompts = random_prompts((1, 40, 3, 59, 17, 4, 4))
    expected = [brute_force(model, ids, 50) for ids in prompts]
    sampler = FastSampler(model.to("cuda"), batch_size=1 if compiled else 3, compiled=compiled)
    found = sampler.generate_ids(prompts, max_new_tokens=50, temperature=0.0, stop=False)
    assert found == expected


@on_gpu
def test_on_a_gpu_a_text_does_not_depend_on_the_batch():
    model, prompts = random_model().to("cuda"), random_prompts(range(1, 40))
    options = dict(max_new_tokens=50, temperature=1.0, top_k=50, stop=False)
    seeds = list(range(len(prompts)))
    alone = Sampler(model, batch_size=1).generate_ids(prompts, seeds=seeds, **options)
    for rows in (1, 3, 64):
        sampler = FastSampler(model, batch_size=rows)
        together = sampler.generate_ids(prompts, seeds=seeds, **options)
        same = sum(a == b for a, b in zip(alone, together))
        assert same >= len(prompts) - 1  # but for a tie in the last bit
