"""What worker processes do: raw stories to clean ones, and batches of them to shards of tokens.
They import this file and the main script, so it must not import torch: a second and 200 MB each."""

import hashlib
import json
import os
import re
import signal
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from contextlib import suppress
from itertools import chain, islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

import numpy as np

from minislm.corpus.words import WordTokenizer
from minislm.runtime.errors import UserError
from minislm.runtime.files import atomic_path
from minislm.runtime.unicode import nfc, to_ascii
from minislm.tasks import END_OF_TEXT
from minislm.tokenizer import Tokenizer

MIN_BYTES = 50  # of a story in UTF-8: about ten words, also of Chinese, which has no spaces
MAX_WORKERS = 8


class Counts(Counter[str]):
    """How many stories were "read", "dropped: REASON" and "changed: HOW"; some changed twice."""

    @property
    def kept(self) -> int:
        return self["read"] - sum(n for name, n in self.items() if name.startswith("dropped"))

    def __str__(self) -> str:
        rows = [(f"  {name}", n) for name, n in sorted(self.items()) if n and name != "read"]
        changed = [row for row in rows if row[0].startswith("  changed")]
        dropped = rows[len(changed) :]
        rows = [("stories read", self["read"]), *dropped, ("stories kept", self.kept), *changed]
        return "\n".join(f"{name:<36}{n:>12,}" for name, n in rows)


# UTF-8 that was decoded as cp1252 or Latin-1. What emoji and punctuation become is in no correct
# text. (Their last byte is often lost, 9d: a closing quote; or was straightened, 94: a dash.) But
# an accented letter becomes a pair that also ends words in capitals, before a quote or an ellipsis:
# pairs are repaired where a story has more certain mojibake than other characters beyond ASCII.
_TAIL = "[\x80-\xbf" + bytes(range(0x80, 0xA0)).decode("cp1252", "ignore") + "]"
_LONG = f'\xe2[\u20ac\x80](?:{_TAIL}|["\ufffd]|)|\xf0[\u0178\x9f]{_TAIL * 2}'
_MOJIBAKE = f"{_LONG}|\xc2[\xa0-\xbf]|[\xc3-\xc5]{_TAIL}"
_CERTAIN = (
    f"{_LONG}|[a-z0-9]\xc2[\xa0-\xbf]|[a-z][\xc3-\xc5]{_TAIL}|[\xc2\xc3][\x80-\x9f\xa1-\xa7\xa9\xac"
    "\xb1\xb5\xbc-\xbf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2030]"
)
_LAST_BYTE_LOST = {"": "\u201d", "\ufffd": "\u201d", '"': "\u2014"}
_LINE_END = re.compile("\r\n?|[\v\f\u2028\u2029]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u200b\u2060\ufeff\ud800-\udfff]")
_BLANK_LINES = re.compile("\n{3,}")


def normalise(story: str, counts: Counts) -> str:
    """The story in one spelling, so that a small model need not learn the same text twice."""

    def step(name: str, after: str) -> str:
        counts[f"changed: {name}"] += after != story
        return after

    story = step("line ends", _LINE_END.sub("\n", story))
    if not story.isascii():
        others = re.sub(f"{_MOJIBAKE}|[\0-\x7f]+", "", story)
        pairs = len(re.findall(_CERTAIN, story)) > len(others)
        story = step("mojibake repaired", re.sub(_MOJIBAKE if pairs else _LONG, _repair, story))
    story = step("control characters removed", _CONTROL.sub("", story))
    if not story.isascii():
        story = step("Unicode NFC", nfc(story))
        story = step("quotes and dashes to ASCII", to_ascii(story))
    story = story.strip()
    story = step("spaces at line ends", "\n".join(map(str.rstrip, story.split("\n"))))
    return step("blank lines", _BLANK_LINES.sub("\n\n", story))


def _repair(match: re.Match[str]) -> str:
    run = match[0]
    if run[0] == "\xe2" and run[2:] in _LAST_BYTE_LOST:
        return _LAST_BYTE_LOST[run[2:]]
    return b"".join(c.encode("latin-1" if c < "\u0100" else "cp1252") for c in run).decode()


