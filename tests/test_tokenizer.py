import json
import random
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, processors

from minislm.runtime.errors import UserError
from minislm.tokenizer import END_OF_TEXT, StreamDecoder, Tokenizer

STORY = (
    "Once upon a time there were 41 brave dogs. They didn't jump 7 times; they ran home.\r\n"
    "\tTom said, \"I'm happy!\" And 1100 caf\u00e9s \u4f60\u597d \U0001f600\U0001f602\U0001f600 "
    "na\u00efve e\u0301  100 11 1111\n\n"
)
GPT2_FOLDER = Path(__file__).parents[2] / "shared" / "gpt2-tokenizer"


@pytest.fixture(scope="module")
def single():
    return Tokenizer.train([STORY] * 3, 500)


@pytest.fixture(scope="module")
def merged():
    return Tokenizer.train([STORY] * 3, 500, digits="merged")


@pytest.fixture(scope="module")
def gpt2_folder(merged, tmp_path_factory):
    """A GPT-2 style pair of files, END_OF_TEXT last as in GPT-2's own."""
    folder = tmp_path_factory.mktemp("gpt2")
    merged.backend.model.save(str(folder))
    vocab = json.loads((folder / "vocab.json").read_text("utf-8"))
    del vocab[END_OF_TEXT]
    vocab = {token: id - 1 for token, id in vocab.items()} | {END_OF_TEXT: len(vocab)}
    (folder / "vocab.json").write_text(json.dumps(vocab), "utf-8")
    return folder


