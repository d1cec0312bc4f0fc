"""Looking inside, against transformers, brute force and what attention must be; and switching off."""

import numpy as np
import pytest
import torch
from helpers import random_model

from minislm.config import PRESETS
from minislm.interpret import activations as interpret
from minislm.interpret.ablation import Part, heads, parse, switched_off
from minislm.interpret.activations import classes_of, excite, pieces_of, read, sort_heads
from minislm.pretrained.load import save_model
from minislm.runtime.errors import UserError
from minislm.sampler import Sampler
from minislm.stories.lexicon import WORD_CLASSES

TEXT = "Once upon a time, there was a little dog named Max. He had three red balls."


@pytest.mark.parametrize("preset", ["one-block", "gpt2", "gpt-neo"])
def test_maps_are_those_of_transformers(preset, tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    knobs = dict(PRESETS[preset]) | {"windows": (0, 5)} if preset == "gpt-neo" else PRESETS[preset]
    model = random_model(**{**knobs, "n_layer": 2, "vocab_size": tokenizer.vocab_size})
    save_model(tmp_path, model, tokenizer)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager"
    )
    text, maps = read(model, tokenizer, TEXT)
    with torch.no_grad():
        expected = theirs.eval()(torch.tensor([text.ids]), output_attentions=True).attentions
    assert maps.shape == (2, 4, len(text.ids), len(text.ids))
    assert torch.allclose(maps, torch.stack(expected)[:, 0].float(), atol=1e-5)
    assert torch.allclose(maps.sum(-1), torch.ones(maps.shape[:3]), atol=1e-5)
    assert not maps.triu(1).any()


def test_a_text_costs_what_its_tokens_cost(tokenizer):
    model = random_model(vocab_size=tokenizer.vocab_size)
    text, _ = read(model, tokenizer, TEXT)
    assert "".join(text.pieces) == TEXT and np.isnan(text.losses[0])
    logprobs = model(torch.tensor([text.ids]))[0].log_softmax(-1)
    for t in range(1, len(text.ids)):
        assert text.losses[t] == pytest.approx(-logprobs[t - 1, text.ids[t]].item(), rel=1e-4)
        word, probability = text.alternatives[t][0]
        assert probability == pytest.approx(logprobs[t - 1].max().exp().item(), rel=1e-4)
        assert word == tokenizer.decode([int(logprobs[t - 1].argmax())])
    assert interpret.mean_loss(model, tokenizer, [TEXT]) > 0
    long, maps = read(model, tokenizer, TEXT * 20)
    assert len(long.ids) == maps.shape[-1] == model.config.context


def test_every_token_has_a_class(tokenizer):
    pieces = pieces_of(tokenizer, tokenizer.encode(TEXT))
    found = classes_of(pieces)
    spelt = {name: "" for name in WORD_CLASSES}
    for piece, c in zip(pieces, found):
        spelt[WORD_CLASSES[c]] += piece
    assert spelt["number"].split() == ["three"] and spelt["adjective"].split() == ["little", "red"]
    assert "dog" in spelt["noun"] and "Max" in spelt["noun"] and "was" in spelt["verb"]


@pytest.mark.parametrize("preset", ["one-block", "gpt2"])
def test_without_any_head_a_model_is_one_without_attention(preset, tokenizer):
    knobs = {**PRESETS[preset], "n_layer": 2, "vocab_size": tokenizer.vocab_size}
    model = random_model(**knobs)
    tokens = torch.tensor([tokenizer.encode(TEXT)])
    whole = model(tokens)
    with switched_off(model, heads(model)):
        without = model(tokens)
    assert torch.equal(model(tokens), whole)  # all is put back
    bias = [block.attention.out.bias for block in model.blocks]
    hooks = [
        block.attention.register_forward_hook(
            lambda module, inputs, output, b=b: torch.zeros_like(output) + (0 if b is None else b)
        )
        for block, b in zip(model.blocks, bias)
    ]
    assert torch.allclose(without, model(tokens), atol=1e-6)
    assert not torch.allclose(without, whole, atol=1e-3)
    for hook in hooks:
        hook.remove()


