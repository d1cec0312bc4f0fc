"""Text <-> token ids: byte-level BPE (Sennrich et al. 2016; Radford et al. 2019).

The `tokenizers` library does the merging. Here: training, saving and loading tokenizer.json, and
text that can be streamed token by token. Other formats are in pretrained/tokenizers.py."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from minislm.runtime.errors import UserError
from minislm.runtime.files import atomic_write, check_unicode, read_text
from minislm.tasks import END_OF_TEXT

# BPE training takes time quadratic in the length of a word: a 1 MB run without spaces would take
# minutes, and no useful token is longer than this many characters.
_LONGEST_TRAINING_WORD = 64
_REPLACEMENT = "\ufffd"  # what decoding gives for bytes that are not UTF-8
_WINDOW = 16  # tokens decoded together, for the spaces between words depend on those before


class Tokenizer:
    """A tokenizer of the library and the token that ends a text.
    UserError: the vocabulary has no such token."""

    def __init__(self, backend: tokenizers.Tokenizer, end_of_text: str = END_OF_TEXT):
        self.backend = backend
        backend.no_truncation()  # nothing is cut silently
        backend.no_padding()
        backend.encode_special_tokens = True  # "<|endoftext|>" in a user's text is ordinary text
        eot_id = backend.token_to_id(end_of_text)
        if eot_id is None:
            raise UserError(f"the vocabulary has no end-of-text token: {end_of_text}")
        # Where the token is an ordinary word of the vocabulary, decoding would print it.
        backend.add_special_tokens([_special(end_of_text)])
        self.eot_id, self.end_ids = eot_id, {eot_id}  # sampling stops at all of `end_ids`
        self.vocab_size: int = 1 + max(backend.get_vocab(with_added_tokens=True).values())

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int = 4096, digits: str = "single"
    ) -> "Tokenizer":
        """Learn a byte-level BPE vocabulary; the same texts always give the same one.

        Args:
            texts: documents; END_OF_TEXT in a text separates two documents and is never learned.
            vocab_size: number of tokens, 257 or more; a small corpus may give fewer.
            digits: "single" makes every digit a token of its own; "merged" lets them merge.

        Raises:
            UserError: a vocabulary below 257, another `digits`, or text that is not Unicode."""
        if vocab_size < 256 + 1:  # every byte is a token, so any text can be encoded
            raise UserError(f"vocab_size {vocab_size} is too small; give 257 or more")
        if digits not in ("single", "merged"):
            raise UserError(f"digits must be 'single' or 'merged', not {digits!r}")
        words = pre_tokenizers.ByteLevel(add_prefix_space=False)  # splits by GPT-2's regex
        if digits == "single":
            single = pre_tokenizers.Digits(individual_digits=True)
            words = pre_tokenizers.Sequence([single, words])
        backend = tokenizers.Tokenizer(models.BPE())
        backend.decoder = decoders.ByteLevel()
        limit = Regex(f".{{{_LONGEST_TRAINING_WORD}}}")
        limited = pre_tokenizers.Split(limit, behavior="isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence([words, limited])
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,  # a pair seen once teaches nothing
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=[_special(END_OF_TEXT)],
            show_progress=False,
        )
        try:
            documents = (each for text in texts for each in text.split(END_OF_TEXT))
            backend.train_from_iterator(documents, trainer=trainer)
        except UnicodeEncodeError as error:
            check_unicode(error.object)
        backend.pre_tokenizer = words
        return cls(backend)

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Read the tokenizer.json of a folder; raises UserError naming the file."""
        return cls(read_backend(Path(folder) / "tokenizer.json"))

    def save(self, folder: str | Path) -> None:
        """Write FOLDER/tokenizer.json."""
        atomic_write(Path(folder) / "tokenizer.json", self.backend.to_str(pretty=True))

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, read as plain text: no token is added and none is special.
        UserError: the text has half of a surrogate pair, which has no UTF-8 encoding."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts, on all cores."""
        try:
            encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        except TypeError:  # the library's error for a lone surrogate
            for text in texts:
                check_unicode(text)
            raise
        return [encoding.ids for encoding in encodings]

    def prompt_ids(self, text: str) -> list[int]:
        """The ids of a prompt, never empty: a text from nothing starts from END_OF_TEXT."""
        return self.encode(text) or [self.eot_id]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` without special tokens; bytes that are not UTF-8 become U+FFFD.
        UserError: an id is outside the vocabulary (the library would return "")."""
        for token_id in ids:
            if not 0 <= token_id < self.vocab_size:
                raise UserError(f"token id {token_id} is outside the vocabulary of "
                                f"{self.vocab_size} tokens; is it the model's own?")  # fmt: skip
        return self.backend.decode(ids, skip_special_tokens=True)

    @cached_property
    def unused_ids(self) -> list[int]:
        """Ids below `vocab_size` without a token."""
        return sorted(set(range(self.vocab_size)) - set(self.backend.get_vocab().values()))

    @property
    def digit_ids(self) -> tuple[int, ...]:
        """The tokens that consist of digits."""
        return tuple(sorted(n for t, n in self.backend.get_vocab().items() if t.isdecimal()))

    def continuation(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """The text that `ids` add after the ids `before`.

        Not always `decode(ids)`: Llama's tokenizers drop the space before the first word of a text.
        """
        return self.decode([*before, *ids])[len(self.decode(before)) :]


class StreamDecoder:
    """Text of a token stream, returned as soon as it is final.

    before: tokens before the stream; their text is not returned.

    A character beyond ASCII takes 2 to 4 bytes, often in several tokens. Text that ends in a
    replacement character is held back for 3 tokens: it may be the beginning of such a character."""

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()):
        self._tokenizer, self._ids = tokenizer, list(before)
        self._returned = len(tokenizer.decode(self._ids))  # characters of their text
        self._whole = len(self._ids)  # tokens whose text ends in a whole character

    def push(self, token_id: int) -> str:
        """The text that `token_id` completes: often a word, sometimes ""."""
        self._ids.append(token_id)
        text = self._tokenizer.decode(self._ids)
        open_end = min(3, len(text) - len(text.rstrip(_REPLACEMENT)))
        if open_end and len(self._ids) <= self._whole + 3:
            return ""
        new = text[self._returned : len(text) - open_end]
        self._returned = max(self._returned, len(text) - open_end)
        if not open_end:
            kept = self._ids[self._whole :]  # its text is "" where they are special tokens alone
            if len(self._ids) > _WINDOW and (length := len(self._tokenizer.decode(kept))):
                self._ids, self._returned = kept, length
            self._whole = len(self._ids)
        return new

    def flush(self) -> str:
        """The rest, when the stream ends: U+FFFD for an incomplete character."""
        rest = self._tokenizer.decode(self._ids)[self._returned :]
        self._ids, self._returned = [], 0
        return rest


def read_backend(file: Path) -> tokenizers.Tokenizer:
    """The library's tokenizer of a tokenizer.json; raises UserError naming the file."""
    text = read_text(file)
    try:
        return tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing more precise
        raise UserError(f"{file} is damaged or not a tokenizer.json: {error}") from error


def _special(token: str) -> AddedToken:
    return AddedToken(token, special=True, normalized=False)
