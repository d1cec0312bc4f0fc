"""Streamed, decoded and generated text are the same, for tokenizers of every form."""

import json
import random
from functools import cache

import pytest
import torch
from helpers import random_text
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from minislm.pretrained.tokenizers import PretrainedTokenizer
from minislm.sampler import Sampler
from minislm.tokenizer import StreamDecoder, Tokenizer

STORY = (
    "Once upon a time there were 41 brave dogs. They didn't jump 7 times; they ran home.\r\n"
    '\tTom cried, "I\'m happy!" And 1100 caf\u00e9s \u4f60\u597d \U0001f600\U0001f602\U0001f600 '
    "na\u00efve e\u0301  100 11 1111\n\n"
)
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


# --- the forms ------------------------------------------------------------------------------------


def byte_level(decoder: decoders.Decoder) -> Tokenizer:
    backend = Backend.from_str(Tokenizer.train([STORY] * 3, 500).backend.to_str())
    backend.decoder = decoder
    return PretrainedTokenizer(backend)


def trained(model, kind, decoder, pre_tokenizer=None, normalizer=None, bytes=False, **options):
    """A tokenizer that begins a text with <s>, trained on the story."""
    special = ["<unk>", "<s>", "</s>"]
    backend = Backend(model)
    backend.decoder = decoder
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        backend.normalizer = normalizer
    names = special + BYTES * bytes
    trainer = kind(vocab_size=450, special_tokens=names, show_progress=False, **options)
    backend.train_from_iterator([STORY] * 3, trainer)
    state = json.loads(backend.to_str())  # bytes are plain words, as in Llama's files
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] in special]
    backend = Backend.from_str(json.dumps(state))
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return PretrainedTokenizer(backend)


def llama(decoder: list[decoders.Decoder]) -> Tokenizer:
    spaces = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    return trained(
        models.BPE(unk_token="<unk>", byte_fallback=True), trainers.BpeTrainer,
        decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), *decoder]),
        normalizer=normalizers.Sequence(spaces), bytes=True, limit_alphabet=40,
    )  # fmt: skip


def metaspace(scheme: str, model, kind, **options) -> Tokenizer:
    decoder = decoders.Metaspace(prepend_scheme=scheme)
    pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    return trained(model, kind, decoder, pre_tokenizer, **options)


FORMS = {
    "our own": lambda: Tokenizer.train([STORY] * 3, 500),
    "bytes alone": lambda: Tokenizer.train([], 257),
    "ByteLevel": lambda: byte_level(decoders.ByteLevel()),
    "ByteLevel in a Sequence": lambda: byte_level(decoders.Sequence([decoders.ByteLevel()])),
    "ByteLevel, Strip": lambda: byte_level(
        decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 0, 0)])
    ),
    "ByteLevel, Fuse, Strip": lambda: byte_level(
        decoders.Sequence([decoders.ByteLevel(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    ),
    "ByteLevel, Replace": lambda: byte_level(
        decoders.Sequence([decoders.ByteLevel(), decoders.Replace("\u00e9", "e")])
    ),
    "Llama": lambda: llama([decoders.Fuse(), decoders.Strip(" ", 1, 0)]),
    "byte fallback, Fuse": lambda: llama([decoders.Fuse()]),
    "Metaspace": lambda: metaspace("always", models.BPE(unk_token="<unk>"), trainers.BpeTrainer),
    "Metaspace, first": lambda: metaspace(
        "first", models.BPE(unk_token="<unk>", byte_fallback=True), trainers.BpeTrainer
    ),
    "Unigram": lambda: metaspace(
        "always", models.Unigram(), trainers.UnigramTrainer, unk_token="<unk>"
    ),
    "WordPiece": lambda: trained(
        models.WordPiece(unk_token="<unk>"), trainers.WordPieceTrainer, decoders.WordPiece(),
        pre_tokenizers.BertPreTokenizer(), normalizers.BertNormalizer(),
    ),
    "WordLevel": lambda: trained(
        models.WordLevel(unk_token="<unk>"), trainers.WordLevelTrainer, decoders.WordPiece(),
        pre_tokenizers.Whitespace(),
    ),
    "end of word": lambda: trained(
        models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"), trainers.BpeTrainer,
        decoders.BPEDecoder(), pre_tokenizers.Whitespace(), end_of_word_suffix="</w>",
    ),
}  # fmt: skip
form = cache(lambda name: FORMS[name]())


# --- the texts ------------------------------------------------------------------------------------


class Script(torch.nn.Module):
    """After a prompt of `start` tokens, the tokens given, one after the other."""

    def __init__(self, ids: list[int], start: int, vocab_size: int):
        super().__init__()
        self.ids, self.start, self.V = ids, start, vocab_size

    def forward(self, tokens_BT):
        logits_BTV = torch.zeros(*tokens_BT.shape, self.V)
        logits_BTV[:, -1, self.ids[tokens_BT.shape[1] - self.start]] = 1.0
        return logits_BTV


def streamed(tokenizer: Tokenizer, before: list[int], ids: list[int]) -> str:
    decoder = StreamDecoder(tokenizer, before)
    return "".join([*map(decoder.push, ids), decoder.flush()])


def check_decoding(name: str, text: str) -> None:
    tokenizer = form(name)
    ids = tokenizer.encode(text)
    assert streamed(tokenizer, [], ids) == tokenizer.decode(ids), ascii(text)
    prompt = tokenizer.prompt_ids("Once upon")
    assert streamed(tokenizer, prompt, ids) == tokenizer.continuation(prompt, ids), ascii(text)


def check_sampling(name: str, text: str) -> None:
    tokenizer = form(name)
    prompt, ids = tokenizer.prompt_ids("Once upon"), tokenizer.encode(text)
    model = Script([*ids, tokenizer.eot_id], len(prompt), tokenizer.vocab_size)
    sampler = Sampler(model, tokenizer)
    options = dict(temperature=0.0, max_new_tokens=len(ids) + 1)
    [found] = sampler.generate(["Once upon"], **options)
    assert tokenizer.decode(prompt) + found == tokenizer.decode(prompt + ids), ascii(text)
    assert "".join(sampler.stream("Once upon", **options)) == found, ascii(text)


@pytest.mark.parametrize("name", FORMS)
def test_streamed_text_is_decoded_text(name):
    rng = random.Random(5)
    for _ in range(60):
        check_decoding(name, random_text(rng))


@pytest.mark.parametrize("name", FORMS)
def test_streamed_text_is_generated_text(name):
    rng = random.Random(6)
    for _ in range(4):
        check_sampling(name, random_text(rng))


@pytest.mark.parametrize("name", FORMS)
def test_streams_with_special_tokens(name):
    """As with `stop=False`, where a text may go through many ends."""
    tokenizer, rng = form(name), random.Random(7)
    for _ in range(20):
        ids: list[int] = []
        for _ in range(rng.randrange(5)):
            ids += [*tokenizer.encode(random_text(rng)), *[tokenizer.eot_id] * rng.randrange(4)]
        assert streamed(tokenizer, [], ids) == tokenizer.decode(ids)
