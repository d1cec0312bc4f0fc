"""Tokenizers with fewer or more tokens than the embedding has rows."""

import json
from dataclasses import replace

import pytest
import torch
from helpers import random_model
from pretrained.models import refused
from tokenizers import AddedToken, ByteLevelBPETokenizer
from tokenizers import Tokenizer as Backend

from minislm.config import PRESETS, SampleConfig
from minislm.evaluation import exact_match
from minislm.fast.sampler import FastSampler
from minislm.model import Transformer
from minislm.pretrained.load import load
from minislm.pretrained.save import save
from minislm.runtime.errors import UserError
from minislm.sampler import PlainEngine, Sampler
from minislm.tokenizer import Tokenizer

both = pytest.mark.parametrize("kind", [Sampler, FastSampler], ids=["plain", "fast"])
PROMPTS = ["Once upon a time", "One day, a girl", "", "The"] * 3


def cut(model: Transformer, rows: int) -> Transformer:
    """The same model without the last rows of its embedding and of its head."""
    small = Transformer(replace(model.config, vocab_size=rows))
    state = model.state_dict()
    for name in ("embedding.weight", "head.weight"):
        state[name] = state[name][:rows]
    small.load_state_dict(state)
    return small.eval()


SETTINGS = [
    dict(temperature=0.0),
    dict(temperature=2.0),
    dict(temperature=1.0, top_k=40),
    dict(temperature=1.0, top_p=0.9),
    dict(temperature=1.5, min_p=0.01),
    dict(temperature=1.0, repetition_penalty=1.3),
    dict(temperature=2.0, logprobs=True),
    dict(temperature=2.0, stop_strings=("e",)),
]


@both
@pytest.mark.parametrize("more", [140])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_ids_without_a_token_are_never_sampled(kind, more, settings, tokenizer):
    rows = tokenizer.vocab_size
    model = random_model(vocab_size=rows + more)
    with torch.no_grad():
        model.embedding.weight[rows:] *= 2  # probable ones, were they not left out
    options = dict(max_new_tokens=30, seeds=range(len(PROMPTS)), **settings)
    expected = Sampler(cut(model, rows), tokenizer).generate(PROMPTS, **options)
    assert kind(model, tokenizer).generate(PROMPTS, **options) == expected
    ids = kind(model).generate_ids([[5]], max_new_tokens=90, temperature=2.0)
    assert more == 1 or max(ids[0]) >= rows


@both
@pytest.mark.parametrize("settings", [dict(temperature=0.0), dict(temperature=1.0)], ids=str)
@pytest.mark.parametrize("rows", [60, 20], ids=["rows for all", "the gap exceeds the rows"])
def test_ids_in_a_gap_of_the_vocabulary_are_never_sampled(kind, rows, settings, tokenizer):
    contents, last = json.loads(tokenizer.backend.to_str()), tokenizer.vocab_size - 1
    vocabulary = contents["model"]["vocab"]
    vocabulary[max(vocabulary, key=vocabulary.get)] += 40
    gap = Tokenizer(Backend.from_str(json.dumps(contents)))
    assert gap.vocab_size == last + 41 and gap.unused_ids == [*range(last, last + 40)]
    model = random_model(vocab_size=last + rows)
    with torch.no_grad():
        model.embedding.weight[last : last + 40] *= 2
    options = dict(max_new_tokens=30, seeds=range(len(PROMPTS)), **settings)
    prompts = [gap.prompt_ids(text) for text in PROMPTS]
    found = kind(model, gap).generate_ids(prompts, **options)
    assert found == Sampler(model, gap).generate_ids(prompts, **options)
    sampler = FastSampler(model, gap)
    assert (
        type(sampler._engine(4, 40, SampleConfig(**settings))) is PlainEngine
    )  # no steps to cache
    assert not set(gap.unused_ids) & {token for ids in found for token in ids}


def test_an_evaluation_of_a_padded_vocabulary(tokenizer):
    model = random_model(vocab_size=tokenizer.vocab_size + 140)
    scores = exact_match(FastSampler(model, tokenizer), ["copy"])
    assert scores == exact_match(Sampler(cut(model, tokenizer.vocab_size), tokenizer), ["copy"])


def test_a_padded_vocabulary_keeps_its_rows(tmp_path, tokenizer):
    model = random_model(vocab_size=tokenizer.vocab_size + 140)
    save(tmp_path, model, tokenizer)
    loaded, _ = load(tmp_path)
    tokens = torch.arange(90)[None]
    assert torch.equal(loaded(tokens), model(tokens))


# --- more tokens than rows ------------------------------------------------------------------------


def with_added(tokenizer: Tokenizer, *tokens: AddedToken) -> Tokenizer:
    backend = Backend.from_str(tokenizer.backend.to_str())
    backend.add_tokens(list(tokens))
    return Tokenizer(backend)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("names", [["[PAD]"], ["<tool>", "[PAD]", "<|user|>"]])
def test_added_tokens_beyond_the_embedding_are_never_read(special, names, tmp_path, tokenizer):
    added = [AddedToken(name, special=special, normalized=False) for name in names]
    rows, larger = tokenizer.vocab_size, with_added(tokenizer, *added)
    assert larger.vocab_size == rows + len(names)
    model = random_model(vocab_size=rows)
    save(tmp_path / "model", model, larger)
    for folder in ("model", "again"):
        loaded, read = load(tmp_path / folder)
        assert read.vocab_size == larger.vocab_size and loaded.config.vocab_size == rows
        text = "".join(names) + " Once"
        assert max(read.encode(text)) < rows and read.decode(read.encode(text)) == text
        for prompt in ("Once", text):
            options = dict(max_new_tokens=20, temperature=1.0)
            expected = Sampler(model, tokenizer).generate([prompt], **options)
            assert FastSampler(loaded, read).generate([prompt], **options) == expected
        save(tmp_path / "again", loaded, read)


def test_some_added_tokens_may_have_rows(tmp_path, tokenizer):
    names = [AddedToken(name, normalized=False) for name in ("<tool>", "[PAD]")]
    rows = tokenizer.vocab_size
    save(tmp_path, random_model(vocab_size=rows + 1), with_added(tokenizer, *names))
    read = load(tmp_path)[1]
    assert read.encode("<tool>") == [rows] and max(read.encode("[PAD]")) < rows


def test_words_and_ends_beyond_the_embedding_are_refused(tmp_path, tokenizer):
    rows = tokenizer.vocab_size
    save(tmp_path, random_model(vocab_size=rows - 1), tokenizer)
    refused(tmp_path, "model.embed_tokens.weight", f"{rows - 1} rows", f"{rows} tokens")
    end = with_added(tokenizer, AddedToken("<end>", special=True))
    save(tmp_path, random_model(vocab_size=rows), Tokenizer(end.backend, "<end>"))
    refused(tmp_path, "model.embed_tokens.weight", f"{rows} rows", f"{rows + 1} tokens")


# --- vocab.json and merges.txt --------------------------------------------------------------------


@pytest.fixture(scope="module")
def byte_level_files(stories, tmp_path_factory):
    """What `ByteLevelBPETokenizer.save_model` writes: no END_OF_TEXT among its tokens."""
    folder = tmp_path_factory.mktemp("files")
    names = ["<s>", "<pad>", "</s>", "<unk>", "<stop>"]
    backend = ByteLevelBPETokenizer()
    backend.train_from_iterator(stories, vocab_size=400, special_tokens=names, show_progress=False)
    backend.save_model(str(folder))
    return folder


@pytest.mark.parametrize(
    "file,contents,end",
    [
        ("config.json", {"eos_token_id": 4}, 4),
        ("generation_config.json", {"eos_token_id": [4, 2]}, 4),
        ("tokenizer_config.json", {"eos_token": "<stop>"}, 4),
        ("special_tokens_map.json", {"eos_token": {"content": "<pad>"}}, 1),
        ("config.json", {"eos_token_id": 50256}, 2),  # the default of transformers; no such token
        ("config.json", {}, 2),
    ],
)
def test_files_without_the_usual_end_have_the_one_that_is_declared(
    file, contents, end, byte_level_files, tmp_path
):
    rows = len(json.loads((byte_level_files / "vocab.json").read_text()))
    save(tmp_path, random_model(vocab_size=rows, **PRESETS["gpt2"]), Tokenizer.train([], 257))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (tmp_path / name).unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    del config["eos_token_id"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    for each in byte_level_files.iterdir():
        (tmp_path / each.name).write_bytes(each.read_bytes())
    before = config if file == "config.json" else {}
    (tmp_path / file).write_text(json.dumps(before | contents))
    model, tokenizer = load(tmp_path)
    assert (tokenizer.eot_id, tokenizer.vocab_size) == (end, rows)
    text = "Once upon a time </s>"
    assert tokenizer.decode([*tokenizer.encode(text), end]) == text
    assert isinstance(Sampler(model, tokenizer).generate([text], max_new_tokens=5)[0], str)


def test_an_end_that_the_files_lack_gets_the_next_id(byte_level_files, tmp_path):
    for each in byte_level_files.iterdir():
        (tmp_path / each.name).write_bytes(each.read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    rows = len(json.loads((tmp_path / "vocab.json").read_text()))
    save(tmp_path / "padded", random_model(vocab_size=rows + 8), Tokenizer.train([], 257))
    (tmp_path / "padded" / "tokenizer.json").unlink()
    (tmp_path / "padded" / "generation_config.json").unlink()
    config = tmp_path / "padded" / "config.json"
    config.write_text(config.read_text().replace('"eos_token_id": 0', '"eos_token_id": null'))
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (tmp_path / "padded" / name).write_bytes((tmp_path / name).read_bytes())
    assert load(tmp_path / "padded")[1].eot_id == rows


def test_a_prompt_with_an_id_beyond_the_embedding_is_refused(tokenizer):
    model = random_model(vocab_size=tokenizer.vocab_size - 3)
    with pytest.raises(UserError, match="outside the vocabulary"):
        Sampler(model, tokenizer).generate_ids([[tokenizer.vocab_size - 1]])