def llama_backend() -> tokenizers.Tokenizer:
    """Llama's kind: spaces as U+2581, one put in front, byte fallback, <s> before every text."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += ["\u2581", "a", "b", "ab", "\u2581ab"]
    model = models.BPE(
        {name: id for id, name in enumerate(names)},
        [("a", "b"), ("\u2581", "ab")],
        unk_token="<unk>",
        byte_fallback=True,
    )
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return backend


def random_text(rng: random.Random) -> str:
    """Characters of every plane, control characters, combining marks, emoji, line ends."""
    kinds = [
        lambda: chr(rng.randrange(0x80)),
        lambda: chr(rng.randrange(0xD800)),
        lambda: chr(rng.randrange(0xE000, 0x110000)),
        lambda: chr(rng.randrange(0x1F300, 0x1F700)),
        lambda: "e" + chr(rng.randrange(0x300, 0x370)),
        lambda: rng.choice(["\r\n", "\n", "\x00", "\ufeff", "\u200d", "   ", " 41", "\u0661"]),
    ]
    return "".join(rng.choice(kinds)() for _ in range(rng.randrange(60)))


def stream(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    decoder = StreamDecoder(tokenizer)
    return [*map(decoder.push, ids), decoder.flush()]


# --- training -------------------------------------------------------------------------------------


def test_training_is_deterministic_and_tells_the_true_size(single):
    again = Tokenizer.train([STORY] * 3, 500)
    assert again.backend.to_str() == single.backend.to_str()
    assert single.eot_id == single.pad_id == 0
    assert single.vocab_size == single.backend.get_vocab_size() <= 500
    assert Tokenizer.train(["abab abab"], 5000).vocab_size < 300  # fewer merges than asked for


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
    pieces = tokenizer.backend.pre_tokenizer.pre_tokenize_str("x" * 200)
    assert len(pieces) == 1


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
    llama = Tokenizer(llama_backend())
    assert llama.prompt_ids("ab") == [1, *llama.encode("ab")] and llama.encode("ab")[0] != 1
    assert llama.prompt_ids("") == [1]
    assert llama.decode(llama.prompt_ids("ab ab")) == "ab ab"


def test_end_of_text_is_found_or_named():
    assert Tokenizer(llama_backend()).eot_id == 2
    assert Tokenizer(llama_backend(), "<s>").eot_id == 1
    with pytest.raises(UserError, match="end-of-text"):
        Tokenizer(llama_backend(), "<stop>")
    with pytest.raises(UserError, match="end-of-text"):
        Tokenizer(tokenizers.Tokenizer(models.BPE({"a": 0}, [])))


def test_an_end_of_text_that_is_a_plain_word_is_not_printed():
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    tokenizer = Tokenizer(backend)
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
    assert "".join(stream(tokenizer, smile[1:2] * 9)[:-1]) == "\ufffd" * 9


STREAMED = ["ab ab", "ab \U0001f600\U0001f602\u00e9 ab\nab", "a  b", "", " a"]


@pytest.mark.parametrize("text", STREAMED)
def test_streaming_with_byte_fallback(text):
    tokenizer = Tokenizer(llama_backend())
    assert "".join(stream(tokenizer, tokenizer.prompt_ids(text))) == text


def test_added_words_stream_as_they_read(single):
    backend = tokenizers.Tokenizer.from_str(single.backend.to_str())
    backend.add_tokens(["\u4f60\u597d!"])
    tokenizer = Tokenizer(backend)
    ids = tokenizer.encode("x\u4f60\u597d! y")
    assert tokenizer.vocab_size - 1 in ids
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids) == "x\u4f60\u597d! y"


# --- files ----------------------------------------------------------------------------------------


def test_save_and_load(single, tmp_path):
    single.save(tmp_path / "run", model_max_length=512)
    for path in (tmp_path / "run", tmp_path / "run" / "tokenizer.json"):
        again = Tokenizer.load(path)
        assert again.encode(STORY) == single.encode(STORY)
        assert (again.eot_id, again.vocab_size) == (single.eot_id, single.vocab_size)
    config = json.loads((tmp_path / "run" / "tokenizer_config.json").read_text())
    assert config["model_max_length"] == 512
    assert config["clean_up_tokenization_spaces"] is False  # "a ." would be read back as "a."
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_the_configured_end_of_text_is_kept(tmp_path):
    Tokenizer(llama_backend(), "<s>").save(tmp_path)
    assert Tokenizer.load(tmp_path).eot_id == 1
    config = {"eos_token": {"content": "</s>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert Tokenizer.load(tmp_path).eot_id == 2
    (tmp_path / "tokenizer_config.json").write_text("[")
    with pytest.raises(UserError, match="tokenizer_config.json"):
        Tokenizer.load(tmp_path)


def test_gpt2_files(gpt2_folder, merged):
    tokenizer = Tokenizer.load(gpt2_folder)
    assert tokenizer.eot_id == tokenizer.vocab_size - 1 == merged.vocab_size - 1
    assert tokenizer.encode(STORY) == [id - 1 for id in merged.encode(STORY)]
    assert Tokenizer.load(gpt2_folder / "vocab.json").encode("41") == tokenizer.encode("41")


def test_gpt2_files_without_an_end_of_text_get_one(tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.eot_id, tokenizer.vocab_size) == (2, 3)


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({}, "it needs tokenizer.json"),
        ({"tokenizer.json": b'{"version": "1.0", "mod'}, "tokenizer.json"),
        ({"tokenizer.json": b"\xff\xfe{}"}, "tokenizer.json"),
        ({"tokenizer.json": b""}, "tokenizer.json"),
        ({"vocab.json": b"{}"}, "merges.txt: No such file"),
        ({"vocab.json": b'{"a": 0', "merges.txt": b""}, "vocab.json"),
        ({"vocab.json": b'{"a": 0}', "merges.txt": b"a \xff"}, "merges.txt is damaged: it"),
        ({"vocab.json": b'{"a": 0}', "merges.txt": b"#version: 0.2\na b\n"}, "merges.txt"),
    ],
)
def test_damaged_files_are_named_in_one_line(files, named, tmp_path):
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as caught:
        Tokenizer.load(tmp_path)
    assert named in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="nowhere"):
        Tokenizer.load(tmp_path / "nowhere")


# --- the standard format --------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", [None, "llama", "gpt2", "gpt_neo"])
@pytest.mark.parametrize("digits", ["single", "merged"])
def test_transformers_reads_what_we_save(digits, model_type, tmp_path, request):
    transformers = pytest.importorskip("transformers")
    ours = request.getfixturevalue(digits)
    ours.save(tmp_path, model_max_length=256)
    if model_type:  # a run folder holds the model too
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    rng = random.Random(2)
    for text in [STORY, " 41 41", "a , b 's .", *(random_text(rng) for _ in range(50))]:
        ids = ours.encode(text)
        assert theirs(text, add_special_tokens=True)["input_ids"] == ids
        assert theirs.decode(ids) == text
    names = {theirs.bos_token, theirs.eos_token, theirs.pad_token, theirs.unk_token}
    assert names == {END_OF_TEXT} and theirs.eos_token_id == ours.eot_id
    assert len(theirs) == ours.vocab_size and theirs.model_max_length == 256


def gpt2_of_transformers(folder: Path):
    transformers = pytest.importorskip("transformers")
    read = (folder / "vocab.json").read_text("utf-8"), (folder / "merges.txt").read_text("utf-8")
    merges = [tuple(line.split(" ")) for line in read[1].split("\n")[1:] if line]
    if int(transformers.__version__.split(".")[0]) < 5:
        return transformers.GPT2TokenizerFast(folder / "vocab.json", folder / "merges.txt")
    return transformers.GPT2Tokenizer(vocab=json.loads(read[0]), merges=merges)


def test_gpt2_files_as_transformers_reads_them(gpt2_folder):
    ours, theirs = Tokenizer.load(gpt2_folder), gpt2_of_transformers(gpt2_folder)
    for text in [STORY, " 41 41", "a , b 's ."]:
        assert theirs(text)["input_ids"] == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == text


def test_the_published_gpt2_tokenizer():
    if not GPT2_FOLDER.is_dir():
        pytest.skip("GPT-2's own vocab.json and merges.txt are not beside this repository")
    ours, theirs = Tokenizer.load(GPT2_FOLDER), gpt2_of_transformers(GPT2_FOLDER)
    assert (ours.vocab_size, ours.eot_id) == (50257, 50256)
    assert [ours.encode(n)[0] for n in ("1", " 1", "11", " 111", "1111")] == [
        16, 352, 1157, 13374, 26259,
    ]  # fmt: skip
    rng = random.Random(3)
    for text in [STORY * 20, *(random_text(rng) for _ in range(200))]:
        assert theirs(text)["input_ids"] == ours.encode(text)
