"""Token files: what text becomes before it is learned from, made once and found again.

Everything streams: memory does not grow with the text, apart from about 100 bytes a story for
the signatures that find duplicates. A finished token file is found again by a hash of all it was
made from; one that was interrupted goes on behind the shards that are whole.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import tokenizers
from tqdm import tqdm

from minislm.corpus.clean import Counts, admit, clean_stories, signatures
from minislm.corpus.duplicates import Signatures
from minislm.corpus.read import TextError, fingerprint, read_stories, source_files
from minislm.corpus.workers import Shard, in_batches, make_shard, make_shards, token_type
from minislm.dataset import TokenDataset
from minislm.runtime.errors import UserError
from minislm.runtime.files import atomic_path, atomic_write, lock_file, os_error
from minislm.tokenizer import Tokenizer

FORMAT = "minislm-tokens-3"  # part of every key: change it when cleaning or the files change
BATCH = 1 << 22  # characters of a shard; more than one is worth the processes
_HASHES = "hashes.json"
_CONTENT = ("tokens.bin", "starts.npy", "sizes.npy")
TOKENIZER_TEXT = 50_000_000  # characters: more text does not make a better vocabulary


@dataclass(frozen=True)
class PreparedText(TokenDataset):
    """A `TokenDataset` on disk, what was counted while it was prepared, and its folder."""

    counts: str = ""
    path: Path | None = None


def prepare(
    source: str | Path | Callable[[], Iterable[str]],
    tokenizer: Tokenizer,
    cache: str | Path,
    *,
    exclude: str | Path | None = None,
    key: str = "",
    progress: bool | None = None,
) -> PreparedText:
    """The token file of `source`: made now in the folder `cache`, or found there from before.

    While it is made, its shards lie beside it; interrupted and called again, it goes on from them.
    Of several processes that want the same file one makes it, and the others wait.

    Args:
        source: files as `read_stories` takes them, which are cleaned; or a function that returns
            the stories, which are taken as they are.
        exclude: the validation text: its stories and their near duplicates are dropped from a
            `source` of files.
        key: what identifies the stories of a function (files are identified by their content).
        progress: a bar on stderr; None shows it on a terminal only.

    Raises:
        UserError: what `read_stories` raises; no story is left; the cache cannot be written to; a
            process that worked on it was killed.
    """
    known = Path(cache) / _HASHES
    if callable(source):
        if not key:
            raise ValueError("stories from a function need a key that identifies them")
        origin = [key]
    else:
        origin = [fingerprint(path, known) for path in (source, exclude) if path is not None]
    spelling = f"{tokenizer.eot_id} {tokenizer.backend.to_str()}"
    made_from = {"format": FORMAT, "origin": origin, "tokenizer": _sha256(spelling)}
    folder = Path(cache) / _sha256(json.dumps(made_from))[:32]
    made_from["name"] = "generated stories" if callable(source) else str(source)
    if (found := _open(folder, known)) is not None:
        return found
    with _alone(folder):
        if (found := _open(folder, known)) is None:  # it may have come while we waited
            _make(folder, source, exclude, tokenizer, made_from, progress)
            found = _open(folder, known)
    assert found is not None, f"{folder} was changed while it was written"
    return found


def train_tokenizer(
    source: str | Path, more: Sequence[str], vocab_size: int, digits: str, cache: str | Path
) -> Tokenizer:
    """The tokenizer of a text's first 50 million characters, learned now or found in `cache`.

    Args:
        source: files as `read_stories` takes them; they are cleaned.
        more: further texts to learn from.
        vocab_size, digits: as `Tokenizer.train` takes them.

    Raises:
        UserError: what `read_stories` and `Tokenizer.train` raise; the cache cannot be written to.
    """
    content = fingerprint(source, Path(cache) / _HASHES)
    made_from = [FORMAT, tokenizers.__version__, TOKENIZER_TEXT, content, *more, vocab_size, digits]
    folder = Path(cache) / f"tokenizer-{_sha256(json.dumps(made_from))[:32]}"
    with suppress(UserError):  # not there, or damaged
        return Tokenizer.load(folder)
    texts = _up_to(clean_stories(read_stories(source), Counts()), TOKENIZER_TEXT)
    shown = tqdm(texts, desc="learning the vocabulary", unit=" stories", disable=None)
    tokenizer = Tokenizer.train(chain(shown, more), vocab_size, digits)
    tokenizer.save(folder)
    return tokenizer


def _up_to(texts: Iterable[str], characters: int) -> Iterator[str]:
    for text in texts:
        yield text
        characters -= len(text)
        if characters <= 0:
            return


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _open(folder: Path, known: Path) -> PreparedText | None:
    """The token file of `folder`, or None if it is not there or not as it was written."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        content = [fingerprint(folder / name, known) for name in _CONTENT]
        if meta.pop("sha256") != _sha256(json.dumps(meta)) or meta["content"] != content:
            return None
        starts, sizes = (np.load(folder / name) for name in ("starts.npy", "sizes.npy"))
        tokens = np.memmap(folder / "tokens.bin", meta["dtype"], mode="r")
        return PreparedText(tokens, starts, sizes, meta["counts"], folder)
    except (OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError, UserError):
        return None


