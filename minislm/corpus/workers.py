"""Stories to tokens on all cores: the text goes in batches to processes that leave shards on disk.

What takes time about a story, cleaning, signing and tokenising it, depends on nothing but the story
and the tokenizer. So batches are worked on apart, and only what depends on the stories before, the
search for duplicates, is left to who joins the shards. A shard that is on disk is not made again:
an interrupted preparation goes on behind the last one that is whole.

Workers import no torch, and read batches from a pipe: they end with the process that feeds them,
however that ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import NoReturn
from zipfile import BadZipFile

import numpy as np
import tokenizers

from minislm.corpus.clean import Counts, clean_story
from minislm.corpus.duplicates import Signatures
from minislm.runtime.errors import UserError
from minislm.runtime.files import atomic_path
from minislm.tasks import END_OF_TEXT
from minislm.tokenizer import Tokenizer

MOST_WORKERS = 8  # of 60 MB each; the process that joins the shards keeps up with about as many
_TOGETHER = 1 << 17  # characters tokenised at a time: the library takes 100 bytes for each


@dataclass(frozen=True)
class Shard:
    """What became of a batch of raw stories, before duplicates are known.

    Attributes:
        tokens: uint16 or uint32 [all tokens], each story's ids with the end of text.
        lengths: int64 [stories], in tokens.
        sizes: int64 [stories], of the text, in bytes of UTF-8.
        keys: uint64 [stories, keys], the signatures; no columns where nothing was cleaned.
        read: bytes of the batch in its file, about.
        tally: what was changed and dropped.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    sizes: np.ndarray
    keys: np.ndarray
    read: int
    tally: Counts


def make_shard(raw: Sequence[str], tokenizer: Tokenizer, clean: bool = True) -> Shard:
    """Clean and tokenise stories; with `clean` False they are taken as they are."""
    tally, signer = Counts(), Signatures()
    if clean:
        cleaned = (clean_story(each, tally) for each in raw)
        stories = [story for story in cleaned if story is not None]
        signed = np.array([signer.keys(story) for story in stories], np.uint64)
        keys = signed.reshape(len(stories), 1 + Signatures.BANDS)
    else:
        stories, keys = raw, np.empty((len(raw), 0), np.uint64)
        tally.read = len(stories)
    tokens, lengths = [], []
    for batch in in_batches(stories, _TOGETHER):
        for ids in tokenizer.encode_batch(batch):
            tokens.append(np.array([*ids, tokenizer.eot_id], token_type(tokenizer)))
            lengths.append(len(ids) + 1)
    return Shard(
        np.concatenate([np.empty(0, token_type(tokenizer)), *tokens]),
        np.array(lengths, np.int64),
        np.array([len(story.encode()) for story in stories], np.int64),
        keys,
        sum(len(each.encode()) + len(END_OF_TEXT) for each in raw),
        tally,
    )


def token_type(tokenizer: Tokenizer) -> str:
    """The numpy type that holds every id, little-endian."""
    return "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"


def in_batches(stories: Iterable[str], characters: int) -> Iterator[list[str]]:
    """Stories in lists of `characters` or a little more each; the last may be shorter."""
    batch, size = [], 0
    for story in stories:
        batch.append(story)
        size += len(story)
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def make_shards(
    batches: Iterable[list[str]], tokenizer: Tokenizer, folder: Path
) -> Iterator[Shard]:
    """The shards of all batches, in order, made by as many processes as there are cores.

    They are left in `folder`, and those that are there are taken as they are.
    A single batch is not worth a process: it is worked on here, and nothing is left.

    Raises:
        UserError: the folder cannot be written to, or a worker was killed.
    """
    batches = iter(batches)
    first = list(islice(batches, 2))
    if len(first) < 2:
        yield from (make_shard(batch, tokenizer) for batch in first)
        return
    processes = min(_cores(), MOST_WORKERS)
    waiting: deque[tuple[Shard | None, Path, Worker | None]] = deque()
    idle: list[Worker] = []
    with ExitStack() as stack:
        for number, batch in enumerate(chain(first, batches)):
            file, worker = folder / f"{number:06d}.npz", None
            if (shard := _read(file)) is None:
                worker = idle.pop() if idle else stack.enter_context(Worker(tokenizer))
                worker.ask(file, batch)
            waiting.append((shard, file, worker))
            while waiting and (waiting[0][0] is not None or len(waiting) >= processes):
                yield _next(waiting, idle)
        while waiting:
            yield _next(waiting, idle)


def _next(waiting: deque, idle: list[Worker]) -> Shard:
    """The first shard that is waited for; its worker is free again."""
    shard, file, worker = waiting.popleft()
    if worker is not None:
        worker.answer()
        idle.append(worker)
        shard = _read(file)
        if shard is None:
            raise UserError(f"{file} was changed while it was written; run the same command again")
    return shard


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))  # those that this process may use
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


class Worker:
    """A process that makes shards, one at a time; `with` ends it."""

    def __init__(self, tokenizer: Tokenizer):
        code = f"import sys; sys.path[:] = {sys.path!r}; from minislm.corpus.workers import serve; serve()"
        one_thread = {"TOKENIZERS_PARALLELISM": "false", "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="ascii",
            env=os.environ | one_thread,
            start_new_session=True,  # Ctrl-C is for us: we end the workers
        )
        end = tokenizer.backend.id_to_token(tokenizer.eot_id)
        self._send([tokenizer.backend.to_str(), end])

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        try:
            self.process.stdin.close()
        except OSError:  # what it was being sent when it was killed
            pass

    def ask(self, file: Path, stories: list[str]) -> None:
        """Have the shard of a batch written to `file`; `answer` waits for it."""
        self._send([str(file.absolute()), stories])

    def answer(self) -> None:
        """Wait until the shard is there; raises UserError if it cannot be."""
        line = self.process.stdout.readline()
        if not line:
            self._ended()
        if problem := json.loads(line):
            raise UserError(problem)

    def _send(self, message: list) -> None:
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
        except OSError:
            self._ended()

    def _ended(self) -> NoReturn:
        code = self.process.wait()
        if code >= 0:
            raise RuntimeError("a worker failed; its own traceback stands above")
        raise UserError(
            f"a process that tokenised text was killed ({signal.Signals(-code).name}; SIGKILL may "
            "mean too little memory): run the same command again, what is finished is kept"
        )


def serve() -> None:
    """A worker's side of the pipe: a batch comes in as a line, a line goes out when it is done."""
    try:
        backend, end = json.loads(sys.stdin.readline())
        tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(backend), end)
        for line in sys.stdin:
            file, stories = json.loads(line)
            problem = ""
            try:
                _write(Path(file), make_shard(stories, tokenizer))
            except UserError as error:
                problem = str(error)
            print(json.dumps(problem), flush=True)
    except (BrokenPipeError, KeyboardInterrupt):  # who asked is gone
        os._exit(1)


def _write(file: Path, shard: Shard) -> None:
    with atomic_path(file) as temporary, open(temporary, "wb") as opened:
        np.savez(opened, **vars(shard) | {"tally": json.dumps(vars(shard.tally))})


def _read(file: Path) -> Shard | None:
    """The shard in a file, or None if it is not there or not whole (the format has checksums)."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            parts = {name: arrays[name] for name in ("tokens", "lengths", "sizes", "keys")}
            counts = json.loads(str(arrays["tally"]))
            tally = Counts(counts["read"], Counter(counts["dropped"]), Counter(counts["changed"]))
            return Shard(**parts, read=int(arrays["read"]), tally=tally)
    except (OSError, EOFError, LookupError, TypeError, ValueError, BadZipFile):
        return None
