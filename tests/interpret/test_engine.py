"""The page's engine in JavaScript, run by Node.js, compared with the model in Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import random_model
from interpret.node import run_node

from minislm.config import PRESETS
from minislm.interpret.ablation import Component, ablated, parse
from minislm.interpret.activations import mean_outputs
from minislm.interpret.attribution import attribute
from minislm.interpret.export import export, quantize
from minislm.pretrained.load import load
from minislm.pretrained.save import save
from minislm.runtime.errors import UserError
from minislm.sampler import Sampler
from minislm.tokenizer import Tokenizer

TEXT = "Once upon a time, there was a little dog named Max. He had three red balls."
SHAPES = {
    "one-block": {},
    "two-blocks": PRESETS["two-blocks"] | {"n_head": 4, "mlp_width": 0},
    "untied": {"tied": False, "n_layer": 1, "qkv_bias": True, "out_bias": True, "mlp_bias": True},
    "gpt2": PRESETS["gpt2"],
    "gpt-neo": PRESETS["gpt-neo"] | {"windows": (0, 5), "n_layer": 4},
}


def exported(shape: dict, tokenizer, precision="float32"):
    """A model whose biases and norms are random too, its means, and its exported data."""
    model = random_model(**shape | {"vocab_size": tokenizer.vocab_size + 8, "width": 64})
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        if weight.ndim == 1:
            with torch.no_grad():
                weight.add_(0.3 * torch.randn(len(weight), generator=generator))
    means = mean_outputs(model, [tokenizer.encode(TEXT)])
    return model, means, *export(model, tokenizer, means, precision)


@pytest.mark.parametrize("name", SHAPES)
def test_greedy_tokens_and_logits_are_those_of_python(name, tokenizer):
    model, _, header, blob = exported(SHAPES[name], tokenizer)
    ids = tokenizer.encode(TEXT)
    job = "return [greedy(data.ids, 60), Array.from(model.logits, (x) => (isFinite(x) ? x : 0))]"
    found, logits = run_node(job, header, blob, ids=ids)
    (expected,) = Sampler(model, tokenizer).generate_ids(
        [ids], max_new_tokens=60, temperature=0.0, stop=False
    )
    assert found == expected
    whole = model(torch.tensor([ids + expected[:-1]]))[0, -1]
    assert np.abs(whole.detach().numpy() - logits)[: tokenizer.vocab_size].max() < 1e-4


@pytest.mark.parametrize("name", SHAPES)
def test_accounts_are_those_of_python_and_sum_to_the_logit(name, tokenizer):
    model, _, header, blob = exported(SHAPES[name], tokenizer)
    ids, target, rival = tokenizer.encode(TEXT), 17, 40
    job = """
        for (const id of data.ids) model.step(id);
        model.predict();
        const flat = (account) => ({...account, heads: account.heads.map((heads) =>
          heads.map((reads) => Array.from(reads))), neurons: account.neurons.map((x) => [...x])});
        return [flat(accountOf(model, data.target, data.rival)),
          accountOf(model, data.target, "mean").remainder,
          accountOf(model, data.rival, null).value];
    """
    found, remainder, value = run_node(job, header, blob, ids=ids, target=target, rival=rival)
    expected = attribute(model, ids, len(ids) - 1, [target, rival])
    for part in ("embedding", "position", "biases", "heads", "neurons"):
        whole = getattr(expected, part)
        assert np.allclose(found[part], whole[..., 0] - whole[..., 1], atol=1e-4), part
    assert found["value"] == pytest.approx(
        (expected.logits[0] - expected.logits[1]).item(), abs=1e-4
    )
    assert abs(found["remainder"]) < 1e-4 and abs(remainder) < 1e-4
    assert value == pytest.approx(expected.logits[1].item(), abs=1e-4)


@pytest.mark.parametrize("name", ["one-block", "gpt2"])
def test_switched_off_parts_give_the_logits_of_mean_ablation(name, tokenizer):
    model, means, header, blob = exported(SHAPES[name] | {"n_layer": 2}, tokenizer)
    ids, off = tokenizer.encode(TEXT), ["head:0.1", "head:1.3", "neuron:0.7", "neuron:1.100"]
    job = """
        model.setOff(data.off);
        for (const id of data.ids) model.step(id);
        model.predict();
        const account = accountOf(model, 17, null), ablated = model.logits.slice(0, 300);
        model.setOff([]);
        model.rewind(0);
        for (const id of data.ids) model.step(id);
        return [[...ablated], [...model.predict().slice(0, 300)], account.remainder];
    """
    found, restored, remainder = run_node(job, header, blob, ids=ids, off=off)
    whole = model(torch.tensor([ids]))[0, -1, :300].detach()
    with ablated(model, parse(",".join(off)), means):
        expected = model(torch.tensor([ids]))[0, -1, :300].detach()
    assert np.allclose(found, expected, atol=1e-4) and np.allclose(restored, whole, atol=1e-4)
    assert (expected - whole).abs().max() > 0.01 and abs(remainder) < 1e-4


def test_the_inputs_of_a_neuron_are_a_sum_of_parts(tokenizer):
    model, _, header, blob = exported(SHAPES["two-blocks"], tokenizer)
    ids = tokenizer.encode(TEXT)
    job = """
        for (const id of data.ids) model.step(id);
        const found = neuronInputs(model, 1, 5);
        const words = promoted(model, 1, 5, 4);
        return [found.gate.value, found.value.value, found.gate.heads.length, words];
    """
    gate, value, layers, words = run_node(job, header, blob, ids=ids)
    inputs = []
    model.blocks[1].mlp.up.register_forward_hook(lambda m, x, y: inputs.append(y[0, -1]))
    model(torch.tensor([ids]))
    neurons = model.config.mlp_hidden
    assert [gate, value] == pytest.approx(
        [inputs[0][5].item(), inputs[0][neurons + 5].item()], abs=1e-4
    )
    effects_V = model.head.weight @ (model.norm.weight * model.blocks[1].mlp.down.weight[:, 5])
    effects_V = effects_V[: tokenizer.vocab_size]
    assert layers == 2 and words["up"] == effects_V.topk(4).indices.tolist()
    assert words["down"] == (-effects_V).topk(4).indices.tolist()


NASTY = [
    "", " ", "  two  spaces   ", "I'm 12 and you're 345.", "naïve café ☕ 🐶👩‍👩‍👧 中文字符 ١٢٣ Ⅷ½",
    "tabs\tand\nlines\r\n\r\n  x", "\u0085\ufeff\u00a0\u3000x", "a" * 500,
    "<|endoftext|> <b>&amp;</b>",
    "don't 'tis O'Neil's", "\u0301e\u0301 \U0001d518", "x\u200by\x00z", "“Curly” – dashes… ‘q’",
]  # fmt: skip


@pytest.mark.parametrize("digits", ["single", "merged"])
def test_texts_are_tokenized_and_decoded_as_in_python(digits, stories, tmp_path):
    tokenizer = Tokenizer.train([*stories, *NASTY * 3], 500, digits)
    model = random_model(vocab_size=tokenizer.vocab_size)
    header, blob = export(model, tokenizer, mean_outputs(model, [[1]]), "float32")
    random = np.random.default_rng(0)
    texts = [
        *NASTY,
        *stories[:20],
        *("".join(map(chr, random.integers(1, 0x3000, 40))) for _ in "x" * 50),
    ]
    job = """return data.texts.map((text) => {
        const ids = tokenizer.encode(text);
        return [ids, tokenizer.decode(ids)];
    });"""
    for text, (ids, decoded) in zip(texts, run_node(job, header, blob, texts=texts)):
        assert ids == tokenizer.encode(text), text
        assert decoded == text


def test_prompts_of_a_run_are_cleaned_and_unknown_tokenizers_are_refused(tokenizer, tmp_path):
    from tokenizers import normalizers

    model = random_model(vocab_size=tokenizer.vocab_size)
    save(tmp_path, model, tokenizer)
    model, loaded = load(str(tmp_path))
    means = mean_outputs(model, [[1]])
    loaded.prepare = lambda text: text
    job = "return tokenizer.encode(data.text)"
    clean = tokenizer.encode('"x" - e...\u00e9')
    assert run_node(job, *export(model, loaded, means), text="“x” – e…e\u0301") == clean
    loaded.backend.normalizer = normalizers.Lowercase()
    with pytest.raises(UserError, match="byte-level BPE"):
        export(model, loaded, means)


def test_codes_are_exact_where_weights_are_multiples_of_a_power_of_two():
    random = torch.Generator().manual_seed(0)
    codes = torch.randint(-127, 128, (50, 64), generator=random).float()
    matrix = codes * torch.exp2(torch.randint(-9, 0, (50, 1), generator=random))
    found, scales = quantize(matrix)
    assert torch.equal(found * scales[:, None], matrix) and found.dtype == torch.int8
    matrix = torch.randn(50, 64, generator=random)
    found, scales = quantize(matrix)
    assert ((found * scales[:, None] - matrix).abs() <= matrix.abs().amax(1, True) / 253).all()
    assert not quantize(torch.zeros(2, 4))[0].any()


def test_int8_and_bfloat16_data_hold_the_weights(tokenizer):
    job = "return [model.blocks[0].qkv.weight.slice(0, 64), model.norm.weight].map((x) => [...x])"
    for precision, error in (("int8", 0.005), ("bfloat16", 0.003), ("float32", 0.0)):
        model, _, header, blob = exported({}, tokenizer, precision)
        weights, norm = run_node(job, header, blob)
        expected = model.blocks[0].attention.qkv.weight[0].detach()
        assert np.abs(np.array(weights) - expected.numpy()).max() <= error * expected.abs().max()
        assert np.array_equal(np.float32(norm), model.norm.weight.detach())
    with pytest.raises(Exception, match="head:0.9"), ablated(model, [Component("head", 0, 9)]):
        pass