def _make(
    folder: Path,
    source: str | Path | Callable[[], Iterable[str]],
    exclude: str | Path | None,
    tokenizer: Tokenizer,
    made_from: dict[str, object],
    progress: bool | None,
) -> None:
    """Make the token file of `source` in `folder`, from shards that are removed in the end."""
    for left in folder.glob(".*.tmp"):  # by a process that was killed
        left.unlink()
    tally, size, unwanted = Counts(), None, None
    parts = folder / f"shards-{BATCH}"
    if callable(source):
        shards = (make_shard(batch, tokenizer, False) for batch in in_batches(source(), BATCH))
    else:
        if exclude is not None:
            unwanted = signatures(read_stories(exclude))
        batches = in_batches(read_stories(source, tally), BATCH)
        shards = make_shards(batches, tokenizer, parts)
        files = source_files(source)
        if all(file.suffix == ".txt" for file in files):
            size = sum(file.stat().st_size for file in files)
    silent = None if progress is None else not progress  # tqdm's None: unless on a terminal
    unit = dict(unit="B", unit_scale=True, unit_divisor=1000)
    with closing(shards), tqdm(total=size, desc="preparing", disable=silent, **unit) as bar:
        try:
            _join(folder, shards, tokenizer, tally, unwanted, made_from, bar)
        except TextError:  # what is finished is of no use any more
            shards.close()
            shutil.rmtree(parts, ignore_errors=True)
            raise
    shutil.rmtree(parts, ignore_errors=True)


def _join(
    folder: Path,
    shards: Iterator[Shard],
    tokenizer: Tokenizer,
    tally: Counts,
    unwanted: Signatures | None,
    made_from: dict[str, object],
    bar: tqdm,
) -> None:
    """Write the shards without duplicates; meta.json comes last, without it nothing counts."""
    lengths, sizes, seen = [np.zeros(1, np.int64)], [np.zeros(0, np.int64)], Signatures()
    with atomic_path(folder / "tokens.bin") as temporary, open(temporary, "wb") as file:
        for shard in shards:
            tally.add(shard.tally)
            kept = np.ones(len(shard.lengths), bool)
            if shard.keys.shape[1]:
                kept[:] = [admit(keys, seen, unwanted, tally) for keys in shard.keys.tolist()]
            file.write(shard.tokens[np.repeat(kept, shard.lengths)].tobytes())
            lengths.append(shard.lengths[kept])
            sizes.append(shard.sizes[kept])
            bar.set_postfix_str(f"{tally.kept:,} stories", refresh=False)
            bar.update(shard.read)
        if sum(map(len, sizes)) == 0:
            why = ", ".join(f"{n} {why}" for why, n in tally.dropped.items()) or "none came"
            origin = made_from["name"]
            raise TextError(f"no story is left of {origin} ({why}); give more or longer text")
    starts = np.cumsum(np.concatenate(lengths))
    for name, array in (("starts.npy", starts), ("sizes.npy", np.concatenate(sizes))):
        with atomic_path(folder / name) as temporary, open(temporary, "wb") as file:
            np.save(file, array)
    meta = made_from | {"vocab_size": tokenizer.vocab_size, "dtype": token_type(tokenizer)}
    meta |= {"stories": len(starts) - 1, "tokens": int(starts[-1])}
    meta |= {"counts": str(tally), "content": [fingerprint(folder / name) for name in _CONTENT]}
    meta["sha256"] = _sha256(json.dumps(meta))
    atomic_write(folder / "meta.json", json.dumps(meta, indent=2) + "\n")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; a process that wants it too waits, one that is killed lets go."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / "lock", "ab")
    except OSError as error:
        raise os_error(f"write {folder}", error) from error
    with file:
        if not lock_file(file, wait=False):
            print("waiting for another process that prepares the same text", file=sys.stderr)
            lock_file(file)
        yield
