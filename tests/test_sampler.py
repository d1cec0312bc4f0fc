"""The sampler: against the plain loop, against the softmax, and whatever the neighbours are."""

import gc
import random

import pytest
import torch
from helpers import brute_force, random_model

from minislm.config import PRESETS, SampleConfig
from minislm.runtime.errors import UserError
from minislm.sampler import Sampler

PROMPTS = [
    [random.Random(n).randrange(300) for _ in range(1 + 7 * n % 60)] for n in range(20)
]  # 1 to 57 tokens


@pytest.mark.parametrize("preset", ["one-block", "gpt2", "gpt-neo"])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_greedy_is_the_uncached_loop(preset, batch_size):
    model = random_model(**(PRESETS[preset] | {"n_layer": 2}))
    got = Sampler(model, batch_size=batch_size).generate_ids(
        PROMPTS, max_new_tokens=12, temperature=0.0, stop=False
    )
    assert got == [brute_force(model, prompt, 12) for prompt in PROMPTS]


SETTINGS = [
    dict(),
    dict(temperature=0.0),
    dict(top_k=20),
    dict(top_p=0.7),
    dict(top_k=40, top_p=0.7),
    dict(min_p=0.05),
    dict(repetition_penalty=1.3),
    dict(min_new_tokens=10),
    dict(logprobs=True),
    dict(stop_strings=("e", "th")),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_text_depends_on_its_prompt_and_seed_alone(settings, tokenizer):
    model = random_model()
    options = dict(max_new_tokens=40, temperature=1.0) | settings
    seeds = list(range(len(PROMPTS)))
    order = random.Random(3).sample(seeds, len(seeds))
    expected = Sampler(model, tokenizer, 1).generate_ids(PROMPTS, seeds=seeds, **options)
    assert len({tuple(ids) for ids in expected}) == len(PROMPTS)
    for batch_size in (3, 64):
        got = Sampler(model, tokenizer, batch_size).generate_ids(
            [PROMPTS[i] for i in order], seeds=[seeds[i] for i in order], **options
        )
        assert got == [expected[i] for i in order]


def test_rows_end_at_the_end_of_text_at_the_limit_and_at_the_context(tokenizer):
    model = random_model()
    eot = tokenizer.eot_id
    ids = Sampler(model, tokenizer, 4).generate_ids(
        PROMPTS, max_new_tokens=400, temperature=1.5, seeds=range(20)
    )
    ended = [new[-1] == eot for new in ids]
    assert any(ended) and not all(ended)
    for prompt, new, end in zip(PROMPTS, ids, ended):
        assert eot not in new[:-1]
        assert end or len(prompt) + len(new) == model.config.context
    on = Sampler(model, tokenizer).generate_ids(
        PROMPTS, max_new_tokens=30, temperature=1.5, stop=False
    )
    assert all(len(new) == 30 for new in on)


def test_streamed_text_is_the_generated_text(tokenizer):
    sampler = Sampler(random_model(vocab_size=tokenizer.vocab_size), tokenizer)
    options = dict(max_new_tokens=60, temperature=1.0, seed=4)
    assert "".join(sampler.stream("Once", **options)) == sampler.generate(["Once"], **options)[0]


class Plain(torch.nn.Module):
    """A model with nothing but `forward`."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens):
        return self.model(tokens)


OPTIONS = [
    dict(temperature=0.0),
    dict(temperature=1.0, top_k=20),
    dict(temperature=1.0, min_p=0.1, repetition_penalty=1.2),
    dict(temperature=1.2, min_new_tokens=9),
    dict(beams=3),
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_model_without_a_cache_says_the_same(options, tokenizer):
    model, options = random_model(), dict(max_new_tokens=20, **options)
    expected = Sampler(model, tokenizer, 4).generate_ids(PROMPTS, seeds=range(20), **options)
    got = Sampler(Plain(model), tokenizer, 7).generate_ids(PROMPTS, seeds=range(20), **options)
    assert got == expected


def test_lanes_say_what_one_lane_says(tokenizer):
    """With two threads the batch is dealt out to two lanes, and 300 prompts pass through them."""
    model, options = random_model(), dict(max_new_tokens=30, temperature=1.0, top_k=30)
    prompts, seeds = PROMPTS * 15, range(300)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = Sampler(model, tokenizer, 16).generate_ids(prompts, seeds=seeds, **options)
        torch.set_num_threads(2)
        got = Sampler(model, tokenizer, 16).generate_ids(prompts, seeds=seeds, **options)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert got == expected


@pytest.mark.parametrize("extra", [dict(logprobs=True), dict(min_new_tokens=1)], ids=str)
def test_a_text_does_not_depend_on_how_far_or_in_how_many_steps_it_is_made(extra):
    sampler = Sampler(random_model(), batch_size=3)
    options = dict(temperature=1.0, seeds=range(20), stop=False)
    short = sampler.generate_ids(PROMPTS, max_new_tokens=10, **options)
    long = sampler.generate_ids(PROMPTS, max_new_tokens=33, **options)
    assert [ids[:10] for ids in long] == short
    assert sampler.generate_ids(PROMPTS, max_new_tokens=33, **options, **extra) == long


def test_weights_that_have_changed_are_the_ones_used():
    model, options = random_model(), dict(max_new_tokens=8, temperature=0.0)
    sampler = Sampler(model)
    before = sampler.generate_ids(PROMPTS, **options)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(-0.7)
    after = sampler.generate_ids(PROMPTS, **options)
    assert after == Sampler(model).generate_ids(PROMPTS, **options) != before


def test_a_limit_far_beyond_the_context_takes_no_memory(monkeypatch):
    from minislm.batch import Batch

    widths, uniforms = [], Batch._uniforms
    monkeypatch.setattr(
        Batch, "_uniforms", lambda self, seed: widths.append(len(uniforms(self, seed)))
        or uniforms(self, seed)
    )  # fmt: skip
    model = random_model()
    ids = Sampler(model).generate_ids(PROMPTS[:2], max_new_tokens=1_000_000)
    assert [len(new) + len(prompt) for new, prompt in zip(ids, PROMPTS)] == [128, 128]
    assert max(widths) <= 2 * model.config.context


def test_a_failure_in_a_lane_is_the_callers(monkeypatch):
    sampler = Sampler(random_model(), batch_size=16)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr("minislm.batch.Batch.advance", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sampler.generate_ids(PROMPTS, max_new_tokens=5)


def test_after_a_failure_in_one_lane_the_others_take_no_more(monkeypatch):
    from minislm.batch import Batch

    taken, failed, admit = [], [], Batch.admit

    def admit_and_fail_once(self, free):
        said = admit(self, free)
        taken.extend(said[0])
        if len(taken) > 40 and not failed:
            failed.append(True)
            raise ZeroDivisionError
        return said

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(Batch, "admit", admit_and_fail_once)
    with pytest.raises(ZeroDivisionError):
        Sampler(random_model(), batch_size=16).generate_ids(PROMPTS * 50, max_new_tokens=5)
    assert len(taken) < 100  # of 1,000


def test_a_prompt_asked_for_several_samples_is_read_once(monkeypatch):
    from minislm.fast.engine import Engine

    read, prefill = [], Engine.prefill
    monkeypatch.setattr(
        Engine, "prefill", lambda self, rows, ids: read.append(len(ids)) or prefill(self, rows, ids)
    )
    options = dict(max_new_tokens=10, temperature=1.0, stop=False)
    prompts = [PROMPTS[3]] * 3 + [PROMPTS[4]] * 2
    got = Sampler(random_model(), batch_size=3).generate_ids(prompts, seeds=range(5), **options)
    assert read == [1, 1]  # once each: 3 rows, then 2
    alone = [Sampler(random_model()).generate_ids([p], seeds=[s], **options)[0]
             for s, p in enumerate(prompts)]  # fmt: skip
    assert got == alone and len(set(map(tuple, got))) == 5


def test_no_end_of_text_before_the_minimum(tokenizer):
    model = random_model()
    options = dict(max_new_tokens=60, temperature=1.5, seeds=range(20))
    free = Sampler(model, tokenizer).generate_ids(PROMPTS, **options)
    held = Sampler(model, tokenizer).generate_ids(PROMPTS, min_new_tokens=15, **options)
    assert min(map(len, free)) < 15 <= min(map(len, held))
    assert any(ids[-1] == tokenizer.eot_id for ids in held)


def test_log_probabilities_are_the_models_own(tokenizer):
    model = random_model()
    settings = SampleConfig(max_new_tokens=8, temperature=0.6, top_k=9, logprobs=True, stop=False)
    for prompt, found in zip(PROMPTS, Sampler(model).continuations(PROMPTS, settings)):
        logits = model(torch.tensor([prompt + found.ids]))[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1)[range(8), found.ids]
        torch.testing.assert_close(torch.tensor(found.logprobs), expected, atol=1e-4, rtol=1e-4)


def test_a_text_ends_before_its_stop_string_and_never_shows_a_part_of_it(tokenizer):
    model = random_model(vocab_size=tokenizer.vocab_size)
    sampler = Sampler(model, tokenizer)
    options = dict(max_new_tokens=60, temperature=1.0, seed=4)
    text = sampler.generate(["Once"], **options)[0]
    stop = text[20:26]
    for stops in ((stop,), ("never said", stop), (stop, stop + text[26:30])):
        cut = sampler.generate(["Once"], stop_strings=stops, **options)[0]
        assert cut == text[: text.index(stop)]
        pieces = list(sampler.stream("Once", stop_strings=stops, **options))
        assert "".join(pieces) == cut
    assert "".join(sampler.stream("Once", stop_strings=("never said",), **options)) == text


def test_the_memory_of_many_prompts_does_not_grow():
    """10,000 prompts of very different lengths through one sampler."""
    model = random_model(width=16, n_head=2, n_kv_head=1, n_layer=1)
    sampler = Sampler(model, batch_size=64)
    numbers = random.Random(0)
    prompts = [[numbers.randrange(300)] * numbers.randrange(1, 60) for _ in range(2_500)]
    options = dict(max_new_tokens=4, temperature=1.0, stop=False)
    sampler.generate_ids(prompts, **options)
    tracked = []
    for _ in range(3):
        sampler.generate_ids(prompts, **options)
        gc.collect()
        tracked.append(sum(isinstance(each, torch.Tensor) for each in gc.get_objects()))
    assert tracked[0] == tracked[-1]


def test_the_model_is_left_in_eval_mode_and_without_gradients(tokenizer):
    model = random_model(dropout=0.3).train()
    ids = [Sampler(model).generate_ids([[1, 2]], temperature=0.0, max_new_tokens=9) for _ in "ab"]
    assert ids[0] == ids[1] and not model.training
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize(
    "prompt, message", [([1] * 128, "context is 128"), ([], "empty"), ([300], "vocabulary of 300")]
)
def test_a_prompt_that_cannot_be_read_is_refused(prompt, message):
    with pytest.raises(UserError, match=message):
        Sampler(random_model()).generate_ids([[1, 2], prompt])


def test_what_the_caller_got_wrong_is_said(tokenizer):
    with pytest.raises(UserError, match="2 seeds for 3 prompts"):
        Sampler(random_model()).generate_ids(PROMPTS[:3], seeds=[1, 2])
    with pytest.raises(UserError, match="at least 1"):
        Sampler(random_model(), batch_size=0)
    with pytest.raises(ValueError, match="needed for text"):
        Sampler(random_model()).generate_ids(PROMPTS[:3], stop_strings=("x",))
    assert Sampler(random_model(), tokenizer).generate([]) == []


@pytest.mark.parametrize(
    "setting",
    [
        dict(max_new_tokens=0), dict(temperature=-1), dict(top_p=0), dict(top_k=-2),
        dict(min_p=1.5), dict(repetition_penalty=0), dict(beams=0), dict(beams=3, logprobs=True),
    ],
)  # fmt: skip
def test_a_setting_that_makes_no_sense_is_refused(setting):
    with pytest.raises(UserError, match="--"):
        SampleConfig(**setting)
