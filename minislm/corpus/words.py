"""Stems or lemmas in place of the words of a text: the preprocessing of --normalize."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from importlib import import_module

from minislm.runtime.errors import UserError
from minislm.tokenizer import Tokenizer

_LIBRARIES = {"stem": "snowballstemmer", "lemma": "simplemma"}
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")  # letters, with apostrophes between them


def normalizer(kind: str) -> Callable[[str], str]:
    """A function that replaces words and keeps their capitals. UserError: a missing library."""
    if kind == "none":
        return str
    try:
        library = import_module(name := _LIBRARIES[kind])
    except ImportError as error:
        raise UserError(f"--normalize {kind} takes {name}: pip install {name}") from error
    stem = kind == "stem"
    base = library.stemmer("english").stemWord if stem else partial(library.lemmatize, lang="en")
    base = lru_cache(1 << 16)(base)

    def replaced(word: re.Match[str]) -> str:
        form = base(word[0].lower())
        return form.capitalize() if word[0][0].isupper() else form.lower()

    return partial(_WORD.sub, replaced)


class WordTokenizer(Tokenizer):
    """Encodes normalised texts. A `TokenDataset` made with it has the bytes of the originals."""

    def __init__(self, tokenizer: Tokenizer, normalize: str):
        super().__init__(tokenizer.backend, tokenizer.backend.id_to_token(tokenizer.eot_id))
        self.normalize, self.replace_words = normalize, normalizer(normalize)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return super().encode_batch([*map(self.replace_words, texts)])
