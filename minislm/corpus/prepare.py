"""Token files: text cleaned and tokenized once, and found again by a hash of all it depends on."""

import hashlib
import json
import multiprocessing
import shutil
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
from tqdm import tqdm

from minislm.corpus import clean, read
from minislm.corpus.read import TextError, fingerprint, read_stories
from minislm.corpus.words import normalizer
from minislm.dataset import TokenDataset
from minislm.runtime.errors import UserError, log
from minislm.runtime.files import atomic_path, lock_file, os_error
from minislm.tokenizer import Tokenizer

FORMAT = "minislm-tokens-5"  # part of every key: change it when cleaning or the files change
TOKENIZER_TEXT = 50_000_000  # characters: more text does not make a better vocabulary


class CacheError(UserError):
    """A folder for token files that cannot be written."""


@dataclass(frozen=True)
class PreparedText(TokenDataset):
    """A `TokenDataset` on disk, what was counted while it was prepared, and its folder."""

    counts: str = ""
    path: Path | None = None


def prepare(
    source: str | Path, tokenizer: Tokenizer, cache: str | Path, exclude: str | Path | None = None
) -> PreparedText:
    """The token file of `source` without the stories of `exclude`, made in `cache` or found there.
    Of several processes that want the same one, the first makes it. UserError: as `read_stories`;
    no story is left; a worker was killed. CacheError: `cache` cannot be written to."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # A worker imports the main script; here it would wait for its own parent for ever.
        raise RuntimeError('a script must call prepare() under `if __name__ == "__main__":`')
    cache = Path(cache)
    texts = [fingerprint(each, cache) for each in (source, exclude) if each is not None]
    normalize = getattr(tokenizer, "normalize", "none")  # of a WordTokenizer
    folder = cache / _key(FORMAT, texts, tokenizer.eot_id, tokenizer.backend.to_str(), normalize)
    with suppress(UserError):  # not there, or damaged
        return _open(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / "lock", "ab")
    except OSError as error:
        raise CacheError(str(os_error(f"write {folder}", error))) from error
    with lock:
        if not lock_file(lock, wait=False):
            log("waiting for another process that prepares the same text")
            lock_file(lock)
        with suppress(UserError):  # made by the other process
            return _open(folder)
        _make(folder, source, exclude, tokenizer)
        return _open(folder)


def train_tokenizer(
    source: str | Path, more: Sequence[str], vocab_size: int, digits: str, cache: str | Path,
    normalize: str = "none",
) -> Tokenizer:  # fmt: skip
    """The tokenizer of the first 50 million characters of `source` and all of `more`, made now or
    found in `cache`. Raises UserError as `read_stories` and `Tokenizer.train`."""
    settings = TOKENIZER_TEXT, vocab_size, digits, normalize
    key = _key(FORMAT, tokenizers.__version__, fingerprint(source, cache), *more, *settings)
    folder = Path(cache) / f"tokenizer-{key}"
    with suppress(UserError):  # not there, or damaged
        return Tokenizer.load(folder)
    stories = map(normalizer(normalize), clean.clean_stories(read_stories(source), clean.Counts()))
    texts, size = [*more], 0
    for story in tqdm(stories, desc="text for the tokenizer", unit=" stories", disable=None):
        texts.append(story)
        size += len(story)
        if size >= TOKENIZER_TEXT:
            break
    tokenizer = Tokenizer.train(texts, vocab_size, digits)
    tokenizer.save(folder)
    return tokenizer


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _open(folder: Path) -> PreparedText:
    """The token file of a folder; raises UserError if it is not there or damaged."""
    index, file = clean.load_arrays(folder / "index.npz"), folder / "tokens.bin"
    if fingerprint(file, folder.parent) != index["sha256"]:
        raise UserError(f"{file} is damaged; run the same command again")
    tokens = np.memmap(file, str(index["dtype"]), mode="r")
    return PreparedText(tokens, index["starts"], index["sizes"], str(index["counts"]), folder)


def _make(
    folder: Path, source: str | Path, exclude: str | Path | None, tokenizer: Tokenizer
) -> None:
    """Write tokens.bin from shards, and index.npz last: without it nothing counts."""
    for left in folder.glob(".*.tmp"):  # by an interrupted run
        left.unlink()
    counts, file, parts = clean.Counts(), folder / "tokens.bin", folder / f"shards-{read.BATCH}"
    excluded = clean.long_enough(read_stories(exclude), clean.Counts()) if exclude else ()
    seen = dict.fromkeys(map(clean.digest, excluded), "in the validation set")
    shards = clean.make_shards(read.read_batches(source, counts), tokenizer, parts)
    total = sum(each.stat().st_size for each in read.source_files(source) if each.suffix == ".txt")
    bar = tqdm(total=total or None, desc="preparing", disable=None, unit="B", unit_scale=True)
    stories = []
    try:
        with closing(shards), bar, atomic_path(file) as temporary, open(temporary, "wb") as opened:
            for shard in shards:
                counts.update(json.loads(str(shard["counts"])))
                lengths, _, keys = shard["stories"].T
                new = np.array([clean.is_new(key, seen, counts) for key in keys.tolist()], bool)
                tokens = shard["tokens"][np.repeat(new, lengths)]
                opened.write(tokens.tobytes())
                stories.append(shard["stories"][new])
                bar.set_postfix_str(f"{counts.kept:,} stories", refresh=False)
                bar.update(int(shard["bytes_read"]))
        if not counts.kept:
            raise TextError(f"no story is left of {source}: {counts}; give more or longer text")
    except TextError:  # the shards are of no use any more
        shutil.rmtree(parts, ignore_errors=True)
        raise
    lengths, sizes, _ = np.concatenate(stories).T
    index = {"starts": np.insert(np.cumsum(lengths), 0, 0), "sizes": sizes, "counts": str(counts)}
    index |= {"sha256": fingerprint(file, folder.parent), "dtype": tokens.dtype.str}
    clean.save_arrays(folder / "index.npz", index)
    shutil.rmtree(parts, ignore_errors=True)
