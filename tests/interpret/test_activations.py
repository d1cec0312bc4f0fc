"""Attention, losses, neurons and ablation, compared with transformers and with plain loops."""

import numpy as np
import pytest
import torch
from helpers import random_model

from minislm.config import PRESETS
from minislm.interpret import activations
from minislm.interpret.ablation import Component, Means, ablated, all_heads, parse
from minislm.interpret.activations import (
    activations_of,
    attention_of,
    classes_of,
    classify_heads,
    encode,
    mean_loss,
    mean_outputs,
    neuron_peaks,
    token_texts,
)
from minislm.pretrained.save import save
from minislm.runtime.errors import UserError
from minislm.sampler import Sampler
from minislm.stories.lexicon import WORD_CLASSES

TEXT = "Once upon a time, there was a little dog named Max. He had three red balls."


@pytest.mark.parametrize("preset", ["one-block", "gpt2", "gpt-neo"])
def test_attention_weights_are_those_of_transformers(preset, tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    shape = PRESETS[preset] | ({"windows": (0, 5)} if preset == "gpt-neo" else {})
    model = random_model(**shape | {"n_layer": 2, "vocab_size": tokenizer.vocab_size})
    save(tmp_path, model, tokenizer)
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager"
    )
    ids, _ = encode(model, tokenizer, TEXT)
    maps, _ = attention_of(model, ids)
    with torch.no_grad():
        expected = reference.eval()(torch.tensor([ids]), output_attentions=True).attentions
    assert maps.shape == (2, model.config.n_head, len(ids), len(ids))
    assert torch.allclose(maps, torch.stack(expected)[:, 0].float(), atol=1e-5)
    assert torch.allclose(maps.sum(-1), torch.ones(maps.shape[:3]), atol=1e-5)
    assert not maps.triu(1).any()


def test_a_long_text_is_truncated_to_the_context(tokenizer):
    model = random_model(vocab_size=tokenizer.vocab_size)
    ids, tokens = encode(model, tokenizer, TEXT * 20)
    assert len(tokens) == len(ids) == model.config.context
    assert ids[0] == tokenizer.eot_id and (TEXT * 20).startswith("".join(tokens))


def test_a_model_is_as_before_after_it_was_analyzed():
    model = random_model()
    attention_of(model, [1, 2, 3])
    activations_of(model, [1, 2, 3])
    with pytest.raises(ValueError, match="exceed the context"):
        attention_of(model, [1] * 129)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_tokens_of_one_character_have_its_text_once(tokenizer):
    ids = tokenizer.encode("a 🐶!")
    texts = token_texts(tokenizer, ids)
    assert len(texts) == len(ids) and "".join(texts) == "a 🐶!" and "" in texts
    assert token_texts(tokenizer, ids[:-2])[-1].endswith("\ufffd")  # an incomplete character
    assert token_texts(tokenizer, []) == []


def test_every_token_has_a_class(tokenizer):
    tokens = token_texts(tokenizer, tokenizer.encode(TEXT))
    of_class = {name: "" for name in WORD_CLASSES}
    for token, c in zip(tokens, classes_of(tokens)):
        of_class[WORD_CLASSES[c]] += token
    assert of_class["number"].split() == ["three"]
    assert of_class["adjective"].split() == ["little", "red"]
    assert "dog" in of_class["noun"] and "Max" in of_class["noun"] and "was" in of_class["verb"]
    assert classes_of(["", "dog", ""]).tolist() == [4, 0, 4]  # a token without text is "other"


@pytest.mark.parametrize("preset", ["one-block", "gpt2"])
def test_with_all_heads_ablated_the_attention_adds_only_its_bias(preset, tokenizer):
    shape = PRESETS[preset] | {"n_layer": 2, "vocab_size": tokenizer.vocab_size}
    model = random_model(**shape)
    for block in model.blocks:
        if block.attention.out.bias is not None:
            torch.nn.init.normal_(block.attention.out.bias)
    tokens = torch.tensor([tokenizer.encode(TEXT)])
    whole = model(tokens)
    with ablated(model, all_heads(model)):
        without = model(tokens)
    assert torch.equal(model(tokens), whole)  # the weights are restored
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


def test_ablating_one_head_leaves_the_others(tokenizer):
    model = random_model()
    before = model.blocks[1].attention.out.weight.clone()
    with ablated(model, [Component("head", 1, 2)]):
        changed = (model.blocks[1].attention.out.weight != before).any(0).nonzero().flatten()
    assert changed.tolist() == list(range(32, 48))  # 4 heads of width 16


