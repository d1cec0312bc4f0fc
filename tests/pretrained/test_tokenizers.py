"""Tokenizers of published models: their files, the end of text, and tokens before a prompt."""

import json
import random
from pathlib import Path

import pytest
import tokenizers
from helpers import random_model, random_text
from tokenizers import decoders, models, normalizers, processors

from minislm.pretrained.save import save
from minislm.pretrained.tokenizers import PretrainedTokenizer, load_tokenizer, save_tokenizer
from minislm.runtime.errors import CheckpointError, UserError
from minislm.tasks import END_OF_TEXT
from minislm.tokenizer import StreamDecoder, Tokenizer

STORY = (
    "Once upon a time there were 41 brave dogs. They didn't jump 7 times; they ran home.\r\n"
    '\tTom cried, "I\'m happy!" And 1100 caf\u00e9s \u4f60\u597d \U0001f600\U0001f602\U0001f600 '
    "na\u00efve e\u0301  100 11 1111\n\n"
)
GPT2_FOLDER = Path(__file__).parents[3] / "shared" / "gpt2-tokenizer"


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


def stream(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    decoder = StreamDecoder(tokenizer)
    return [*map(decoder.push, ids), decoder.flush()]


# --- prompts and end of text ----------------------------------------------------------------------


def test_a_begin_of_text_token_is_put_before_prompts():
    llama = PretrainedTokenizer(llama_backend())
    assert llama.prompt_ids("ab") == [1, *llama.encode("ab")] and llama.encode("ab")[0] != 1
    assert llama.prompt_ids("") == [1]
    assert llama.decode(llama.prompt_ids("ab ab")) == "ab ab"


def test_end_of_text_is_found_or_named():
    assert PretrainedTokenizer(llama_backend()).eot_id == 2
    assert PretrainedTokenizer(llama_backend(), "<s>").eot_id == 1
    with pytest.raises(UserError, match="end-of-text"):
        PretrainedTokenizer(llama_backend(), "<stop>")
    with pytest.raises(UserError, match="end-of-text"):
        PretrainedTokenizer(tokenizers.Tokenizer(models.BPE({"a": 0}, [])))


def test_an_end_of_text_that_is_a_plain_word_is_not_printed():
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    tokenizer = PretrainedTokenizer(backend)
    assert (tokenizer.eot_id, tokenizer.vocab_size) == (1, 2)
    assert tokenizer.decode([0, 1]) == "".join(stream(tokenizer, [0, 1])) == "a"


SEVERAL_BYTES = ["ab \U0001f600\U0001f602\u00e9 ab\nab", "\u4f60\u597d" * 20, "\U0001f600" * 20]


@pytest.mark.parametrize("text", ["ab ab", *SEVERAL_BYTES, "a  b", "", " a"])
def test_streaming_with_byte_fallback(text):
    tokenizer = PretrainedTokenizer(llama_backend())
    assert tokenizer.decode(tokenizer.prompt_ids(text)) == text
    assert "".join(stream(tokenizer, tokenizer.prompt_ids(text))) == text


# --- files ----------------------------------------------------------------------------------------


def test_the_saved_configuration(single, tmp_path):
    save_tokenizer(tmp_path / "run", single, 512)
    config = json.loads((tmp_path / "run" / "tokenizer_config.json").read_text())
    assert config["model_max_length"] == 512
    assert config["clean_up_tokenization_spaces"] is False  # "a ." would be read back as "a."
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_a_saved_model_names_the_tokens_around_a_text(tmp_path):
    tokenizer = PretrainedTokenizer(llama_backend())
    save(tmp_path, random_model(), tokenizer)
    expected = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / name).read_text()).items() >= expected.items()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert [config[f"{name}_token"] for name in ("bos", "eos", "pad", "unk")] == [
        "<s>", "</s>", "</s>", "<unk>",
    ]  # fmt: skip


def test_the_configured_end_of_text_is_kept(tmp_path):
    save_tokenizer(tmp_path, PretrainedTokenizer(llama_backend(), "<s>"), 64)
    assert load_tokenizer(tmp_path).eot_id == 1
    config = {"eos_token": {"content": "</s>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_tokenizer(tmp_path).eot_id == 2
    values = ("3", "[]", "{}", '"\\ud800"')
    for damaged in ("[", "[]", *(f'{{"eos_token": {value}}}' for value in values)):
        (tmp_path / "tokenizer_config.json").write_text(damaged)
        with pytest.raises(CheckpointError, match="tokenizer_config.json is damaged"):
            load_tokenizer(tmp_path)


def test_gpt2_files(gpt2_folder, merged):
    tokenizer = load_tokenizer(gpt2_folder)
    assert tokenizer.eot_id == tokenizer.vocab_size - 1 == merged.vocab_size - 1
    assert tokenizer.encode(STORY) == [id - 1 for id in merged.encode(STORY)]


def test_gpt2_files_without_an_end_of_text_get_one(tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = load_tokenizer(tmp_path)
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
    with pytest.raises(CheckpointError) as caught:
        load_tokenizer(tmp_path)
    assert named in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="nowhere"):
        load_tokenizer(tmp_path / "nowhere")


# --- the standard format --------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", [None, "llama", "gpt2", "gpt_neo"])
@pytest.mark.parametrize("digits", ["single", "merged"])
def test_transformers_reads_what_we_save(digits, model_type, tmp_path, request):
    transformers = pytest.importorskip("transformers")
    ours = request.getfixturevalue(digits)
    save_tokenizer(tmp_path, ours, 256)
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
    ours, theirs = load_tokenizer(gpt2_folder), gpt2_of_transformers(gpt2_folder)
    for text in [STORY, " 41 41", "a , b 's ."]:
        assert theirs(text)["input_ids"] == ours.encode(text)
        assert theirs.decode(ours.encode(text)) == text


def test_the_published_gpt2_tokenizer():
    if not GPT2_FOLDER.is_dir():
        pytest.skip("GPT-2's own vocab.json and merges.txt are not beside this repository")
    ours, theirs = load_tokenizer(GPT2_FOLDER), gpt2_of_transformers(GPT2_FOLDER)
    assert (ours.vocab_size, ours.eot_id) == (50257, 50256)
    assert [ours.encode(n)[0] for n in ("1", " 1", "11", " 111", "1111")] == [
        16, 352, 1157, 13374, 26259,
    ]  # fmt: skip
    rng = random.Random(3)
    for text in [STORY * 20, *(random_text(rng) for _ in range(200))]:
        assert theirs(text)["input_ids"] == ours.encode(text)
