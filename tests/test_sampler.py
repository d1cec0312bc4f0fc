"""The sampler: against the plain loop, against the softmax, and whatever the neighbours are."""

import gc
import random

import pytest
import torch
from conftest import random_model

from minislm.config import PRESETS, SampleConfig
from minislm.errors import UserError
from minislm.sampler import Sampler

PROMPTS = [
    [random.Random(n).randrange(300) for _ in range(1 + 7 * n % 60)] for n in range(20)
]  # 1 to 57 tokens


def brute_force(model, prompt, n):
    """The uncached loop everybody can check: the whole text again for every token."""
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(n):
            ids.append(model(torch.tensor([ids]))[0, -1].argmax().item())
    return ids[len(prompt) :]


@pytest.mark.parametrize("preset", ["one-block", "gpt2", "gpt-neo"])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_greedy_is_the_uncached_loop(preset, batch_size):
    model = random_model(**(PRESETS[preset] | {"n_layer": 2}))
    got = Sampler(model, batch_size=batch_size).generate_ids(
        PROMPTS, max_new_tokens=12, temperature=0.0, stop=False
    )
    assert got == [brute_force(model, prompt, 12) for prompt in PROMPTS]


@pytest.mark.parametrize("settings", [{}, {"top_k": 20}, {"top_k": 40, "top_p": 0.7}])
def test_a_text_depends_on_its_prompt_and_seed_alone(settings, tokenizer):
    model = random_model()
    options = dict(max_new_tokens=40, temperature=1.0, **settings)
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


def test_a_failure_in_a_lane_is_the_callers(monkeypatch):
    sampler = Sampler(random_model(), batch_size=16)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr("minislm.batch.Batch.advance", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sampler.generate_ids(PROMPTS, max_new_tokens=5)


def test_a_prompt_asked_for_several_samples_is_read_once(monkeypatch):
    from minislm.engine import Engine

    read, prefill = [], Engine.prefill
    monkeypatch.setattr(
        Engine, "prefill", lambda self, rows, ids: read.append(len(ids)) or prefill(self, rows, ids)
    )
    options = dict(max_new_tokens=10, temperature=1.0, stop=False)
    prompts = [PROMPTS[3]] * 3 + [PROMPTS[4]] * 2
    got = Sampler(random_model(), batch_size=3).generate_ids(prompts, seeds=range(5), **options)
    assert sum(read) == 2 + (3 > len(prompts)) or read == [1, 1]  # once each: 3 rows, then 2
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


@pytest.mark.parametrize(
    "preset, length_penalty", [("one-block", 0.0), ("gpt2", 1.0), ("one-block", 2.0)]
)
def test_beam_search_is_that_of_transformers(preset, length_penalty, tokenizer, tmp_path):
    from transformers import AutoModelForCausalLM

    from minislm.pretrained import save_model

    model = random_model(**(PRESETS[preset] | {"n_layer": 2, "vocab_size": tokenizer.vocab_size}))
    save_model(tmp_path / "m", model, tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    prompts = [[token % tokenizer.vocab_size for token in ids] for ids in PROMPTS[:4]]
    got = Sampler(model, tokenizer).generate_ids(
        prompts, max_new_tokens=15, beams=5, length_penalty=length_penalty
    )
    for prompt, ids in zip(prompts, got):
        tokens = torch.tensor([prompt])
        expected = theirs.generate(
            tokens, attention_mask=torch.ones_like(tokens), num_beams=5, do_sample=False,
            max_new_tokens=15, length_penalty=length_penalty, eos_token_id=tokenizer.eot_id,
            pad_token_id=tokenizer.eot_id,
        )  # fmt: skip
        assert ids == expected[0, len(prompt) :].tolist()


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
