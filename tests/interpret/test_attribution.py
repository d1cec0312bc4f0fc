"""Direct logit attribution, compared with the model's logits and with hooks on its modules."""

from __future__ import annotations

import pytest
import torch
from helpers import random_model

from minislm.config import PRESETS
from minislm.interpret.attribution import attribute

_LLAMA_BIAS = {"qkv_bias": True, "out_bias": True, "mlp_bias": True}
SHAPES = {
    "one block": {"n_layer": 1},
    "one block, untied, biases": {"n_layer": 1, "tied": False, **_LLAMA_BIAS},
    "two blocks": PRESETS["two-blocks"] | {"n_head": 4, "mlp_width": 0},
    "four blocks, untied": {"n_layer": 4, "tied": False, "n_kv_head": 1},
    "one GPT-2 block": PRESETS["gpt2"],
    "two GPT-2 blocks, untied": PRESETS["gpt2"] | {"n_layer": 2, "tied": False},
    "four GPT-Neo blocks": PRESETS["gpt-neo"] | {"n_layer": 4, "windows": (0, 5)},
    "LayerNorm, rotary": {"norm": "layernorm", "n_layer": 2, "tied": False},
}


def make(name: str):
    model = random_model(**SHAPES[name])
    generator = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        if weight.ndim == 1:
            with torch.no_grad():
                weight.add_(0.5 * torch.randn(len(weight), generator=generator))
    ids = torch.randint(0, 300, (24,), generator=generator).tolist()
    return model, ids


@pytest.mark.parametrize("name", SHAPES)
def test_the_parts_sum_to_the_logits_of_the_model(name):
    model, ids = make(name)
    for position in (0, 7, 23):
        found = attribute(model, ids, position, [3, 250, 17])
        logits = model(torch.tensor([ids]))[0, position, [3, 250, 17]].detach()
        assert torch.allclose(found.logits, logits, atol=1e-5) and found.targets == [3, 250, 17]
        assert torch.allclose(found.total, logits, atol=1e-4)
        assert found.remainder.abs().max() < 1e-4
        L, H, F = model.config.n_layer, model.config.n_head, model.config.mlp_hidden
        assert found.heads.shape == (L, H, position + 1, 3) and found.neurons.shape == (L, F, 3)


@pytest.mark.parametrize("name", ["two blocks", "two GPT-2 blocks, untied"])
def test_each_part_is_what_its_module_adds(name):
    """With the final norm's scale held, what a module writes changes the logit by that much."""
    model, ids = make(name)
    found, target = attribute(model, ids, 20, [9]), 9
    written, final = {}, []
    for block in model.blocks:
        for module in (block.attention, block.mlp):
            module.register_forward_hook(lambda m, x, y: written.update({m: y[0, 20]}))
    model.norm.register_forward_pre_hook(lambda m, x: final.append(x[0][0, 20]))
    with torch.no_grad():
        model(torch.tensor([ids]))
        centred = final[0] - final[0].mean() * isinstance(model.norm, torch.nn.LayerNorm)
        scale = (centred.square().mean() + model.norm.eps).rsqrt()
        u = model.head.weight[target] * model.norm.weight * scale
        if isinstance(model.norm, torch.nn.LayerNorm):
            u = u - u.mean()
        constants = 0.0
        for layer, block in enumerate(model.blocks):
            biases = (block.attention.qkv.bias, block.attention.out.bias, block.mlp.down.bias)
            bias = [torch.zeros(1) if each is None else each for each in biases]
            values = bias[0].view(-1, model.config.head_width)[-model.config.kv_heads :]
            values = values.repeat_interleave(model.config.n_head // model.config.kv_heads, 0)
            constant = u @ (block.attention.out.weight @ values.flatten() + bias[1])
            heads = (u @ written[block.attention] - constant).item()
            assert found.heads[layer].sum() == pytest.approx(heads, abs=1e-4)
            down = (u * bias[2]).sum()
            neurons = (u @ written[block.mlp] - down).item()
            assert found.neurons[layer].sum() == pytest.approx(neurons, abs=1e-4)
            constants += constant + down
        if isinstance(model.norm, torch.nn.LayerNorm):
            constants += model.head.weight[target] @ model.norm.bias
        embedding = (u @ model.embedding.weight[ids[20]]).item()
    assert found.biases.item() == pytest.approx(constants.item(), abs=1e-4)
    assert found.embedding.item() == pytest.approx(embedding, abs=1e-4)
    if model.position is not None:
        assert found.position.item() == pytest.approx(
            (u @ model.position.weight[20]).item(), abs=1e-4
        )


def test_a_head_is_attributed_to_the_token_that_it_read():
    """In one block, another token at s changes the part of s and the attention weights alone."""
    model, ids = make("one block")
    whole = attribute(model, ids, 23, [5, 6])
    v = model.blocks[0].attention.qkv(
        model.blocks[0].attention_norm(model.embedding(torch.tensor(ids)))
    )
    values_TKD = v[:, -model.config.kv_heads * model.config.head_width :].detach()
    values_TKD = values_TKD.unflatten(1, (model.config.kv_heads, -1))
    for h in range(4):
        shared = values_TKD[:, h // (4 // model.config.kv_heads)]
        ratio = (
            whole.heads[0, h, :, 0] / whole.heads[0, h, :, 1]
        )  # the attention weights cancel out
        out = model.blocks[0].attention.out.weight[:, h * 16 : (h + 1) * 16].detach()
        effect = shared @ out.T @ (model.head.weight[[5, 6]] * model.norm.weight).T.detach()
        assert torch.allclose(ratio, effect[:, 0] / effect[:, 1], rtol=1e-2)


def test_by_default_the_two_most_probable_tokens_are_attributed():
    model, ids = make("one block")
    found = attribute(model, ids, 10)
    assert found.targets == model(torch.tensor([ids]))[0, 10].topk(2).indices.tolist()
    assert found.logits[0] > found.logits[1]


def test_positions_outside_the_text_are_refused():
    model, ids = make("one block")
    for position in (-1, 24):
        with pytest.raises(IndexError, match="position"):
            attribute(model, ids, position)
    with pytest.raises(ValueError, match="context"):
        attribute(model, [1] * 200, 199)
