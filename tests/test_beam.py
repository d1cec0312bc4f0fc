"""Beam search: against transformers, and against all texts there are."""

import itertools

import pytest
import torch
from conftest import random_model

from minislm.config import PRESETS
from minislm.runtime.errors import UserError
from minislm.pretrained.load import save_model
from minislm.sampler import Sampler


def prompt_of(length, size):
    return torch.randint(size, (length,), generator=torch.Generator().manual_seed(length)).tolist()


@pytest.fixture(scope="module", params=["one-block", "gpt2"])
def pair(request, tokenizer, tmp_path_factory):
    """A model as we and as transformers have it; it ends its texts often."""
    from transformers import AutoModelForCausalLM

    knobs = PRESETS[request.param] | {"n_layer": 2, "vocab_size": tokenizer.vocab_size}
    model = random_model(**knobs)
    with torch.no_grad():
        model.embedding.weight[tokenizer.eot_id] *= 3
    folder = tmp_path_factory.mktemp("beam") / "m"
    save_model(folder, model, tokenizer)
    return model, AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize(
    "options",
    [
        dict(beams=5, max_new_tokens=15),
        dict(beams=5, max_new_tokens=15, length_penalty=0.0),
        dict(beams=5, max_new_tokens=15, length_penalty=2.0),
        dict(beams=3, max_new_tokens=15, length_penalty=-1.0),
        dict(beams=8, max_new_tokens=12, min_new_tokens=6),
        dict(beams=8, max_new_tokens=30, length_penalty=0.0, min_new_tokens=5),
        dict(beams=2, max_new_tokens=1),
    ],
    ids=str,
)
def test_beam_search_is_that_of_transformers(pair, options, tokenizer):
    ours, theirs = pair
    prompts = [prompt_of(length, tokenizer.vocab_size) for length in (3, 11, 30, 60)]
    got = Sampler(ours, tokenizer).generate_ids(prompts, **options)
    named = {"num_beams" if name == "beams" else name: value for name, value in options.items()}
    for prompt, ids in zip(prompts, got):  # 60 tokens and 15 more: past where the cache grows
        tokens = torch.tensor([prompt])
        expected = theirs.generate(
            tokens, attention_mask=torch.ones_like(tokens), do_sample=False, **named,
            eos_token_id=tokenizer.eot_id, pad_token_id=tokenizer.eot_id,
        )  # fmt: skip
        assert ids == expected[0, len(prompt) :].tolist()


@pytest.mark.parametrize("seed", range(5))
@torch.no_grad()
def test_with_a_beam_for_every_text_the_likeliest_of_all_is_found(seed):
    model = random_model(seed, vocab_size=6)  # and so more beams than tokens at first
    texts = torch.tensor(list(itertools.product(range(6), repeat=3)))
    whole = torch.cat((torch.tensor([1, 4]).expand(len(texts), -1), texts), 1)
    logprobs = model(whole).log_softmax(-1)[:, 1:-1].gather(2, texts[:, :, None]).sum((1, 2))
    found = Sampler(model).generate_ids([[1, 4]], beams=36, max_new_tokens=3)
    assert found == [texts[logprobs.argmax()].tolist()]


def test_beams_are_not_streamed():
    with pytest.raises(UserError, match="no streaming"):
        next(Sampler(random_model()).stream_ids([[1]], beams=2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_beams_on_a_gpu_say_the_same(tokenizer):
    model, prompts = random_model(), [prompt_of(length, 300) for length in (1, 9, 30)]
    expected = Sampler(model, tokenizer).generate_ids(prompts, beams=4, max_new_tokens=12)
    found = Sampler(model.cuda(), tokenizer).generate_ids(prompts, beams=4, max_new_tokens=12)
    assert found == expected
