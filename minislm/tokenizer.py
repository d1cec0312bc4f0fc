"""Text <-> token ids: byte-level BPE (Sennrich et al. 2016; Radford et al. 2019).

The merging itself is done by the `tokenizers` library. This room holds what a small language
model needs around it: training, loading any published tokenizer, saving in the standard format,
errors told in one line, and text that streams to a terminal token by token.
"""

from __future__ import annotations

import codecs
import json
import re
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from minislm.runtime.errors import UserError
from minislm.runtime.files import atomic_write

# A story starts from it, ends with it and is padded with it (bos = eos = pad), as in GPT-2 and the
# published TinyStories models.
END_OF_TEXT = "<|endoftext|>"

# How other families call the token that ends a text, most specific first.
_END_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")

# Every byte is a token, so that any text can be encoded; END_OF_TEXT is one more.
_SMALLEST_VOCABULARY = 256 + 1

# BPE training takes time quadratic in the length of a word: a 1 MB run without spaces would take
# minutes, and no useful token is longer than this many bytes.
_LONGEST_TRAINING_WORD = 64


class Tokenizer:
    """A `tokenizers.Tokenizer` that knows where a text ends.

    Args:
        backend: the library's tokenizer. It is taken over: its padding and truncation are switched
            off, because nothing here is cut in silence.
        end_of_text: the token that ends a text; if None, the first well-known name in the
            vocabulary.

    Raises:
        UserError: the vocabulary has no such token.
    """

    def __init__(self, backend: tokenizers.Tokenizer, end_of_text: str | None = None):
        self.backend = backend
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True  # "<|endoftext|>" typed by a user is ordinary text

        names = _END_NAMES if end_of_text is None else (end_of_text,)
        known = [name for name in names if backend.token_to_id(name) is not None]
        if not known:
            raise UserError(
                f"the tokenizer has no end-of-text token: none of {', '.join(names)} is in its "
                "vocabulary; add one of them to it"
            )
        # Where the token is a plain word of the vocabulary, decoding would print it.
        backend.add_special_tokens([_special(known[0])])
        self.eot_id: int = backend.token_to_id(known[0])
        self.pad_id: int = self.eot_id
        self.vocab_size: int = 1 + max(backend.get_vocab(with_added_tokens=True).values())
        self._special_ids = {
            id for id, token in backend.get_added_tokens_decoder().items() if token.special
        }
        probe = backend.encode("a")  # shows what the post-processor puts before a text
        mask = probe.special_tokens_mask
        self._bos_ids = probe.ids[: mask.index(0)] if 0 in mask else []

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int = 4096, digits: str = "single"
    ) -> Tokenizer:
        """Learn a byte-level BPE vocabulary; the same texts always give the same one.

        Args:
            texts: documents; END_OF_TEXT inside one separates two documents, it is never learned.
            vocab_size: the tokens asked for, 257 or more. A small corpus may give fewer: the
                tokenizer's own `vocab_size` tells the true number. END_OF_TEXT gets id 0.
            digits: "single" makes every digit a token of its own, the same one wherever it stands
                (" 41" is " ", "4", "1"); "merged" lets runs of digits be merged, as GPT-2 does.

        Raises:
            UserError: a vocabulary below 257, another `digits`, or text that is not Unicode.
        """
        if vocab_size < _SMALLEST_VOCABULARY:
            raise UserError(
                f"vocab_size {vocab_size} is too small: 256 bytes and {END_OF_TEXT} need "
                f"{_SMALLEST_VOCABULARY} or more"
            )
        if digits not in ("single", "merged"):
            raise UserError(f"digits must be 'single' or 'merged', not {digits!r}")
        words = pre_tokenizers.ByteLevel(add_prefix_space=False)  # splits by GPT-2's regex
        if digits == "single":
            single = pre_tokenizers.Digits(individual_digits=True)
            words = pre_tokenizers.Sequence([single, words])

        backend = tokenizers.Tokenizer(models.BPE())
        backend.decoder = decoders.ByteLevel()
        pieces = Regex(f".{{{_LONGEST_TRAINING_WORD}}}")
        capped = pre_tokenizers.Split(pieces, behavior="isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence([words, capped])
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,  # a pair seen once teaches nothing
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=[_special(END_OF_TEXT)],
            show_progress=False,
        )
        try:
            backend.train_from_iterator(_documents(texts), trainer=trainer)
        except UnicodeEncodeError as error:
            raise _not_unicode(error) from error
        backend.pre_tokenizer = words
        return cls(backend)

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read a tokenizer: a tokenizer.json or a GPT-2 style vocab.json with merges.txt.

        Args:
            path: the folder that holds them, or one of the files. A tokenizer_config.json beside
                tokenizer.json names the end-of-text token.

        Raises:
            UserError: a file is missing, damaged or not a tokenizer; the message names it.
        """
        path = Path(path)
        folder = path if path.is_dir() else path.parent
        vocab, merges = folder / "vocab.json", folder / "merges.txt"
        whole = folder / "tokenizer.json" if path.is_dir() else path
        if path in (vocab, merges) or (path.is_dir() and not whole.exists() and vocab.exists()):
            return cls(_gpt2_backend(vocab, merges))
        if path.is_dir() and not whole.exists():
            raise UserError(
                f"no tokenizer in {path}: it needs tokenizer.json, or vocab.json and merges.txt"
            )
        try:
            backend = tokenizers.Tokenizer.from_str(_read_text(whole))
        except UserError:
            raise
        except Exception as error:  # the library raises nothing more precise
            raise UserError(f"{whole} is damaged or not a tokenizer.json: {error}") from error
        try:
            return cls(backend, _configured_end_of_text(folder / "tokenizer_config.json"))
        except UserError as error:
            raise UserError(f"{whole}: {error}") from error

    def save(self, folder: str | Path, model_max_length: int | None = None) -> None:
        """Write tokenizer.json and tokenizer_config.json, as `transformers` reads them.

        Args:
            folder: made if it does not exist.
            model_max_length: the context of the model that goes with it, in tokens.
        """
        folder = Path(folder)
        end = self.backend.id_to_token(self.eot_id)
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.backend.id_to_token(self._bos_ids[0]) if self._bos_ids else end,
            "eos_token": end,
            "pad_token": end,
            "unk_token": getattr(self.backend.model, "unk_token", None) or end,
            "clean_up_tokenization_spaces": False,
        }
        if model_max_length is not None:
            config["model_max_length"] = model_max_length
        atomic_write(folder / "tokenizer.json", self.backend.to_str(pretty=True))
        atomic_write(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, read as plain text: no token is added and none is special.

        Raises:
            UserError: the text holds half of a surrogate pair, which no byte sequence stands for.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts at once, on all cores."""
        try:
            encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        except TypeError:  # the library's words for a lone surrogate
            for text in texts:
                _check_unicode(text)
            raise
        return [encoding.ids for encoding in encodings]

    def prompt_ids(self, text: str) -> list[int]:
        """What a model reads before it goes on: never empty.

        The text's ids stand behind the begin-of-text token if this tokenizer's own post-processor
        adds one (Llama does, GPT-2 does not). A story out of nothing starts from END_OF_TEXT.
        """
        return self._bos_ids + self.encode(text) or [self.eot_id]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens left out; bytes that are not UTF-8 become U+FFFD.

        Raises:
            UserError: an id is outside the vocabulary (the library would silently give "").
        """
        for token_id in ids:
            self._check_id(token_id)
        return self.backend.decode(ids, skip_special_tokens=True)

    def continuation(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """The text that `ids` add to a text that ends with the ids `before`.

        Not always `decode(ids)`: Llama's tokenizers drop the space in front of a text's first
        word, and a continuation begins in the middle of one.
        """
        decoder = StreamDecoder(self, before)
        return "".join(map(decoder.push, ids)) + decoder.flush()

    def _check_id(self, token_id: int) -> None:
        if not 0 <= token_id < self.vocab_size:
            raise UserError(
                f"token id {token_id} is outside the vocabulary of {self.vocab_size} tokens; "
                "do the model and the tokenizer belong together?"
            )


class StreamDecoder:
    """The text of a token stream, given out as soon as it is whole.

    A character beyond ASCII takes 2 to 4 bytes, often in several tokens. What is incomplete is
    held back, and it can never be held for long: the fourth byte completes a character or proves
    it broken, and then U+FFFD is printed. The work per token does not grow with the text. The
    pieces put together are `Tokenizer.decode` of all the ids.

    Args:
        tokenizer: whose tokens they are.
        before: the ids the stream goes on from; their text is not given out.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()):
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        byte_level = isinstance(tokenizer.backend.decoder, decoders.ByteLevel)
        self._byte_of = _byte_alphabet() if byte_level else None
        self._previous: list[int] = []
        for token_id in before[-4:]:  # no character is longer
            self.push(token_id)
        self._utf8.reset()

    def push(self, token_id: int) -> str:
        """The characters that `token_id` completes: often a word, sometimes "".

        Raises:
            UserError: the id is outside the vocabulary.
        """
        self._tokenizer._check_id(token_id)
        if token_id in self._tokenizer._special_ids:
            return ""
        text = self._utf8.decode(self._token_bytes(token_id))
        self._previous = [token_id]
        return text

    def flush(self) -> str:
        """What is still held when the stream ends (U+FFFD for an incomplete character)."""
        self._previous = []
        return self._utf8.decode(b"", final=True)

    def _token_bytes(self, token_id: int) -> bytes:
        backend = self._tokenizer.backend
        token = backend.id_to_token(token_id) or ""  # a padded vocabulary has holes
        if self._byte_of is not None:
            try:
                return bytes(self._byte_of[character] for character in token)
            except KeyError:  # an added token is spelt as it reads
                return token.encode()
        if byte := re.fullmatch("<0x([0-9A-F]{2})>", token):  # Llama's byte fallback
            return bytes.fromhex(byte[1])
        # Elsewhere a token's spaces depend on the token before it: decode both, keep the new part.
        before = backend.decode(self._previous)
        return backend.decode([*self._previous, token_id])[len(before) :].encode()