def test_ablation_changes_loss_and_sampler_and_is_undone_after_an_error(tokenizer):
    model = random_model(vocab_size=tokenizer.vocab_size)
    sampler, ids = Sampler(model, tokenizer), [[5, 6, 7]]
    before = sampler.generate_ids(ids, max_new_tokens=20, temperature=0.0, stop=False)
    loss = mean_loss(model, tokenizer, [TEXT])
    neuron = Component("neuron", 1, 3)
    some = [Component("head", 0, h) for h in range(4)] + [neuron, neuron]
    with pytest.raises(RuntimeError), ablated(model, some):
        assert not model.blocks[1].mlp.down.weight[:, 3].any()
        assert sampler.generate_ids(ids, max_new_tokens=20, temperature=0.0, stop=False) != before
        assert mean_loss(model, tokenizer, [TEXT]) != loss
        raise RuntimeError
    assert model.blocks[1].mlp.down.weight[:, 3].any()
    assert sampler.generate_ids(ids, max_new_tokens=20, temperature=0.0, stop=False) == before


def test_components_are_parsed_and_refused():
    assert parse("head:0.3, neuron:1.17") == [Component("head", 0, 3), Component("neuron", 1, 17)]
    for wrong in ("head", "heads:0.1", "head:0", "head:0.x", "", "head:0.²", "head:0.1,"):
        with pytest.raises(UserError, match="--off takes"):
            parse(wrong)
    model = random_model()
    for wrong in (
        Component("head", 2, 0),
        Component("head", 0, 4),
        Component("neuron", 0, 10**6),
    ):
        with (
            pytest.raises(UserError, match="the model has blocks 0 to 1"),
            ablated(model, [wrong]),
        ):
            pass


def test_heads_are_classified_by_what_they_attend_to(tokenizer, stories, monkeypatch):
    """Of four heads three get attention by hand: to the previous token, to itself, and to nouns."""
    model = random_model(vocab_size=tokenizer.vocab_size, n_layer=1, context=64)
    stories = [story[:150] for story in stories[:3]]
    nouns = iter([
        torch.from_numpy(classes_of(encode(model, tokenizer, story)[1]) == 0) for story in stories
    ])  # fmt: skip
    real = activations.attention_weights

    def by_hand(q, k, mask, scale):
        maps = real(q, k, mask, scale)
        T = maps.shape[-1]
        maps[:, 0] = torch.eye(T).roll(-1, 1).tril()
        maps[:, 0, 0, 0] = 1
        maps[:, 1] = torch.eye(T)
        visible = next(nouns).expand(T, T).tril().float()
        maps[:, 3] = torch.where(visible.any(1, keepdim=True), visible, torch.eye(T)[0])
        maps[:, 3] /= maps[:, 3].sum(-1, keepdim=True)
        return maps

    monkeypatch.setattr(activations, "attention_weights", by_hand)
    means = Means(torch.randn(1, 4, 16), torch.zeros(1, model.config.mlp_hidden))
    found = classify_heads(model, tokenizer, stories, means)
    assert [(h.layer, h.index) for h in found] == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert [(found[h].kind, found[h].target) for h in (0, 1, 3)] == [
        ("distance", "previous token"), ("distance", "itself"), ("meaning", "nouns")
    ]  # fmt: skip
    assert found[0].weight == pytest.approx(1, abs=1e-5) and 0 < found[0].even < 0.3
    whole = mean_loss(model, tokenizer, stories)
    with ablated(model, [Component("head", 0, 2)], means):
        without = mean_loss(model, tokenizer, stories)
    assert found[2].loss_increase == pytest.approx(without - whole, abs=1e-6)


def test_a_head_that_attends_evenly_is_of_no_kind(tokenizer, stories):
    """Its largest weights at a distance and on a class are those of any look over the text."""
    model = random_model(vocab_size=tokenizer.vocab_size, n_layer=1)
    with torch.no_grad():
        model.blocks[0].attention.qkv.weight[: 2 * 64] = 0  # queries and keys
    means = Means(torch.zeros(1, 4, 16), torch.zeros(1, model.config.mlp_hidden))
    for head in classify_heads(model, tokenizer, stories[:3], means):
        assert head.kind == "mixed" and head.weight == pytest.approx(head.even, abs=1e-4)


@pytest.mark.parametrize("excess, kind", [
    ((0.3, 0.1), "distance"), ((0.1, 0.3), "meaning"),
    ((0.3, 0.25), "mixed"), ((0.05, 0.01), "mixed"),
])  # fmt: skip
def test_a_kind_needs_a_clear_excess(excess, kind):
    even_D, even_K = torch.full((32,), 0.03), torch.full((5,), 0.2)
    distance_D, class_K = even_D.clone(), even_K.clone()
    distance_D[1] += excess[0]
    class_K[0] += excess[1]
    found = activations._kind(distance_D, even_D, class_K, even_K)
    assert found[0] == kind
    assert found[1] == ("nouns" if excess[1] > excess[0] else "previous token")


