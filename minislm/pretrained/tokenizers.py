"""Tokenizers of published models: tokenizer.json; vocab.json, merges.txt; and what ends a text."""

import json
import reprlib
from collections.abc import Callable, Iterable
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from minislm.runtime.errors import CheckpointError, UserError
from minislm.runtime.files import read_text, write_json
from minislm.tasks import END_OF_TEXT
from minislm.tokenizer import Tokenizer, read_backend

_END_NAMES = [END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>"]  # most specific first


class PretrainedTokenizer(Tokenizer):
    """A tokenizer that may put a begin-of-text token before a prompt (Llama does, GPT-2 does not).
    end_of_text: default: the first well-known name in the vocabulary. UserError: there is none."""

    def __init__(self, backend: tokenizers.Tokenizer, end_of_text: str | None = None):
        known = [name for name in _END_NAMES if backend.token_to_id(name) is not None]
        super().__init__(backend, end_of_text or next(iter(known), END_OF_TEXT))
        encoding = backend.encode("a")  # shows what the post-processor puts before a text
        mask = encoding.special_tokens_mask
        self.bos_ids = encoding.ids[: mask.index(0)] if 0 in mask else []
        self.prepare: Callable[[str], str] = str  # of a prompt, before it is encoded

    def prompt_ids(self, text: str) -> list[int]:
        return self.bos_ids + self.encode(self.prepare(text)) or [self.eot_id]

    def fits(self, rows: int) -> bool:
        """Whether an embedding has all tokens but added ones ([PAD]): texts have none of these."""
        added = self.backend.get_added_tokens_decoder().items()
        self.backend.add_special_tokens([token for id, token in added if id >= rows])
        words = self.backend.get_vocab(with_added_tokens=False).values()
        return max(self.eot_id, *self.prompt_ids(""), *words) < rows


def load_tokenizer(folder: Path, model: Path | None = None) -> PretrainedTokenizer:
    """Read the tokenizer.json of a folder, or its GPT-2 style vocab.json with merges.txt.
    Sampling stops where `transformers` does: at the ids in generation_config.json or config.json
    (of the folder `model`, if that is another). A text ends with the token that the tokenizer's
    files name, or the first of these ids. CheckpointError names a missing or damaged file."""
    file, vocab = folder / "tokenizer.json", folder / "vocab.json"
    try:
        if file.exists():
            backend = read_backend(file)
        elif vocab.exists():
            backend = _gpt2_backend(vocab, folder / "merges.txt")
        else:
            needed = "tokenizer.json, or vocab.json and merges.txt"
            raise CheckpointError(f"no tokenizer in {folder}: it needs {needed}")
        names = _read(folder, ("tokenizer_config", "special_tokens_map"), "eos_token", str)
        ids = _read(model or folder, ("generation_config", "config"), "eos_token_id", int)
        ids = [id for id in ids if 0 <= id < 2**32 and backend.id_to_token(id) is not None]
        names = names + [backend.id_to_token(id) for id in ids] or _END_NAMES
        end = next((name for name in names if backend.token_to_id(name) is not None), names[0])
        if not file.exists():  # an end that the vocabulary lacks gets the next id
            backend.add_special_tokens([AddedToken(end, special=True, normalized=False)])
        tokenizer = PretrainedTokenizer(backend, end)
        tokenizer.end_ids = set(ids) or tokenizer.end_ids
        return tokenizer
    except UserError as error:
        named = isinstance(error, CheckpointError) or str(folder) in str(error)
        raise CheckpointError(str(error) if named else f"{file}: {error}") from error


def save_tokenizer(folder: Path, tokenizer: Tokenizer, model_max_length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json, as `transformers` reads them."""
    name_of = tokenizer.backend.id_to_token
    end, bos_ids = name_of(tokenizer.eot_id), getattr(tokenizer, "bos_ids", ())
    tokenizer.save(folder)
    config = {"tokenizer_class": "PreTrainedTokenizerFast",
              "bos_token": name_of(bos_ids[0]) if bos_ids else end,
              "eos_token": end, "pad_token": end,
              "unk_token": getattr(tokenizer.backend.model, "unk_token", None) or end,
              "clean_up_tokenization_spaces": False,
              "model_max_length": model_max_length}  # fmt: skip
    write_json(folder / "tokenizer_config.json", config)


def _gpt2_backend(vocab: Path, merges: Path) -> tokenizers.Tokenizer:
    for file in (vocab, merges):
        read_text(file)  # the library's own message would not name the file
    try:
        backend = tokenizers.Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    except Exception as error:  # the library raises nothing more precise
        raise UserError(f"{vocab}, {merges.name} are damaged or do not match: {error}") from error
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def _read(folder: Path, files: Iterable[str], key: str, kind: type) -> list:
    """The values of `key`, one or several, in the first of these JSON files that has some."""
    for file in (folder / f"{name}.json" for name in files):
        try:
            value = json.loads(read_text(file)).get(key) if file.exists() else None
            value = value["content"] if isinstance(value, dict) else value  # both are in use
            values = value if isinstance(value, list) and kind is int else [value]
            if value is not None and not all(type(each) is kind for each in values):
                raise TypeError(f"{key} is {reprlib.repr(value)}, not of type {kind.__name__}")
            str(value).encode()  # half of a surrogate pair raises a ValueError
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{file} is damaged: {error}") from error
        if value not in (None, [], ""):
            return values
    return []
