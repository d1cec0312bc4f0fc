"""Tokenizers of published models: tokenizer.json with its configuration, vocab.json with merges.txt."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Sequence
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from minislm.runtime.errors import CheckpointError, UserError
from minislm.runtime.files import atomic_write, check_unicode, read_text
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
        names = _END_NAMES if end_of_text is None else (end_of_text,)
        known = [name for name in names if backend.token_to_id(name) is not None]
        if not known:
            raise UserError(
                f"the tokenizer has no end-of-text token: none of {', '.join(names)} is in its "
                "vocabulary; add one of them to it"
            )
        super().__init__(backend, known[0])
        probe = backend.encode("a")  # shows what the post-processor puts before a text
        mask = probe.special_tokens_mask
        self.bos_ids = probe.ids[: mask.index(0)] if 0 in mask else []

    def prompt_ids(self, text: str) -> list[int]:
        return self.bos_ids + self.encode(text) or [self.eot_id]


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Read a tokenizer.json, or a GPT-2 style vocab.json with merges.txt.

    Args:
        path: the folder that has them, or one of the files. A tokenizer_config.json beside
            tokenizer.json names the end-of-text token.

    Raises:
        CheckpointError: a file is missing, damaged or not a tokenizer; the message names it.
    """
    try:
        return _load(Path(path))
    except CheckpointError:
        raise
    except UserError as error:
        raise CheckpointError(str(error)) from error


def _load(path: Path) -> Tokenizer:
    folder = path if path.is_dir() else path.parent
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    whole = folder / "tokenizer.json" if path.is_dir() else path
    if path in (vocab, merges) or (path.is_dir() and not whole.exists() and vocab.exists()):
        return PretrainedTokenizer(_gpt2_backend(vocab, merges))
    if path.is_dir() and not whole.exists():
        raise UserError(
            f"no tokenizer in {path}: it needs tokenizer.json, or vocab.json and merges.txt"
        )
    backend = read_backend(whole)
    try:
        return PretrainedTokenizer(backend, _configured_end_of_text(folder))
    except UserError as error:
        raise UserError(f"{whole}: {error}") from error


def save_tokenizer(folder: Path, tokenizer: Tokenizer, model_max_length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json, as `transformers` reads them."""
    name_of = tokenizer.backend.id_to_token
    bos_ids: Sequence[int] = getattr(tokenizer, "bos_ids", ())
    end = name_of(tokenizer.eot_id)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": name_of(bos_ids[0]) if bos_ids else end,
        "eos_token": end,
        "pad_token": end,
        "unk_token": getattr(tokenizer.backend.model, "unk_token", None) or end,
        "clean_up_tokenization_spaces": False,
        "model_max_length": model_max_length,
    }
    tokenizer.save(folder)
    atomic_write(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")


def _gpt2_backend(vocab: Path, merges: Path) -> tokenizers.Tokenizer:
    for file in (vocab, merges):
        read_text(file)  # the library's own message would not name the file
    try:
        backend = tokenizers.Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
    except Exception as error:  # the library raises nothing more precise
        raise UserError(
            f"{vocab} and {merges.name} are damaged or do not match: {error}"
        ) from error
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
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is not a JSON object: {error}") from error
    token = token.get("content", token) if isinstance(token, dict) else token  # both are in use
    if isinstance(token, str):
        check_unicode(token)
    elif token is not None:
        raise UserError(f"{file} is damaged: its eos_token is {reprlib.repr(token)}, not a text")
    return token
