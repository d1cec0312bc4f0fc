"""Samplers: against the loop without a cache, and independent of what else is in the batch.

Every test with the parameter `kind` runs with the plain sampler and with the fast one. The matrix
in tests/fast/test_sampler.py compares the two.
"""

import gc
import random
from collections import deque

import pytest
import torch
from helpers import brute_force, random_model

from minislm.config import PRESETS, SampleConfig
from minislm.fast.sampler import FastSampler
from minislm.runtime.errors import UserError
from minislm.sampler import PlainEngine, Sampler

PROMPTS = [
    [random.Random(n).randrange(300) for _ in range(1 + 7 * n % 60)] for n in range(20)
]  # 1 to 57 tokens
both = pytest.mark.parametrize("kind", [Sampler, FastSampler], ids=["plain", "fast"])


@both
@pytest.mark.parametrize("preset", ["one-block", "gpt2", "gpt-neo"])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_greedy_decoding_is_the_loop_without_a_cache(preset, batch_size, kind):
    model = random_model(**(PRESETS[preset] | {"n_layer": 2}))
    got = kind(model, batch_size=batch_size).generate_ids(
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
    dict(logprobs=True),
    dict(stop_strings=("e", "th")),
]


@both
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_text_depends_on_its_prompt_and_seed_alone(settings, kind, tokenizer):
    model = random_model()
    options = dict(max_new_tokens=40, temperature=1.0) | settings
    seeds = list(range(len(PROMPTS)))
    order = random.Random(3).sample(seeds, len(seeds))
    expected = kind(model, tokenizer, 1).generate_ids(PROMPTS, seeds=seeds, **options)
    assert len({tuple(ids) for ids in expected}) == len(PROMPTS)
    for batch_size in (3, 64):
        got = kind(model, tokenizer, batch_size).generate_ids(
            [PROMPTS[i] for i in order], seeds=[seeds[i] for i in order], **options
        )
        assert got == [expected[i] for i in order]


@both
def test_sequences_end_at_the_end_of_text_at_the_limit_and_at_the_context(kind, tokenizer):
    model = random_model()
    eot = tokenizer.eot_id
    ids = kind(model, tokenizer, 4).generate_ids(
        PROMPTS, max_new_tokens=400, temperature=1.5, seeds=range(20)
    )
    ended = [new[-1] == eot for new in ids]
    assert any(ended) and not all(ended)
    for prompt, new, end in zip(PROMPTS, ids, ended):
        assert eot not in new[:-1]
        assert end or len(prompt) + len(new) == model.config.context
    on = kind(model, tokenizer).generate_ids(
        PROMPTS, max_new_tokens=30, temperature=1.5, stop=False
    )
    assert all(len(new) == 30 for new in on)


@both
def test_streamed_text_is_the_generated_text(kind, tokenizer):
    sampler = kind(random_model(vocab_size=tokenizer.vocab_size), tokenizer)
    options = dict(max_new_tokens=60, temperature=1.0, seed=4)
    assert "".join(sampler.stream("Once", **options)) == sampler.generate(["Once"], **options)[0]


class OnlyForward(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens):
        return self.model(tokens)


OPTIONS = [
    dict(temperature=0.0),
    dict(temperature=1.0, top_k=20),
    dict(temperature=1.0, min_p=0.1, repetition_penalty=1.2),
]


@both
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_model_without_a_cache_gives_the_same(options, kind, tokenizer):
    model, options = random_model(), dict(max_new_tokens=20, seeds=range(20), **options)
    expected = Sampler(model, tokenizer, 4).generate_ids(PROMPTS, **options)
    got = kind(OnlyForward(model), tokenizer, 7).generate_ids(PROMPTS, **options)
    assert got == expected


@both
@pytest.mark.parametrize("extra", [dict(), dict(logprobs=True)], ids=str)
def test_a_text_does_not_depend_on_how_far_it_is_continued(extra, kind):
    sampler = kind(random_model(), batch_size=3)
    options = dict(temperature=1.0, seeds=range(20), stop=False)
    short = sampler.generate_ids(PROMPTS, max_new_tokens=10, **options)
    long = sampler.generate_ids(PROMPTS, max_new_tokens=33, **options)
    assert [ids[:10] for ids in long] == short
    assert sampler.generate_ids(PROMPTS, max_new_tokens=33, **options, **extra) == long


@both
def test_changed_weights_are_the_ones_used(kind):
    model, options = random_model(), dict(max_new_tokens=8, temperature=0.0)
    sampler = kind(model)
    before = sampler.generate_ids(PROMPTS, **options)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(-0.7)
    after = sampler.generate_ids(PROMPTS, **options)
    assert after == kind(model).generate_ids(PROMPTS, **options) != before


@both
def test_a_limit_far_beyond_the_context_takes_no_memory(kind):
    sampler = kind(random_model())
    settings = SampleConfig(max_new_tokens=1_000_000)
    found = sampler.continuations(PROMPTS[:2], settings)
    assert [len(new.ids) + len(new.prompt) for new in found] == [128, 128]
    assert max(new.uniforms.size for new in found) <= 2 * 128