def long_enough(stories: Iterable[str], counts: Counts) -> Iterator[str]:
    """Stream the normalised stories that are long enough, duplicates included."""
    for raw in stories:
        counts["read"] += 1
        story = normalise(raw, counts)
        if len(story.encode()) >= MIN_BYTES:
            yield story
        else:
            counts["dropped: too short"] += 1


def digest(story: str) -> int:
    """A 64-bit hash: equal for two of 2.7 million different stories with probability 2e-7."""
    code = hashlib.blake2b(story.encode(), digest_size=8).digest()
    return int.from_bytes(code, "little", signed=True)


def is_new(key: int, seen: dict[int, str], counts: Counts) -> bool:
    """Whether a digest is not in `seen`, which has the reason to drop it; if so, it is added."""
    if key in seen:
        counts[f"dropped: {seen[key]}"] += 1
        return False
    seen[key] = "exact duplicate"
    return True


def clean_stories(stories: Iterable[str], counts: Counts) -> Iterator[str]:
    """Stream the normalised stories that are long enough and new."""
    seen: dict[int, str] = {}
    return (each for each in long_enough(stories, counts) if is_new(digest(each), seen, counts))


def make_shard(raw: list[str], tokenizer: Tokenizer) -> dict[str, object]:
    """The clean stories of a batch as `tokens` [all tokens], each story's with the end of text.
    `stories` is int64 [stories, 3]: the number of tokens, the bytes of the text, and its digest."""
    counts = Counts()
    texts = list(long_enough(raw, counts))
    ids = [[*tokenizer.encode(text), tokenizer.eot_id] for text in texts]
    rows = [(len(each), len(text.encode()), digest(text)) for each, text in zip(ids, texts)]
    return {
        "tokens": np.array([*chain(*ids)], "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"),
        "stories": np.array(rows, np.int64).reshape(-1, 3),
        "counts": json.dumps(counts),
        "bytes_read": sum(len(f"{story}{END_OF_TEXT}".encode(errors="replace")) for story in raw),
    }


def save_arrays(file: Path, arrays: dict[str, object]) -> None:
    with atomic_path(file) as temporary, open(temporary, "wb") as opened:
        np.savez(opened, **arrays)


def load_arrays(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a file; raises UserError if it is not there or damaged (it has checksums)."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:  # the library raises nothing more precise
        raise UserError(f"{file} is missing or damaged; run the same command again") from error


def make_shards(batches: Iterator[list[str]], tokenizer: Tokenizer, folder: Path) -> Iterator[dict]:
    """The shards of all batches, in order; those that are in `folder` are not made again.
    A single batch is not worth a process: its shard is made in this one and not written.
    UserError: the folder cannot be written to, or a worker process was killed."""
    first = list(islice(batches, 2))
    if len(first) < 2:
        yield from (make_shard(batch, tokenizer) for batch in first)
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = min(cores or 1, MAX_WORKERS)
    backend, normalize = tokenizer.backend, getattr(tokenizer, "normalize", "none")
    settings = normalize, backend, backend.id_to_token(tokenizer.eot_id)
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, settings)
    numbered = enumerate(chain(first, batches))
    futures = (pool.submit(_write_shard, folder / f"{n:06d}.npz", batch) for n, batch in numbered)
    try:
        waiting = deque(islice(futures, workers + 1))  # more would take more memory
        while waiting:
            yield load_arrays(waiting.popleft().result())
            waiting.extend(islice(futures, 1))
    except BrokenProcessPool as error:
        advice = "(too little memory?): run the same command again, what is finished is kept"
        raise UserError(f"a process that prepared text was killed {advice}") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(normalize: str, *settings: object) -> None:
    global _tokenizer

    def end_with_parent() -> None:  # a killed parent would leave this process waiting for work
        parent_process().join()
        os._exit(1)

    Thread(target=end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends the pool
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is a worker for every core
    _tokenizer = WordTokenizer(Tokenizer(*settings), normalize)  # pickled it would lose settings


def _write_shard(file: Path, raw: list[str]) -> Path:
    with suppress(UserError):  # not there, or damaged
        load_arrays(file)
        return file
    save_arrays(file, make_shard(raw, _tokenizer))
    return file
