"""Published families: read as transformers reads them, written so that transformers reads ours."""

import copy
import json
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import random_model

from minislm.checkpoint import save_model
from minislm.config import PRESETS
from minislm.kv_cache import KVCache
from minislm.model import Transformer
from minislm.pretrained.families import family_of, parse_config
from minislm.pretrained.load import load
from minislm.pretrained.rope import scaled_rotary_tables
from minislm.pretrained.save import save
from minislm.runtime.errors import UserError

VOCAB, CONTEXT = 400, 128

GPT2 = dict(model_type="gpt2", n_embd=48, n_positions=CONTEXT, n_head=3)
NEO = dict(model_type="gpt_neo", hidden_size=48, max_position_embeddings=CONTEXT, num_heads=3)
LLAMA = dict(
    model_type="llama", hidden_size=48, max_position_embeddings=CONTEXT, intermediate_size=56,
    num_attention_heads=6, rope_theta=10000.0,
)  # fmt: skip
LLAMA3_ROPE = dict(
    rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=64,
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


def our_model(**options) -> Transformer:
    """A random model; one with a rope_scaling computes it, as `load` makes it."""
    scaling = options.pop("rope_scaling", None)
    model = random_model(vocab_size=VOCAB, **options)
    if scaling is not None:
        model.config = replace(model.config, rope_scaling=scaling)
        model.cos, model.sin = scaled_rotary_tables(model.config)
    return model


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


def texts(lengths=(90, 3, 41)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, VOCAB, (n,), generator=generator) for n in lengths]