def test_ended_sequences_leave_and_waiting_ones_take_their_rows():
    """The rows of the engine are filled without gaps, and never more than the batch size."""
    rows_used, moves = [], []

    class Watched(PlainEngine):
        def prefill(self, rows, prompts):
            rows_used.append(list(rows))
            return super().prefill(rows, prompts)

        def decode(self, tokens_B, pos_B, u_Bn, pick):
            rows_used.append(list(range(len(tokens_B))))
            return super().decode(tokens_B, pos_B, u_Bn, pick)

        def move(self, source, target):
            assert target < source
            moves.append((source, target))
            super().move(source, target)

    model = random_model()
    sampler = Sampler(model, batch_size=4)
    settings = SampleConfig(max_new_tokens=128, temperature=0.0, stop=False)
    prompts = [[1] * n for n in (120, 100, 110, 90, 125, 99, 1)]  # they end at the context
    waiting, length = sampler._start(prompts, settings, None)
    for _ in sampler._steps(Watched(model, 4, length), deque(waiting), settings, 4):
        pass
    assert moves and max(map(max, rows_used)) == 3
    assert [new.ids for new in waiting] == Sampler(model, batch_size=1).generate_ids(
        prompts, settings
    )


@both
def test_log_probabilities_are_those_of_the_model(kind):
    model = random_model()
    settings = SampleConfig(max_new_tokens=8, temperature=0.6, top_k=9, logprobs=True, stop=False)
    for prompt, found in zip(PROMPTS, kind(model).continuations(PROMPTS, settings)):
        logits = model(torch.tensor([prompt + found.ids]))[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1)[range(8), found.ids]
        torch.testing.assert_close(torch.tensor(found.logprobs), expected, atol=1e-4, rtol=1e-4)


@both
def test_a_text_ends_before_its_stop_string_and_never_shows_a_part_of_it(kind, tokenizer):
    model = random_model(vocab_size=tokenizer.vocab_size)
    sampler = kind(model, tokenizer)
    options = dict(max_new_tokens=60, temperature=1.0, seed=4)
    text = sampler.generate(["Once"], **options)[0]
    stop = text[20:26]
    for stops in ((stop,), ("never there", stop), (stop, stop + text[26:30])):
        cut = sampler.generate(["Once"], stop_strings=stops, **options)[0]
        assert cut == text[: text.index(stop)]
        parts = list(sampler.stream("Once", stop_strings=stops, **options))
        assert "".join(parts) == cut
    assert "".join(sampler.stream("Once", stop_strings=("never there",), **options)) == text
    new = sampler.continuations([[1]], SampleConfig(stop_strings=(stop,), **options))[0]
    assert len(new.ids) < 60 or stop not in tokenizer.decode(new.ids)  # it stops decoding, too


@both
def test_the_end_of_text_ends_a_text_beside_stop_strings(kind, tokenizer, monkeypatch):
    sampler = kind(random_model(vocab_size=tokenizer.vocab_size), tokenizer)
    options = dict(max_new_tokens=30, temperature=1.0, seed=4)
    (ids,) = sampler.generate_ids([[1]], stop=False, **options)
    monkeypatch.setattr(tokenizer, "end_ids", {ids[9]})
    (ended,) = sampler.generate_ids([[1]], stop_strings=("never there",), **options)
    assert ended == ids[: ids.index(ids[9]) + 1]


@both
def test_the_memory_of_many_prompts_does_not_grow(kind):
    """10,000 prompts of very different lengths through one sampler."""
    model = random_model(width=16, n_head=2, n_kv_head=1, n_layer=1)
    sampler = kind(model, batch_size=64)
    numbers = random.Random(0)
    count = 2_500 if kind is FastSampler else 300
    prompts = [[numbers.randrange(300)] * numbers.randrange(1, 60) for _ in range(count)]
    options = dict(max_new_tokens=4, temperature=1.0, stop=False)
    sampler.generate_ids(prompts, **options)
    tracked = []
    for _ in range(3):
        sampler.generate_ids(prompts, **options)
        gc.collect()
        tracked.append(sum(type(each) is torch.Tensor for each in gc.get_objects()))
    assert tracked[0] == tracked[-1]


@both
def test_the_model_is_left_in_eval_mode_and_without_gradients(kind):
    model = random_model(dropout=0.3).train()
    ids = [kind(model).generate_ids([[1, 2]], temperature=0.0, max_new_tokens=9) for _ in "ab"]
    assert ids[0] == ids[1] and not model.training
    assert all(weight.grad is None for weight in model.parameters())


@both
@pytest.mark.parametrize(
    "prompt, message", [([1] * 128, "context is 128"), ([], "empty"), ([300], "vocabulary of 300")]
)
def test_an_impossible_prompt_is_refused(prompt, message, kind):
    with pytest.raises(UserError, match=message):
        kind(random_model()).generate_ids([[1, 2], prompt])


@both
def test_wrong_calls_are_refused(kind, tokenizer):
    with pytest.raises(UserError, match="2 seeds for 3 prompts"):
        kind(random_model()).generate_ids(PROMPTS[:3], seeds=[1, 2])
    with pytest.raises(UserError, match="at least 1"):
        kind(random_model(), batch_size=0)
    with pytest.raises(ValueError, match="needed for text"):
        kind(random_model()).generate_ids(PROMPTS[:3], stop_strings=("x",))
    assert kind(random_model(), tokenizer).generate([]) == []


@pytest.mark.parametrize(
    "setting",
    [
        dict(max_new_tokens=0), dict(temperature=-1), dict(top_p=0), dict(top_k=-2),
        dict(min_p=1.5), dict(repetition_penalty=0),
    ],
)  # fmt: skip
def test_an_impossible_setting_is_refused(setting):
    with pytest.raises(UserError, match="--"):
        SampleConfig(**setting)