def test_a_part_is_switched_off_in_loss_and_sampler_and_put_back_after_an_error(tokenizer):
    model = random_model(vocab_size=tokenizer.vocab_size)
    sampler, ids = Sampler(model, tokenizer), [[5, 6, 7]]
    before = sampler.generate_ids(ids, max_new_tokens=20, temperature=0.0, stop=False)
    some = [Part("head", 0, h) for h in range(4)] + [Part("neuron", 1, 3), Part("neuron", 1, 3)]
    with pytest.raises(RuntimeError), switched_off(model, some):
        assert not model.blocks[1].mlp.down.weight[:, 3].any()
        assert sampler.generate_ids(ids, max_new_tokens=20, temperature=0.0, stop=False) != before
        raise RuntimeError
    assert model.blocks[1].mlp.down.weight[:, 3].any()
    assert sampler.generate_ids(ids, max_new_tokens=20, temperature=0.0, stop=False) == before


def test_parts_are_read_and_refused(tokenizer):
    assert parse("head:0.3, neuron:1.17") == [Part("head", 0, 3), Part("neuron", 1, 17)]
    for wrong in ("head", "heads:0.1", "head:0", "head:0.x", ""):
        with pytest.raises(UserError, match="--off takes"):
            parse(wrong)
    model = random_model()
    for part in (Part("head", 2, 0), Part("head", 0, 4), Part("neuron", 0, 10**6)):
        with (
            pytest.raises(UserError, match="the model has blocks 0 to 1"),
            switched_off(model, [part]),
        ):
            pass


def test_heads_are_sorted_by_what_they_do(tokenizer, stories):
    """A head made to look at the token before itself, and one that looks at itself."""
    model = random_model(vocab_size=tokenizer.vocab_size, n_layer=1, context=64)
    real = interpret.attention_weights

    def planted(q, k, mask, scale):
        maps = real(q, k, mask, scale)
        T = maps.shape[-1]
        maps[:, 0] = torch.eye(T).roll(-1, 1).tril()
        maps[:, 0, 0, 0] = 1
        maps[:, 1] = torch.eye(T)
        return maps

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpret, "attention_weights", planted)
        found = sort_heads(model, tokenizer, [story[:150] for story in stories[:3]])
    assert [(h.kind, h.distance) for h in found[:2]] == [("distance", 1), ("distance", 0)]
    assert found[0].at_distance == pytest.approx(1, abs=1e-5)
    whole = interpret.mean_loss(model, tokenizer, [story[:150] for story in stories[:3]])
    with switched_off(model, [Part("head", 0, 2)]):
        without = interpret.mean_loss(model, tokenizer, [story[:150] for story in stories[:3]])
    assert found[2].cost == pytest.approx(without - whole, abs=1e-6)


def test_an_even_look_is_no_look_at_meaning():
    classes = np.array([4, 0, 1, 0, 4])  # two nouns among five tokens
    even = (torch.ones(5, 5).tril() / torch.arange(1, 6)[:, None])[None, None]
    assert interpret._by_class(even, classes).abs().max() < 1e-6
    at_second = torch.zeros(1, 1, 5, 5)
    at_second[..., 0, 0] = at_second[..., 1:, 1] = 1  # all rows but the first read the first noun
    due = (0 + 1 / 2 + 1 / 3 + 2 / 4 + 2 / 5) / 5
    assert interpret._by_class(at_second, classes)[0, 0, 0] == pytest.approx(4 / 5 - due)


def test_what_excites_a_neuron_is_what_a_loop_over_all_tokens_finds(tokenizer, stories):
    model = random_model(vocab_size=tokenizer.vocab_size)
    some = stories[:6]
    found = excite(model, tokenizer, some, most=3)
    layer, neuron = 1, 7
    best = []
    for story in some:
        ids = ([tokenizer.eot_id] + tokenizer.encode(story))[: model.config.context]
        with interpret._activations(model) as seen, torch.no_grad():
            model(torch.tensor([ids]))
        values = seen[layer][0, :, neuron]
        t = int(values.argmax())
        best.append((values[t].item(), tokenizer.decode([ids[t]]) if t else "(start)"))
    best = sorted(best, reverse=True)[:3]
    assert [p.value for p in found[layer][neuron]] == pytest.approx([v for v, _ in best], rel=1e-4)
    assert [p.token for p in found[layer][neuron]] == [token for _, token in best]
