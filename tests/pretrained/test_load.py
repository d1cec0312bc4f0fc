"""Published families: read as transformers reads them, written so that transformers reads us."""

import copy
import json
import logging
import random
import struct
from pathlib import Path

import pytest
import torch
from helpers import ROOT, random_model
from torch.nn import functional as F

from minislm.config import PRESETS
from minislm.model import KVCache
from minislm.pretrained import llama2c
from minislm.pretrained.families import family_of, model_config_from_hf
from minislm.pretrained.load import load, save_model
from minislm.tokenizer import Tokenizer

VOCAB, CONTEXT = 400, 128
TINYSTORIES = ROOT.parent / "shared" / "tinystories"

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


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """These models are so small that threads only wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
    cache = KVCache(model.config, rows, length, model.embedding.weight)
    parts = [model(tokens[:, :first], cache, torch.arange(first).expand(rows, first))]
    for at in range(first, length):
        parts.append(model(tokens[:, at : at + 1], cache, torch.full((rows, 1), at)))
    return torch.cat(parts, dim=1)


@torch.no_grad()
def greedy(model, prompt: torch.Tensor, steps: int) -> list[int]:
    cache = KVCache(model.config, 1, len(prompt) + steps, model.embedding.weight)
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
    assert model_config_from_hf(config, "config.json").windows == (0, 6)
    config["window_size"] = CONTEXT
    assert model_config_from_hf(config, "config.json").windows == (0,)


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
def test_weights_come_in_the_asked_dtype(dtype, tmp_path, tokenizer):
    model = random_model(vocab_size=VOCAB)
    save_model(tmp_path, model, tokenizer)
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


@pytest.mark.parametrize("family,knobs", SAVED)
def test_what_we_save_transformers_opens(family, knobs, tmp_path, tokenizer, stories, caplog):
    transformers = pytest.importorskip("transformers")
    ours = random_model(vocab_size=VOCAB, **knobs)
    save_model(tmp_path, ours, tokenizer)
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


@pytest.mark.parametrize("knobs", [knobs for _, knobs in SAVED] + OWN)
def test_what_we_save_we_load(knobs, tmp_path, tokenizer):
    model = random_model(vocab_size=VOCAB, **knobs)
    save_model(tmp_path, model, tokenizer)
    loaded, _ = load(tmp_path)
    tokens = texts((90,))[0][None]
    assert torch.equal(loaded(tokens), model(tokens))
    assert loaded.n_parameters() == model.n_parameters()
    assert loaded.config.dropout == model.config.dropout
    model_type = json.loads((tmp_path / "config.json").read_text())["model_type"]
    assert (model_type == "minislm") == (knobs in OWN)
    if knobs in OWN:
        assert loaded.config == model.config
    assert family_of(loaded.config).model_type == model_type


def test_a_local_folder_wins_over_the_hub(tmp_path, tokenizer, monkeypatch):
    model = random_model(vocab_size=VOCAB)
    save_model(tmp_path / "owner" / "name", model, tokenizer)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minislm.pretrained.hub.fetch", None)  # calling it would be an error
    assert load("owner/name")[0].n_parameters() == model.n_parameters()


def test_ctranslate2_runs_what_we_save(tmp_path, tokenizer):
    ctranslate2 = pytest.importorskip("ctranslate2")
    pytest.importorskip("transformers")
    model = random_model(vocab_size=tokenizer.vocab_size)
    save_model(tmp_path / "run", model, tokenizer)
    converter = ctranslate2.converters.TransformersConverter(str(tmp_path / "run"))
    converter.convert(str(tmp_path / "ct2"))
    prompt = tokenizer.encode("Once upon a time")
    pieces = [tokenizer.backend.id_to_token(id) for id in prompt]
    result = ctranslate2.Generator(str(tmp_path / "ct2"), intra_threads=1).generate_batch(
        [pieces], max_length=60, sampling_topk=1, include_prompt_in_result=False, end_token=[]
    )
    found = result[0].sequences_ids[0]
    assert found == greedy(model, torch.tensor(prompt), 60)[: len(found)]
    assert len(found) == 60


# --- llama2.c -------------------------------------------------------------------------------------


def write_tokenizer_bin(file: Path, words: list[str]) -> None:
    """A tokenizer.bin that knows the characters of `words`, and `words`, best first.

    The better pieces get the higher ids, so that nobody can take ids for scores.
    """
    singles = sorted(set("".join(words)) | {" "})
    known = [*singles, *reversed([word for word in words if len(word) > 1])]
    pieces = ["<unk>", "\n<s>\n", "\n</s>\n", *llama2c._BYTES, *known]
    scores = [0.0] * 259 + [float(n) for n in range(len(known))]
    data = struct.pack("<i", max(len(piece.encode()) for piece in pieces))
    for piece, score in zip(pieces, scores, strict=True):
        data += struct.pack("<fi", score, len(piece.encode())) + piece.encode()
    file.write_bytes(data)


def reference_encode(file: Path, vocab_size: int, text: str) -> list[int]:
    """`encode` of run.c, line by line: merge the pair with the highest score, again and again."""
    pieces, scores = llama2c._read_pieces(file, vocab_size)
    ids = {piece: id for id, piece in enumerate(pieces) if id >= 3}
    tokens = []
    for character in " " + text if text else "":
        if character in ids:
            tokens.append(ids[character])
        else:
            tokens += [byte + 3 for byte in character.encode()]
    while True:
        best_score, best_id, best_at = -1e10, -1, -1
        for at, (left, right) in enumerate(zip(tokens, tokens[1:])):
            id = ids.get(pieces[left] + pieces[right])
            if id is not None and scores[id] > best_score:
                best_score, best_id, best_at = scores[id], id, at
        if best_at < 0:
            return tokens
        tokens[best_at : best_at + 2] = [best_id]


WORDS = (
    " t,he, the,in,ing,ca,at,cat, cat,aa,aaa,aaaa,  ,    ,\n\n,er,ere,there, there,é,éé,--,---"
).split(",")


@pytest.fixture
def small_llama2c(tmp_path) -> Path:
    """A random llama2.c model of version 0, untied, with grouped heads, and its tokenizer."""
    write_tokenizer_bin(tmp_path / "tokenizer.bin", WORDS)
    C, F, L, H, K, T = 24, 40, 2, 6, 2, 64
    V = 259 + len(set("".join(WORDS)) | {" "}) + sum(len(w) > 1 for w in WORDS)
    kv, generator = C // H * K, torch.Generator().manual_seed(3)
    shapes = [(V, C), (L, C), (L, C, C), (L, kv, C), (L, kv, C), (L, C, C), (L, C), (L, F, C),
              (L, C, F), (L, F, C), (C,), (T, C // H // 2), (T, C // H // 2), (V, C)]  # fmt: skip
    tensors = [torch.randn(shape, generator=generator) * 0.3 for shape in shapes]
    file = tmp_path / "small.bin"
    file.write_bytes(
        struct.pack("<7i", C, F, L, H, K, -V, T) + b"".join(t.numpy().tobytes() for t in tensors)
    )
    # The same in version 1: norms first, and no rotary tables.
    (tmp_path / "v1.bin").write_bytes(
        (struct.pack("<Ii7iB", 0x616B3432, 1, C, F, L, H, K, V, T, 0)).ljust(256, b"\0")
        + b"".join(tensors[n].numpy().tobytes() for n in (1, 6, 10, 0, 2, 3, 4, 5, 7, 8, 9, 13))
    )
    torch.save(tensors, tmp_path / "tensors.pt")
    return file


@torch.no_grad()
def llama2c_logits(tensors: list[torch.Tensor], H: int, K: int, tokens) -> torch.Tensor:
    """The model of llama2.c the obvious way: one row, pairs of neighbours turned as numbers."""
    embedding, n1, wq, wk, wv, wo, n2, w1, w2, w3, norm, _, _, head = tensors
    T, D = len(tokens), embedding.shape[1] // H

    def rms(x, weight):
        return x * (x.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt() * weight

    def turned(x):  # [T, heads, D] as complex numbers
        angle = torch.outer(torch.arange(T), 10000.0 ** (-torch.arange(0, D, 2) / D))
        pairs = torch.view_as_complex(x.reshape(T, -1, D // 2, 2).contiguous())
        turns = torch.polar(torch.ones_like(angle), angle)[:, None]
        return torch.view_as_real(pairs * turns).flatten(2)

    x = embedding[tokens]
    for i in range(len(n1)):
        h = rms(x, n1[i])
        q, k = turned((h @ wq[i].T).view(T, H, D)), turned((h @ wk[i].T).view(T, K, D))
        k, v = (y.repeat_interleave(H // K, dim=1) for y in (k, (h @ wv[i].T).view(T, K, D)))
        scores = torch.einsum("thd,shd->hts", q, k) / D**0.5
        scores = scores.masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf)
        x = x + torch.einsum("hts,shd->thd", scores.softmax(-1), v).flatten(1) @ wo[i].T
        h = rms(x, n2[i])
        x = x + (F.silu(h @ w1[i].T) * (h @ w3[i].T)) @ w2[i].T
    return rms(x, norm) @ head.T


@pytest.mark.parametrize("name", ["small.bin", "v1.bin"])
def test_a_llama2c_file_computes_what_llama2c_computes(name, small_llama2c, tmp_path):
    model, tokenizer = load(small_llama2c.with_name(name))
    tokens = torch.randint(0, model.config.vocab_size, (50,))
    tensors = torch.load(tmp_path / "tensors.pt", weights_only=True)
    expected = llama2c_logits(tensors, 6, 2, tokens)
    assert (model(tokens[None])[0] - expected).abs().max() < 1e-4
    assert not model.config.tied
    save_model(tmp_path / "saved", model, tokenizer)
    again, same = load(tmp_path / "saved")
    assert torch.equal(again(tokens[None]), model(tokens[None]))
    assert (same.eot_id, same.prompt_ids("the cat")) == (1, tokenizer.prompt_ids("the cat"))


def test_the_llama2c_tokenizer_is_that_of_run_c(small_llama2c):
    file = small_llama2c.with_name("tokenizer.bin")
    model, tokenizer = load(small_llama2c)
    source = random.Random(0)
    letters = "aaaa   theincrg-\n-éx漢<s>"
    for _ in range(300):
        text = "".join(source.choices(letters, k=source.randrange(30)))
        ids = tokenizer.encode(text)
        assert ids == reference_encode(file, model.config.vocab_size, text), text
        assert tokenizer.decode(ids) == text
        assert tokenizer.prompt_ids(text) == [1, *ids]
    assert tokenizer.eot_id == 1 and tokenizer.decode([1, *tokenizer.encode("cat")]) == "cat"


needs_stories260k = pytest.mark.skipif(
    not (TINYSTORIES / "stories260K.bin").exists(), reason=f"no stories260K.bin in {TINYSTORIES}"
)


@needs_stories260k
def test_stories260k_knows_its_stories():
    model, tokenizer = load(TINYSTORIES / "stories260K.bin")
    with open(TINYSTORIES / "v2-valid.txt", encoding="utf-8") as file:
        stories = file.read(60_000).split("<|endoftext|>")[:-1]
    nats = count = 0
    for story in stories:
        ids = torch.tensor(tokenizer.prompt_ids(story.strip())[: model.config.context + 1])
        with torch.no_grad():
            logits = model(ids[None, :-1])[0]
        nats += float(F.cross_entropy(logits, ids[1:], reduction="sum"))
        count += len(ids) - 1
        text = story.strip()[:200]
        assert tokenizer.encode(text) == reference_encode(TINYSTORIES / "tok512.bin", 512, text)
    assert 1.2 < nats / count < 1.45
    told = tokenizer.decode(greedy(model, torch.tensor(tokenizer.prompt_ids("")), 40))
    assert told.startswith("Once upon a time, there was a little")


@pytest.mark.skipif(
    not (ROOT.parent / "shared" / "gpt2-tokenizer").exists(), reason="no gpt2-tokenizer here"
)
@needs_stories260k
def test_gpt2_tokens_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    folder = ROOT.parent / "shared" / "gpt2-tokenizer"
    text = (TINYSTORIES / "v2-valid.txt").read_bytes()[:1_000_000].decode(errors="ignore")
    theirs = transformers.GPT2TokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"))
    stories = text.split("<|endoftext|>")
    ours = Tokenizer.load(folder)
    assert ours.encode_batch(stories) == [theirs(story).input_ids for story in stories]