def _special(token: str) -> AddedToken:
    return AddedToken(token, special=True, normalized=False)


def _documents(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from text.split(END_OF_TEXT)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's spelling of bytes: printable Latin-1 as itself, the other 68 from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + n): byte for n, byte in enumerate(others)
    }


def _gpt2_backend(vocab: Path, merges: Path) -> tokenizers.Tokenizer:
    for file in (vocab, merges):
        _read_text(file)  # the library's own message would not say which file it is
    try:
        backend = tokenizers.Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    except Exception as error:  # the library raises nothing more precise
        raise UserError(f"{vocab} and {merges.name} are damaged or no pair: {error}") from error
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([_special(END_OF_TEXT)])
    return backend


def _configured_end_of_text(config: Path) -> str | None:
    if not config.exists():
        return None
    try:
        token = json.loads(_read_text(config)).get("eos_token")
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{config} is not a JSON object: {error}") from error
    token = token.get("content", token) if isinstance(token, dict) else token  # both are in use
    if isinstance(token, str):
        _check_unicode(token)
    elif token is not None:
        raise UserError(f"{config} is damaged: its eos_token is {reprlib.repr(token)}, no text")
    return token


def _read_text(file: Path) -> str:
    if file.exists() and not file.is_file():  # a pipe would keep us waiting
        raise UserError(f"{file} is not a regular file")
    try:
        return file.read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is damaged: it is not UTF-8 text ({error})") from error


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _not_unicode(error) from error


def _not_unicode(error: UnicodeEncodeError) -> UserError:
    return UserError(
        f"the text is not Unicode: character {error.start} is U+{ord(error.object[error.start]):X}"
        ", half of a surrogate pair; remove it or read the file with the right encoding"
    )
