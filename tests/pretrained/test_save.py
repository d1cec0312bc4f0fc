"""Saved models: transformers and CTranslate2 open them, and `load` reads back the same model."""

import copy
import json
import logging

import pytest
import torch
from helpers import random_model
from pretrained.models import CONTEXT, LLAMA3_ROPE, VOCAB, assert_same, greedy, our_model, texts

from minislm.checkpoint import save_model
from minislm.config import PRESETS
from minislm.pretrained.families import family_of
from minislm.pretrained.load import load
from minislm.pretrained.save import save
from minislm.runtime.errors import UserError

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
             attention_scale=True, windows=[0, 6], tied=True, dropout=0.0, rope_scaling=None,
             run_tokens=[], qk_scale=0.0, null_cosine=0.0),
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
    newer = ("run_tokens", "qk_scale", "null_cosine")  # an older file lacks them
    file.write_text(json.dumps({k: v for k, v in (old | ids).items() if k not in newer}))
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
