"""Byte-level BPE: training, encoding, streaming, files."""

import random

import pytest
import tokenizers
from helpers import random_text
from tokenizers import models

from minislm.runtime.errors import UserError
from minislm.tasks import END_OF_TEXT
from minislm.tokenizer import StreamDecoder, Tokenizer

STORY = (
    "Once upon a time there were 41 brave dogs. They didn't jump 7 times; they ran home.\r\n"
    '\tTom said, "I\'m happy!" And 1100 caf\u00e9s \u4f60\u597d \U0001f600\U0001f602\U0001f600 '
    "na\u00efve e\u0301  100 11 1111\n\n"
)


@pytest.fixture(scope="module")
def single():
    return Tokenizer.train([STORY] * 3, 500)


@pytest.fixture(scope="module")
def merged():
    return Tokenizer.train([STORY] * 3, 500, digits="merged")


def stream(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    decoder = StreamDecoder(tokenizer)
    return [*map(decoder.push, ids), decoder.flush()]


# --- training -------------------------------------------------------------------------------------


def test_training_is_deterministic_and_has_the_true_size(single):
    again = Tokenizer.train([STORY] * 3, 500)
    assert again.backend.to_str() == single.backend.to_str()
    assert single.eot_id == 0
    assert single.vocab_size == single.backend.get_vocab_size() <= 500
    assert Tokenizer.train(["abab abab"], 5000).vocab_size < 300  # fewer merges than wanted


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(UserError, match="257"):
        Tokenizer.train([STORY], 256)
    with pytest.raises(UserError, match="'single' or 'merged'"):
        Tokenizer.train([STORY], 300, digits="none")
    with pytest.raises(UserError, match="U\\+D800"):
        Tokenizer.train(["ok", "bad \ud800"], 300)
    assert Tokenizer.train([], 257).vocab_size == 257


def test_long_words_are_cut_for_training_only():
    tokenizer = Tokenizer.train(["ab" * 5000, " " * 5000, "x" * 200], 400)
    assert max(map(len, tokenizer.backend.get_vocab())) == 64
    assert len(tokenizer.encode("x" * 200)) < 8
    words = tokenizer.backend.pre_tokenizer.pre_tokenize_str("x" * 200)
    assert len(words) == 1


def test_end_of_text_is_never_learned_as_words():
    tokenizer = Tokenizer.train([f"{END_OF_TEXT}".join(["a dog"] * 50)] * 3, 300)
    assert not any("endo" in token or "<|" in token for token in tokens_beside_end(tokenizer))


def tokens_beside_end(tokenizer: Tokenizer) -> list[str]:
    return [token for token in tokenizer.backend.get_vocab() if token != END_OF_TEXT]


# --- encoding and decoding ------------------------------------------------------------------------


def test_single_digits(single):
    tokens = [single.backend.id_to_token(id) for id in single.encode("41")]
    assert tokens == ["4", "1"]
    # A space is a token of its own, so that a digit is the same token wherever it stands.
    assert single.encode(" 41") == single.encode(" ") + single.encode("41")
    assert single.encode("dogs 1100x")[-5:] == single.encode("1100x")
    for token in single.backend.get_vocab():
        assert len(token) == 1 or not any(character in "0123456789" for character in token)


def test_merged_digits(merged):
    assert len(merged.encode(" 1100")) == 1
    assert len(merged.encode("1111")) < 4


@pytest.mark.parametrize("digits", ["single", "merged"])
def test_any_text_comes_back_exactly(digits, request):
    tokenizer = request.getfixturevalue(digits)
    rng = random.Random(0)
    texts = [random_text(rng) for _ in range(1000)] + ["", " ", STORY, "  41", "4 1 ", END_OF_TEXT]
    batch = tokenizer.encode_batch(texts)
    for text, ids in zip(texts, batch):
        assert tokenizer.decode(ids) == text
        assert "".join(stream(tokenizer, ids)) == text
    assert batch[:20] == [tokenizer.encode(text) for text in texts[:20]]


def test_special_strings_of_a_user_are_text(single):
    ids = single.encode(f"a{END_OF_TEXT}b")
    assert single.eot_id not in ids and single.decode(ids) == f"a{END_OF_TEXT}b"
    assert single.decode([single.eot_id, *single.encode("hi"), single.eot_id]) == "hi"


@pytest.mark.parametrize("id", [-1, 500, 2**40])
def test_ids_outside_the_vocabulary_are_refused(id):
    tokenizer = Tokenizer.train([STORY] * 3, 500)
    with pytest.raises(UserError, match=f"{id} is outside .* {tokenizer.vocab_size} tokens"):
        tokenizer.decode([5, id])
    with pytest.raises(UserError, match=f"{id} is outside"):
        StreamDecoder(tokenizer).push(id)


def test_half_a_surrogate_pair_is_refused(single):
    for call in (lambda: single.encode("a\ud83d"), lambda: single.encode_batch(["ok", "a\udc00"])):
        with pytest.raises(UserError, match="character 1 is U\\+D"):
            call()


def test_prompts(single):
    assert single.prompt_ids("One day") == single.encode("One day")
    assert single.prompt_ids("") == [single.eot_id]


def test_the_end_of_text_is_a_token_of_the_vocabulary():
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    assert Tokenizer(backend, "</s>").eot_id == 1
    with pytest.raises(UserError, match="no end-of-text token: <stop>"):
        Tokenizer(backend, "<stop>")


def test_an_end_of_text_that_is_a_plain_word_is_not_printed():
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    tokenizer = Tokenizer(backend, "</s>")
    assert (tokenizer.eot_id, tokenizer.vocab_size) == (1, 2)
    assert tokenizer.decode([0, 1]) == "".join(stream(tokenizer, [0, 1])) == "a"


def test_nothing_is_cut_or_padded_in_silence():
    backend = Tokenizer.train([STORY], 300).backend
    backend.enable_truncation(3)
    backend.enable_padding(length=10)
    tokenizer = Tokenizer(backend)
    assert tokenizer.decode(tokenizer.encode(STORY)) == STORY
    assert len(tokenizer.encode("a")) == 1


# --- streaming ------------------------------------------------------------------------------------


def test_streaming_equals_decoding_for_any_ids(single):
    rng = random.Random(1)
    emoji = single.encode("\U0001f600\U0001f602 caf\u00e9 \u4f60\u597d \U0001f469\u200d\U0001f680")
    for _ in range(500):
        ids = [
            rng.choice(emoji) if rng.random() < 0.7 else rng.randrange(single.vocab_size)
            for _ in range(rng.randrange(40))
        ]
        assert "".join(stream(single, ids)) == single.decode(ids)


def test_characters_appear_when_whole_and_never_wait_for_long():
    tokenizer = Tokenizer.train([], 257)  # every byte is a token
    smile = tokenizer.encode("\U0001f600")
    letter = tokenizer.encode("x")
    assert stream(tokenizer, smile) == ["", "", "", "\U0001f600", ""]
    assert stream(tokenizer, smile[:3] + letter) == ["", "", "", "\ufffdx", ""]
    assert stream(tokenizer, smile[:2]) == ["", "", "\ufffd"]
    *now, rest = stream(tokenizer, smile[1:2] * 9)  # bytes that begin no character
    assert "".join(now) == "\ufffd" * 6 and rest == "\ufffd" * 3


def test_added_words_stream_as_they_read(single):
    backend = tokenizers.Tokenizer.from_str(single.backend.to_str())
    backend.add_tokens(["\u4f60\u597d!"])
    tokenizer = Tokenizer(backend)
    ids = tokenizer.encode("x\u4f60\u597d! y")
    assert tokenizer.vocab_size - 1 in ids
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids) == "x\u4f60\u597d! y"


# --- files ----------------------------------------------------------------------------------------


def test_save_and_load(single, tmp_path):
    single.save(tmp_path / "run")
    again = Tokenizer.load(tmp_path / "run")
    assert again.encode(STORY) == single.encode(STORY)
    assert (again.eot_id, again.vocab_size) == (single.eot_id, single.vocab_size)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["tokenizer.json"]


@pytest.mark.parametrize("damage", [b'{"version": "1.0", "mod', b"\xff\xfe{}", b"", None])
def test_a_damaged_file_is_named_in_one_line(damage, tmp_path):
    if damage is not None:
        (tmp_path / "tokenizer.json").write_bytes(damage)
    with pytest.raises(UserError) as caught:
        Tokenizer.load(tmp_path)
    assert "tokenizer.json" in str(caught.value) and "\n" not in str(caught.value)
