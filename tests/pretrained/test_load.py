"""Published families, read as transformers reads them."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pretrained.models import CONTEXT, LLAMA3_ROPE, VOCAB, assert_same, our_model, padded, texts

from minislm.pretrained.families import parse_config
from minislm.pretrained.load import load
from minislm.pretrained.save import save

GPT2 = dict(model_type="gpt2", n_embd=48, n_positions=CONTEXT, n_head=3)
NEO = dict(model_type="gpt_neo", hidden_size=48, max_position_embeddings=CONTEXT, num_heads=3)
LLAMA = dict(
    model_type="llama", hidden_size=48, max_position_embeddings=CONTEXT, intermediate_size=56,
    num_attention_heads=6, rope_theta=10000.0,
)  # fmt: skip
SHAPES = {
    "gpt2": GPT2 | dict(n_layer=2),
    "gpt2-untied": GPT2 | dict(n_layer=1, n_inner=40, tie_word_embeddings=False),
    "gpt2-unscaled": GPT2 | dict(n_layer=4, n_head=4, scale_attn_weights=False),
    "neo": NEO | dict(num_layers=4, attention_types=[[["global", "local"], 2]], window_size=6),
    "neo-local": NEO
    | dict(num_layers=1, attention_types=[[["local"], 1]], window_size=5, intermediate_size=40),
    "neo-untied": NEO
    | dict(
        num_layers=3, attention_types=[[["local"], 2], [["global"], 1]], window_size=7,
        tie_word_embeddings=False,
    ),
    "llama": LLAMA | dict(num_hidden_layers=2, num_key_value_heads=2),
    "llama-odd": LLAMA
    | dict(
        num_hidden_layers=3, num_attention_heads=3, num_key_value_heads=1, head_dim=10,
        tie_word_embeddings=True,
    ),
    "llama-biases": LLAMA | dict(num_hidden_layers=1, attention_bias=True, mlp_bias=True),
    "llama-linear": LLAMA
    | dict(num_hidden_layers=2, rope_scaling=dict(type="linear", factor=3.0), rope_theta=500.0),
    "llama-3": LLAMA
    | dict(num_hidden_layers=4, num_key_value_heads=3, rope_scaling=LLAMA3_ROPE,
           tie_word_embeddings=True),
}  # fmt: skip


def their_model(shape: dict, seed: int = 0):
    """A random model of transformers whose every tensor matters."""
    transformers = pytest.importorskip("transformers")
    shape = copy.deepcopy(shape)  # transformers writes into a rope_scaling that it is given
    ids = dict(bos_token_id=0, eos_token_id=0)
    config = transformers.AutoConfig.for_model(**shape, **ids, vocab_size=VOCAB)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(std=0.2, generator=generator)
            if weight.ndim == 1 and name.endswith("weight"):
                weight += 1
    return model


def write_bin(model, folder: Path, shards: int = 1, prefix: bool = True) -> None:
    """pytorch_model.bin as old versions of transformers wrote it, mask buffers included."""
    folder.mkdir(exist_ok=True)
    model.config.save_pretrained(folder)
    state = dict(model.state_dict())
    for layer in range(model.config.num_hidden_layers):
        attention = {"gpt2": "attn", "gpt_neo": "attn.attention"}.get(model.config.model_type)
        if attention:
            mask = torch.ones(1, 1, CONTEXT, CONTEXT, dtype=torch.uint8).tril()
            state[f"transformer.h.{layer}.{attention}.bias"] = mask
            state[f"transformer.h.{layer}.{attention}.masked_bias"] = torch.tensor(-1e9)
        else:
            name = f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"
            state[name] = torch.ones(4)
    if not prefix:
        state.pop("lm_head.weight")
        state = {name.split(".", 1)[1]: tensor for name, tensor in state.items()}
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return
    weight_map = {name: f"part-{n % shards}.bin" for n, name in enumerate(state)}
    for file in set(weight_map.values()):
        torch.save({n: state[n] for n, of in weight_map.items() if of == file}, folder / file)
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("name", SHAPES)
def test_logits_and_greedy_tokens_are_those_of_transformers(name, tmp_path, tokenizer):
    theirs = their_model(SHAPES[name])
    theirs.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    ours, loaded = load(tmp_path)
    assert not ours.training and loaded.eot_id == tokenizer.eot_id
    assert_same(ours, theirs)
    assert (ours.head.weight is ours.embedding.weight) == ours.config.tied
    shape = theirs.config.to_dict()  # rope_parameters, as transformers 5 spells it, or the older
    assert ours.config.rope_theta == SHAPES[name].get("rope_theta", 10000.0), shape


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("name", ["gpt2", "neo", "llama-odd", "llama"])
def test_bin_files_whole_and_in_shards(name, shards, tmp_path, tokenizer):
    theirs = their_model(SHAPES[name])
    write_bin(theirs, tmp_path, shards)
    tokenizer.save(tmp_path)
    tokens, real = padded(texts())
    with torch.no_grad():
        expected = theirs(tokens, attention_mask=real.long()).logits
        assert (load(tmp_path)[0](tokens) - expected)[real].abs().max() < 1e-4


def test_windows_that_hide_nothing_are_none():
    config = SHAPES["neo"] | dict(vocab_size=VOCAB)
    assert parse_config(config)[1].windows == (0, 6)
    config["window_size"] = CONTEXT
    assert parse_config(config)[1].windows == (0,)


@pytest.mark.parametrize("name", ["gpt2", "neo", "llama-odd"])
def test_the_prefix_of_tensor_names_may_be_absent(name, tmp_path, tokenizer):
    theirs = their_model(SHAPES[name])
    write_bin(theirs, tmp_path, prefix=False)
    tokenizer.save(tmp_path)
    tokens = texts((20,))[0][None]
    with torch.no_grad():
        assert (load(tmp_path)[0](tokens) - theirs(tokens).logits).abs().max() < 1e-4


def test_the_old_bin_format_and_sharded_safetensors(tmp_path, tokenizer):
    theirs, tokens = their_model(SHAPES["gpt2"]), texts((20,))[0][None]
    expected = theirs(tokens).logits
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    write_bin(theirs, tmp_path / "old")
    file = tmp_path / "old" / "pytorch_model.bin"
    torch.save(torch.load(file, weights_only=True), file, _use_new_zipfile_serialization=False)
    for folder in ("shards", "old"):
        tokenizer.save(tmp_path / folder)
        assert (load(tmp_path / folder)[0](tokens) - expected).abs().max() < 1e-4


def test_rope_scaling_in_the_keys_of_transformers_5(tmp_path, tokenizer):
    theirs = their_model(SHAPES["llama-3"])
    theirs.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for key in ("rope_scaling", "rope_theta", "rope_parameters"):
        config.pop(key, None)
    tokens = texts((90,))[0][None]
    variants = (
        {"rope_parameters": LLAMA3_ROPE | {"rope_theta": 777.0}},
        {"rope_scaling": LLAMA3_ROPE, "rope_theta": 777.0},
    )
    logits = []
    for variant in variants:
        (tmp_path / "config.json").write_text(json.dumps(config | variant))
        logits.append(load(tmp_path)[0](tokens))
    torch.testing.assert_close(*logits)
    assert (logits[0] - theirs(tokens).logits).abs().max() > 0.01  # theta was 10000


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_have_the_given_dtype(dtype, tmp_path, tokenizer):
    model = our_model()
    save(tmp_path, model, tokenizer)
    loaded, _ = load(tmp_path, dtype=dtype)
    tokens = texts((40,))[0][None]
    assert {str(weight.dtype) for weight in loaded.parameters()} == {f"torch.{dtype}"}
    assert loaded.cos.dtype == torch.float32
    save(tmp_path, loaded, tokenizer)
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == dtype
    assert (loaded(tokens).float() - model(tokens)).abs().max() < 0.1 * model(tokens).abs().max()


def test_a_local_folder_wins_over_the_hub(tmp_path, tokenizer, monkeypatch):
    model = our_model()
    save(tmp_path / "owner" / "name", model, tokenizer)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minislm.pretrained.hub.fetch", None)  # calling it would be an error
    assert load("owner/name")[0].n_parameters() == model.n_parameters()


# --- Memory and time ------------------------------------------------------------------------------


def test_loading_imports_neither_the_compiler_nor_the_hub(tmp_path, tokenizer):
    save(tmp_path, our_model(), tokenizer)
    code = (
        "import sys; from minislm.pretrained.load import load; load(sys.argv[1])\n"
        "heavy = {'torch._dynamo', 'torch._inductor', 'sympy', 'huggingface_hub', 'transformers'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr
