"""Stems and lemmas in place of words: texts, the bytes that are counted, and the cache."""

import sys

import pytest
from corpus.texts import STORIES, in_file
from helpers import random_model

from minislm.corpus import clean, read
from minislm.corpus.prepare import prepare, train_tokenizer
from minislm.corpus.words import WordTokenizer, normalizer
from minislm.dataset import TokenDataset
from minislm.evaluation import text_loss
from minislm.runtime.errors import UserError
from minislm.tasks import END_OF_TEXT
from minislm.tokenizer import Tokenizer

LIBRARIES = {"stem": "snowballstemmer", "lemma": "simplemma"}
PLAIN = "The dogs were running, and 12 cats slept by the boxes of apples."
EXPECTED = {
    "none": PLAIN,
    "stem": "The dog were run, and 12 cat slept by the box of appl.",
    "lemma": "The dog be run, and 12 cat sleep by the box of apple.",
}


@pytest.fixture(params=["stem", "lemma"])
def kind(request):
    pytest.importorskip(LIBRARIES[request.param], reason="the extra `normalize` is not installed")
    return request.param


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([PLAIN] * 9 + STORIES, 300)


def test_words_become_their_stems_or_lemmas(kind):
    replace = normalizer(kind)
    assert replace(PLAIN) == EXPECTED[kind]
    short = {"stem": "The dog were run.", "lemma": "The dog be run."}
    assert replace("The dogs were running.") == short[kind]
    assert replace("Dogs DOGS dogs") == "Dog Dog dog"
    assert replace("the dog's cats") == "the dog cat"  # an apostrophe belongs to the word


def test_everything_between_words_stays(kind):
    replace = normalizer(kind)
    text = f'"Hi!" -  3 x 4.50 = 13,50;\n\n\t(a)_b-c {END_OF_TEXT} 小猫 \U0001f436 I a.'
    assert replace(text) == text
    assert replace("") == ""
    assert normalizer("none")(PLAIN) == PLAIN


def test_a_dataset_has_normalised_tokens_and_original_bytes(kind, tokenizer):
    texts = [PLAIN, "Zwölf caf\u00e9s."]
    encoder = WordTokenizer(tokenizer, kind)
    dataset = TokenDataset.from_texts(texts, encoder)
    assert tokenizer.decode(dataset.document(0)[:-1].tolist()) == EXPECTED[kind]
    assert dataset.sizes.tolist() == [len(PLAIN), 14]  # two letters take two bytes each
    assert encoder.encode(PLAIN) == tokenizer.encode(EXPECTED[kind])
    assert tokenizer.encode(PLAIN) == WordTokenizer(tokenizer, "none").encode(PLAIN)


def test_bits_per_byte_divide_by_the_original_bytes(kind, tokenizer):
    model = random_model(vocab_size=tokenizer.vocab_size)
    dataset = TokenDataset.from_texts([PLAIN], WordTokenizer(tokenizer, kind))
    loss = text_loss(model, dataset, tokenizer.eot_id)
    already = TokenDataset.from_texts([EXPECTED[kind]], tokenizer)
    short = text_loss(model, already, tokenizer.eot_id)
    assert loss.nats == pytest.approx(short.nats) and loss.tokens == short.tokens
    ratio = len(EXPECTED[kind]) / len(PLAIN)
    assert loss.bits_per_byte == pytest.approx(short.bits_per_byte * ratio) and ratio < 0.9


def test_token_files_of_two_settings_are_not_shared(kind, tokenizer, tmp_path):
    path, cache = in_file(tmp_path / "a.txt", [PLAIN, *STORIES]), tmp_path / "cache"
    encoder = WordTokenizer(tokenizer, kind)
    plain, own = prepare(path, tokenizer, cache), prepare(path, encoder, cache)
    assert plain.path != own.path == prepare(path, encoder, cache).path
    assert plain.path == prepare(path, WordTokenizer(tokenizer, "none"), cache).path
    assert own.sizes.tolist() == plain.sizes.tolist() and own.sizes[0] == len(PLAIN)
    texts = [tokenizer.decode(each.document(0)[:-1].tolist()) for each in (plain, own)]
    assert texts == [PLAIN, EXPECTED[kind]]


def test_a_tokenizer_is_trained_on_the_normalised_text(kind, tmp_path):
    path, cache = in_file(tmp_path / "a.txt", [PLAIN * 5, *STORIES]), tmp_path / "cache"
    made = train_tokenizer(path, ["prompts stay"], 500, "single", cache, kind)
    texts = ["prompts stay", *map(normalizer(kind), [PLAIN * 5, *STORIES])]
    expected = Tokenizer.train(texts, 500, "single")
    assert made.backend.to_str() == expected.backend.to_str()
    plain = train_tokenizer(path, ["prompts stay"], 500, "single", cache)
    assert plain.backend.to_str() != made.backend.to_str()
    assert len(list(cache.glob("tokenizer-*"))) == 2


def test_worker_processes_normalise_too(kind, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(clean, "MAX_WORKERS", 1)
    monkeypatch.setattr(read, "BLOCK", 200)  # several batches: a single one needs no process
    monkeypatch.setattr(read, "BATCH", 200)
    path = in_file(tmp_path / "a.txt", [PLAIN, *(f"{PLAIN} {story}" for story in STORIES[:3])])
    made = prepare(path, WordTokenizer(tokenizer, kind), tmp_path / "cache")
    texts = [tokenizer.decode(made.document(i)[:-1].tolist()) for i in range(len(made))]
    assert len(made) == 4 and all(text.startswith(EXPECTED[kind][:-1]) for text in texts)
    assert made.sizes[0] == len(PLAIN)


@pytest.mark.parametrize("kind", LIBRARIES)
def test_a_missing_library_is_one_line(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, LIBRARIES[kind], None)  # as if it were not installed
    with pytest.raises(UserError, match=f"--normalize {kind} .*pip install {LIBRARIES[kind]}"):
        normalizer(kind)