def padded(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded tokens and their mask."""
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return tokens, torch.arange(tokens.shape[1]) < torch.tensor([[len(row)] for row in rows])


@torch.no_grad()
def cached_logits(model, tokens, first: int = 30) -> torch.Tensor:
    """The same logits in two halves: a prompt at once, the rest token by token."""
    rows, length = tokens.shape
    cache = KVCache.empty(model.config, rows, length, like=model.embedding.weight)
    parts = [model(tokens[:, :first], cache, torch.arange(first).expand(rows, first))]
    for at in range(first, length):
        parts.append(model(tokens[:, at : at + 1], cache, torch.full((rows, 1), at)))
    return torch.cat(parts, dim=1)


@torch.no_grad()
def greedy(model, prompt: torch.Tensor, steps: int) -> list[int]:
    cache = KVCache.empty(model.config, 1, len(prompt) + steps, like=model.embedding.weight)
    tokens, pos, found = prompt[None], torch.arange(len(prompt))[None], []
    for _ in range(steps):
        tokens = model(tokens, cache, pos)[:, -1:].argmax(-1)
        pos = pos[:, -1:] + 1
        found.append(int(tokens))
    return found


def assert_same(ours, theirs) -> None:
    """Equal logits at all real positions, with and without cache, and the same greedy tokens."""
    tokens, real = padded(texts())
    with torch.no_grad():
        expected = theirs(tokens, attention_mask=real.long()).logits
        got = ours(tokens)
    assert expected.std() > 0.3  # else anything would be close
    assert (got - expected)[real].abs().max() < 1e-4
    assert (cached_logits(ours, tokens) - expected)[real].abs().max() < 1e-4
    prompt = texts((9,))[0]
    theirs.generation_config.eos_token_id = None
    wanted = theirs.generate(
        prompt[None], attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        max_new_tokens=100, do_sample=False, pad_token_id=0,
    )[0, len(prompt) :]  # fmt: skip
    assert greedy(ours, prompt, 100) == wanted.tolist()


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


def test_transformers_5_spelling_of_rope(tmp_path, tokenizer):
    theirs = their_model(SHAPES["llama-3"])
    theirs.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for key in ("rope_scaling", "rope_theta", "rope_parameters"):
        config.pop(key, None)
    tokens = texts((90,))[0][None]
    spellings = (
        {"rope_parameters": LLAMA3_ROPE | {"rope_theta": 777.0}},
        {"rope_scaling": LLAMA3_ROPE, "rope_theta": 777.0},
    )
    logits = []
    for spelling in spellings:
        (tmp_path / "config.json").write_text(json.dumps(config | spelling))
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
    assert (loaded(tokens).float() - model(tokens)).abs().max() < 0.1 * model(tokens).abs().max()


SAVED = [
    ("llama", {}),
    ("llama", PRESETS["two-blocks"]),
    ("llama", dict(n_layer=1, tied=False, qkv_bias=True, out_bias=True, mlp_bias=True)),
    ("llama", dict(n_head=4, head_dim=10, rope_scaling=LLAMA3_ROPE, rope_theta=500.0)),
    ("gpt2", PRESETS["gpt2"] | dict(n_layer=2)),
    ("gpt2", PRESETS["gpt2"] | dict(mlp_width=40, tied=False, windows=(128,))),
    ("gpt_neo", PRESETS["gpt-neo"] | dict(windows=(0, 6), n_layer=3)),
    ("gpt_neo", PRESETS["gpt-neo"] | dict(windows=(0,), n_layer=1, dropout=0.1)),
]
OWN = [
    dict(norm="layernorm"),
    dict(qkv_bias=True),
    dict(windows=(0, 6)),
    PRESETS["gpt2"] | dict(n_kv_head=2),
    PRESETS["gpt-neo"] | dict(windows=(0, 6, 9), n_layer=3),
    dict(width=40, n_head=3, n_kv_head=1, head_dim=10),
    dict(attention_scale=False, rope_scaling={"rope_type": "linear", "factor": 2.0}),
]


@pytest.mark.parametrize("family,options", SAVED)
def test_what_we_save_transformers_opens(family, options, tmp_path, tokenizer, stories, caplog):
    transformers = pytest.importorskip("transformers")
    ours = our_model(**options)
    save(tmp_path, ours, tokenizer)
    root = logging.getLogger("transformers")
    root.addHandler(caplog.handler)
    try:
        theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path, output_loading_info=True
        )
        their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    finally:
        root.removeHandler(caplog.handler)
    assert not caplog.records
    assert not any(info.values()), info
    assert theirs.config.model_type == family
    assert_same(ours, theirs.eval())
    assert their_tokenizer(stories[0]).input_ids == tokenizer.encode(stories[0])
    assert their_tokenizer.model_max_length == CONTEXT
    ids = theirs.generation_config
    assert ids.eos_token_id is None  # assert_same has taken it out; the file has it
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {
        "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
    }  # fmt: skip


@pytest.mark.parametrize("options", [options for _, options in SAVED] + OWN)
def test_what_we_save_we_load(options, tmp_path, tokenizer):
    model = our_model(**options)
    save(tmp_path, model, tokenizer)
    loaded, _ = load(tmp_path)
    tokens = texts((90,))[0][None]
    assert torch.equal(loaded(tokens), model(tokens))
    assert loaded.n_parameters() == model.n_parameters()
    assert loaded.config.dropout == model.config.dropout
    model_type = json.loads((tmp_path / "config.json").read_text())["model_type"]
    assert (model_type == "minislm") == (options in OWN)
    if options in OWN:
        assert loaded.config == model.config
    assert family_of(loaded.config).model_type == model_type


def test_a_local_folder_wins_over_the_hub(tmp_path, tokenizer, monkeypatch):
    model = our_model()
    save(tmp_path / "owner" / "name", model, tokenizer)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minislm.pretrained.hub.fetch", None)  # calling it would be an error
    assert load("owner/name")[0].n_parameters() == model.n_parameters()


def test_ctranslate2_runs_what_we_save(tmp_path, tokenizer):
    ctranslate2 = pytest.importorskip("ctranslate2")
    pytest.importorskip("transformers")
    model = random_model(vocab_size=tokenizer.vocab_size)
    save(tmp_path / "run", model, tokenizer)
    converter = ctranslate2.converters.TransformersConverter(str(tmp_path / "run"))
    converter.convert(str(tmp_path / "ct2"))
    prompt = tokenizer.encode("Once upon a time")
    tokens = [tokenizer.backend.id_to_token(id) for id in prompt]
    result = ctranslate2.Generator(str(tmp_path / "ct2"), intra_threads=1).generate_batch(
        [tokens], max_length=60, sampling_topk=1, include_prompt_in_result=False, end_token=[]
    )
    found = result[0].sequences_ids[0]
    assert found == greedy(model, torch.tensor(prompt), 60)[: len(found)]
    assert len(found) == 60


def test_folders_that_the_core_writes(tmp_path, tokenizer):
    for n, (_, options) in enumerate(SAVED):
        model = our_model(**options)
        save_model(tmp_path / str(n), model, tokenizer)
        loaded, _ = load(tmp_path / str(n))
        tokens = texts((90,))[0][None]
        assert torch.equal(loaded(tokens), model(tokens))
        assert loaded.config == model.config


OLD_CONFIGS = {  # as the versions before the folder pretrained/ wrote them
    "llama": (
        dict(qkv_bias=True, out_bias=True),
        dict(architectures=["LlamaForCausalLM"], num_hidden_layers=2, hidden_size=64,
             num_attention_heads=4, num_key_value_heads=2, head_dim=16, intermediate_size=192,
             max_position_embeddings=128, rms_norm_eps=1e-5, attention_bias=True, mlp_bias=False,
             tie_word_embeddings=True, attention_dropout=0.0, hidden_act="silu",
             rope_theta=10000.0, rope_scaling=None, torch_dtype="float32", use_cache=True),
    ),
    "gpt2": (
        PRESETS["gpt2"],
        dict(architectures=["GPT2LMHeadModel"], n_layer=2, n_embd=64, n_head=4, n_inner=256,
             n_positions=128, layer_norm_epsilon=1e-5, scale_attn_weights=True,
             tie_word_embeddings=True, resid_pdrop=0.0, n_ctx=128, embd_pdrop=0.0,
             attn_pdrop=0.0,
             activation_function="gelu_new", scale_attn_by_inverse_layer_idx=False,
             add_cross_attention=False, torch_dtype="float32", use_cache=True),
    ),
    "gpt_neo": (
        PRESETS["gpt-neo"] | dict(windows=(0, 6)),
        dict(architectures=["GPTNeoForCausalLM"], num_layers=2, hidden_size=64, num_heads=4,
             intermediate_size=256, max_position_embeddings=128, layer_norm_epsilon=1e-5,
             tie_word_embeddings=True, resid_dropout=0.0, embed_dropout=0.0,
             attention_dropout=0.0, activation_function="gelu_new",
             attention_layers=["global", "local"], attention_types=[[["global", "local"], 1]],
             window_size=6, torch_dtype="float32", use_cache=True),
    ),
    "minislm": (
        dict(norm="layernorm", windows=(0, 6)),
        dict(n_layer=2, width=64, n_head=4, n_kv_head=2, head_dim=0, mlp_width=0, context=128,
             norm="layernorm", norm_eps=1e-5, position="rotary", rope_theta=10000.0,
             mlp="gated_silu", qkv_bias=False, out_bias=False, mlp_bias=False,
             attention_scale=True, windows=[0, 6], tied=True, dropout=0.0, rope_scaling=None),
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", OLD_CONFIGS)
def test_config_json_is_that_of_earlier_versions(family, tmp_path, tokenizer):
    options, old = OLD_CONFIGS[family]
    old |= dict(model_type=family, vocab_size=VOCAB)
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.eot_id)
    model = our_model(**options)
    save(tmp_path, model, tokenizer)
    file = tmp_path / "config.json"
    assert json.loads(file.read_text()) == old | ids
    file.write_text(json.dumps(old | ids))
    assert torch.equal(load(tmp_path)[0].embedding.weight, model.embedding.weight)


# --- rope_scaling ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", [LLAMA3_ROPE, {"rope_type": "linear", "factor": 2.0}])
def test_rope_scaling_survives_copies_and_folders(scaling, tmp_path, tokenizer):
    model, tokens = our_model(rope_scaling=scaling), texts((90,))[0][None]
    expected = model(tokens)
    assert (expected - our_model()(tokens)).abs().max() > 0.01  # the scaling matters
    save(tmp_path / "a", copy.deepcopy(model), tokenizer)
    loaded, _ = load(tmp_path / "a")
    assert loaded.config.rope_scaling == scaling
    save(tmp_path / "b", loaded, tokenizer)
    again, _ = load(tmp_path / "b")
    for each in (copy.deepcopy(model), loaded, again, copy.deepcopy(again)):
        assert torch.equal(each(tokens), expected)


def test_a_model_that_does_not_compute_its_rope_scaling_is_not_saved(tmp_path, tokenizer):
    model = our_model(rope_scaling=LLAMA3_ROPE)
    save(tmp_path / "rounded", model.bfloat16(), tokenizer)
    plain = our_model()
    plain.config = model.config  # as Transformer(config) would be, were it not refused
    with pytest.raises(UserError, match="rope_scaling"):
        save(tmp_path / "plain", plain, tokenizer)
    assert not (tmp_path / "plain").exists()


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
