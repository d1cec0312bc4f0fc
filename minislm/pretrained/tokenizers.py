"""Tokenizers of published models: tokenizer.json and its configuration; vocab.json, merges.txt."""

import json
import reprlib
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from minislm.runtime.errors import CheckpointError, UserError
from minislm.runtime.files import read_text, write_json
from minislm.tasks import END_OF_TEXT
from minislm.tokenizer import Tokenizer, read_backend

# Names of the token that ends a text, most specific first.
_END_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")


class PretrainedTokenizer(Tokenizer):
    """A tokenizer that may put a begin-of-text token before a prompt (Llama does, GPT-2 does not).

    Args:
        end_of_text: the token that ends a text; None: the first well-known name in the vocabulary.

    Raises:
        UserError: the vocabulary has no such token.
    """

    def __init__(self, backend: tokenizers.Tokenizer, end_of_text: str | None = None):
        known = [name for name in _END_NAMES if backend.token_to_id(name) is not None]
        super().__init__(backend, end_of_text or next(iter(known), END_OF_TEXT))
        encoding = backend.encode("a")  # shows what the post-processor puts before a text
        mask = encoding.special_tokens_mask
        self.bos_ids = encoding.ids[: mask.index(0)] if 0 in mask else []

    def prompt_ids(self, text: str) -> list[int]:
        return self.bos_ids + self.encode(text) or [self.eot_id]


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer.json of a folder, or its GPT-2 style vocab.json with merges.txt.

    A tokenizer_config.json beside tokenizer.json names the end-of-text token.

    Raises:
        CheckpointError: a file is missing, damaged or not a tokenizer; the message names it.
    """
    file, vocab = folder / "tokenizer.json", folder / "vocab.json"
    try:
        if file.exists():
            return PretrainedTokenizer(read_backend(file), _configured_end_of_text(folder))
        if vocab.exists():
            return PretrainedTokenizer(_gpt2_backend(vocab, folder / "merges.txt"))
    except UserError as error:
        named = str(folder) in str(error)
        raise CheckpointError(str(error) if named else f"{file}: {error}") from error
    raise CheckpointError(
        f"no tokenizer in {folder}: it needs tokenizer.json, or vocab.json and merges.txt"
    )


def save_tokenizer(folder: Path, tokenizer: Tokenizer, model_max_length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json, as `transformers` reads them."""
    name_of = tokenizer.backend.id_to_token
    end, bos_ids = name_of(tokenizer.eot_id), getattr(tokenizer, "bos_ids", ())
    tokenizer.save(folder)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": name_of(bos_ids[0]) if bos_ids else end,
        "eos_token": end,
        "pad_token": end,
        "unk_token": getattr(tokenizer.backend.model, "unk_token", None) or end,
        "clean_up_tokenization_spaces": False,
        "model_max_length": model_max_length,
    }
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
    backend.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return backend


def _configured_end_of_text(folder: Path) -> str | None:
    file = folder / "tokenizer_config.json"
    if not file.exists():
        return None
    try:
        token = json.loads(read_text(file)).get("eos_token")
        token = token["content"] if isinstance(token, dict) else token  # both are in use
        if not isinstance(token, str | None):
            raise TypeError(f"eos_token is {reprlib.repr(token)}, not a string")
        (token or "").encode()  # half of a surrogate pair raises a ValueError
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is damaged: {error}") from error
    return token
