"""FastSampler gives the tokens of Sampler, and shares its work among threads."""

import random

import pytest
import torch
from helpers import random_model

from minislm.config import PRESETS, SampleConfig
from minislm.fast.engine import FastEngine
from minislm.fast.sampler import FastSampler
from minislm.sampler import Batch, Sampler

FAMILIES = {
    "llama": dict(n_layer=1),
    "gpt2": PRESETS["gpt2"] | dict(n_layer=2),
    "gpt-neo": PRESETS["gpt-neo"] | dict(windows=(0, 7)),
}
SETTINGS = {
    "greedy": dict(temperature=0.0),
    "temperature": dict(temperature=1.0),
    "top-k": dict(temperature=1.0, top_k=50),
    "top-p": dict(temperature=1.0, top_p=0.8),
    "min-p": dict(temperature=1.0, min_p=0.02),
    "all filters": dict(temperature=0.9, top_k=100, top_p=0.9, min_p=0.01),
    "penalty": dict(temperature=1.0, repetition_penalty=1.3),
    "stop strings": dict(temperature=1.0, stop_strings=("e", "th")),
    "log-probabilities": dict(temperature=1.0, top_k=50, logprobs=True),
}
PROMPTS = [[random.Random(n).randrange(300) for _ in range(1 + 7 * n % 60)] for n in range(70)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("batch_size", [1, 2, 5, 16, 64])
def test_the_matrix(family, settings, batch_size, tokenizer):
    """Same tokens and log-probabilities, whatever the family, the settings and the batch size."""
    model = random_model(seed=3, vocab_size=tokenizer.vocab_size, **FAMILIES[family])
    count = 12 if batch_size < 16 else 70
    options = SampleConfig(max_new_tokens=20, **SETTINGS[settings])
    arguments = (PROMPTS[:count], options, range(100, 100 + count))
    expected = Sampler(model, tokenizer, batch_size).continuations(*arguments)
    found = FastSampler(model, tokenizer, batch_size).continuations(*arguments)
    assert [new.ids for new in found] == [new.ids for new in expected]
    for one, other in zip(found, expected):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    if SETTINGS[settings]["temperature"]:
        assert len({tuple(new.ids) for new in found}) > count // 2


@pytest.mark.parametrize("vocabulary", [4096, 5003])
@pytest.mark.parametrize("settings", [dict(temperature=0.0), dict(temperature=1.0, top_k=50)])
def test_large_vocabularies(vocabulary, settings):
    """With all 4,096 tokens to sample from, a uniform number falls within rounding of a border once
    in a thousand tokens; with 50 it does not."""
    model = random_model(seed=3, vocab_size=vocabulary)
    options = dict(max_new_tokens=20, stop=False, seeds=range(70), **settings)
    expected = Sampler(model).generate_ids(PROMPTS, **options)
    assert FastSampler(model).generate_ids(PROMPTS, **options) == expected


def test_worker_threads_give_what_one_thread_gives(tokenizer):
    """With two threads the prompts are dealt to two workers; 300 of them pass through."""
    model, options = random_model(), dict(max_new_tokens=30, temperature=1.0, top_k=30)
    prompts, seeds = PROMPTS[:20] * 15, range(300)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = FastSampler(model, tokenizer, 16).generate_ids(prompts, seeds=seeds, **options)
        torch.set_num_threads(2)
        got = FastSampler(model, tokenizer, 16).generate_ids(prompts, seeds=seeds, **options)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert got == expected


def test_a_failure_in_a_worker_is_raised_in_the_caller(monkeypatch):
    sampler = FastSampler(random_model(), batch_size=16)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(Batch, "decode", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sampler.generate_ids(PROMPTS, max_new_tokens=5)


def test_after_a_failure_in_one_worker_the_others_take_no_more(monkeypatch):
    taken, failed, prefill = [], [], Batch.prefill

    def prefill_and_fail_once(self, new):
        prefill(self, new)
        taken.extend(new)
        if len(taken) > 40 and not failed:
            failed.append(True)
            raise ZeroDivisionError

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(Batch, "prefill", prefill_and_fail_once)
    with pytest.raises(ZeroDivisionError):
        FastSampler(random_model(), batch_size=16).generate_ids(PROMPTS * 15, max_new_tokens=5)
    assert len(taken) < 100  # of 1,050


def test_a_prompt_that_occurs_several_times_is_read_once(monkeypatch):
    read, read_once = [], FastEngine._read

    def counted(self, rows, prompts):
        read.extend(prompts)
        return read_once(self, rows, prompts)

    monkeypatch.setattr(FastEngine, "_read", counted)
    options = dict(max_new_tokens=10, temperature=1.0, stop=False)
    prompts = [PROMPTS[3]] * 3 + [PROMPTS[4]] * 2
    got = FastSampler(random_model(), batch_size=3).generate_ids(prompts, seeds=range(5), **options)
    assert read == [PROMPTS[3], PROMPTS[4]]  # once each: 3 rows, then 2
    alone = [
        FastSampler(random_model()).generate_ids([p], seeds=[s], **options)[0]
        for s, p in enumerate(prompts)
    ]
    assert got == alone and len(set(map(tuple, got))) == 5