@pytest.mark.parametrize("preset", ["one-block", "gpt2"])
def test_mean_ablation_adds_what_the_component_writes_on_average(preset, tokenizer):
    model = random_model(**PRESETS[preset] | {"n_layer": 1, "vocab_size": tokenizer.vocab_size})
    texts = [tokenizer.encode(TEXT), tokenizer.encode(TEXT[20:60])]
    means, block = mean_outputs(model, texts), model.blocks[0]
    inputs = []
    hooks = [each.register_forward_pre_hook(lambda _, given: inputs.append(given[0][0]))
             for each in (block.attention.out, block.mlp.down)]  # fmt: skip
    for ids in texts:
        model(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    heads = torch.cat(inputs[::2]).mean(0).view(model.config.n_head, -1)
    assert torch.allclose(means.heads_LHD[0], heads, atol=1e-5)
    assert torch.allclose(means.neurons_LF[0], torch.cat(inputs[1::2]).mean(0), atol=1e-5)
    tokens, bias = torch.tensor(texts[:1]), block.attention.out.bias
    whole = model(tokens)
    both = heads[-2:].flatten().expand(1, tokens.shape[1], -1)
    hook = block.attention.out.register_forward_pre_hook(
        lambda _, given: (torch.cat([given[0][..., : -both.shape[-1]], both], -1),)
    )
    expected = model(tokens)
    hook.remove()
    last = model.config.n_head - 1
    with ablated(model, [Component("head", 0, last), Component("head", 0, last - 1)], means):
        assert torch.allclose(model(tokens), expected, atol=1e-5)
    assert torch.equal(model(tokens), whole) and block.attention.out.bias is bias
    assert (expected - whole).abs().max() > 1e-3


def test_mean_loss_is_the_loss_per_token_of_all_stories(tokenizer, stories):
    model = random_model(vocab_size=tokenizer.vocab_size)
    losses = []
    for story in stories[:3]:
        ids, _ = encode(model, tokenizer, story[:100])
        logprobs_TV = model(torch.tensor([ids]))[0].log_softmax(-1)
        targets = [*ids[1:], tokenizer.eot_id]  # the end of text after a story has a loss too
        losses += [-logprobs_TV[t, target].item() for t, target in enumerate(targets)]
    expected = np.mean(losses)
    found = mean_loss(model, tokenizer, [story[:100] for story in stories[:3]])
    assert found == pytest.approx(expected, rel=1e-4)


def test_weight_by_class_is_the_mean_over_all_queries():
    classes = np.array([4, 0, 1, 0, 4])  # two nouns among five tokens
    at_second = torch.zeros(1, 1, 5, 5)
    at_second[..., 0, 0] = at_second[..., 1:, 1] = 1  # rows 1 to 4 attend to the first noun
    found = activations.weight_by_class(at_second, classes)[0, 0]
    assert found.tolist() == pytest.approx([4 / 5, 0, 0, 0, 1 / 5])


def test_weight_by_distance_counts_the_queries_that_reach_it():
    maps = torch.rand(2, 3, 6, 6).tril()
    found = activations.weight_by_distance(maps)
    assert found.shape == (2, 3, activations.DISTANCES) and not found[..., 6:].any()
    for d in range(6):
        expected = sum(maps[1, 2, t, t - d] for t in range(d, 6)) / (6 - d)
        assert found[1, 2, d] == pytest.approx(expected.item(), rel=1e-5)


def test_neuron_peaks_are_what_a_loop_over_all_tokens_finds(tokenizer, stories):
    model = random_model(vocab_size=tokenizer.vocab_size)
    texts = [encode(model, tokenizer, story)[0] for story in stories[:6]]
    found = neuron_peaks(model, texts, most=3)
    assert len(found) == 2 and len(found[0]) == model.config.mlp_hidden
    layer, neuron, best = 1, 7, []
    inputs = []
    model.blocks[layer].mlp.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    for k, ids in enumerate(texts):
        with torch.no_grad():
            model(torch.tensor([ids]))
            values = model.blocks[layer].mlp.activate(inputs[-1])[0, :, neuron]
        assert torch.allclose(activations_of(model, ids)[layer, :, neuron], values, atol=1e-5)
        t = int(values.argmax())
        best.append((values[t].item(), k, t))
    best, peaks = sorted(best, reverse=True)[:3], found[layer][neuron]
    assert [p.activation for p in peaks] == pytest.approx([value for value, *_ in best], rel=1e-4)
    assert [(p.story, p.position) for p in peaks] == [(k, t) for _, k, t in best]
    assert len(neuron_peaks(model, texts[:2], most=3)[0][0]) == 2  # one of each story


@pytest.mark.parametrize("options", [
    {"position": "none"}, {"position": "run", "run_tokens": (1,)}, {"qk_scale": 9.0},
    {"qk_scale": 9.0, "null_cosine": 0.5},
])  # fmt: skip
def test_attention_that_is_not_computed_here_is_refused(options):
    with pytest.raises(UserError, match=r"studies/circuit.py"):
        attention_of(random_model(**options), [1, 2, 3])
