"""From text anywhere to a token file on disk: read, clean, drop duplicates, tokenise, keep.

Everything streams: memory does not grow with the text, apart from about 100 bytes a story for
the signatures that find duplicates. A finished token file is found again by a hash of all it was
made from, so preparing the same text a second time costs one pass of sha256.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minislm.duplicates import Signatures
from minislm.errors import UserError
from minislm.files import atomic_path, atomic_write
from minislm.tokenizer import END_OF_TEXT, Tokenizer

FORMAT = "minislm-tokens-1"  # part of every key: change it when cleaning or the files change
MAX_STORY = 100_000  # characters; the longest story of TinyStories has about 5,000
MIN_CHARACTERS, MIN_WORDS = 50, 10
BLOCK = 1 << 20  # bytes read, and characters tokenised, at a time


@dataclass
class Tally:
    """What became of the stories: `read` is `kept` plus all of `dropped`."""

    read: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)  # stories; one may count several times

    @property
    def kept(self) -> int:
        return self.read - self.dropped.total()

    def __str__(self) -> str:
        rows = [("stories read", self.read)]
        rows += [(f"  dropped: {why}", n) for why, n in sorted(self.dropped.items()) if n]
        rows += [("stories kept", self.kept)]
        rows += [(f"  changed: {what}", n) for what, n in sorted(self.changed.items()) if n]
        return "\n".join(f"{name:<36}{n:>12,}" for name, n in rows)


def source_files(source: str | Path) -> list[Path]:
    """The text files of `source`: the file itself, or a folder's *.txt files sorted by name."""
    path = Path(source)
    if path.is_file():
        return [path]
    if not path.exists():
        raise UserError(f"no file or folder {path}; give a text file or a folder of *.txt files")
    if not path.is_dir():
        raise UserError(f"{path} is not a regular file; save the text to a file and give that")
    files = sorted(file for file in path.glob("*.txt") if file.is_file())
    if not files:
        raise UserError(f"no *.txt file in folder {path}; put text files there or give one file")
    return files


def read_stories(
    source: str | Path, tally: Tally | None = None, block: int = BLOCK
) -> Iterator[str]:
    """Stream the raw stories of a UTF-8 text file, or of a folder's *.txt files sorted by name.

    Stories are separated by `<|endoftext|>`, on a line of its own or anywhere else; the end of a
    file ends a story too. A file without separators (somebody's own input.txt) is one document,
    blank lines and all. A text longer than MAX_STORY characters is cut, in its second half, at
    the last blank line, else line end, else space: a long document becomes several stories of
    50,000 to 100,000 characters. `tally` counts these cuts.

    Raises:
        UserError: nothing there, unreadable, binary, not UTF-8 (with the byte offset), no story.
    """
    tally = Tally() if tally is None else tally
    files = source_files(source)
    empty = True
    for path in files:
        rest = ""
        for text in _decode(path, block):
            *whole, rest = (rest + text).split(END_OF_TEXT)
            # The slack leaves a separator that has only half arrived behind the cut.
            *begun, rest = _cut(rest, MAX_STORY + len(END_OF_TEXT))
            pieces = [piece for story in whole for piece in _cut(story, MAX_STORY)] + begun
            tally.changed["long text cut"] += len(pieces) - len(whole)
            for piece in filter(str.strip, pieces):
                empty = False
                yield piece
    if empty:
        nothing = not any(path.stat().st_size for path in files)
        what = "is empty" if nothing else "holds no story, only white space and separators"
        raise UserError(f"{source} {what}; give a file with text in it")


def _cut(text: str, limit: int) -> list[str]:
    """`text` in pieces of at most MAX_STORY characters, where it is longer than `limit`."""
    pieces = []
    while len(text) > limit:
        places = (text.rfind(gap, MAX_STORY // 2, MAX_STORY) for gap in ("\n\n", "\n", " "))
        place = next((place for place in places if place > 0), MAX_STORY)
        pieces.append(text[:place])
        text = text[place:]
    return [*pieces, text]


def _blocks(path: Path, size: int = BLOCK) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            while data := file.read(size):
                yield data
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check its permissions") from error


def _decode(path: Path, size: int) -> Iterator[str]:
    """The text of a file, block by block; a last separator closes the file's last story."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0  # in the file, in bytes, of what is decoded next
    try:
        for data in _blocks(path, size):
            if b"\0" in data:
                at = offset + len(decoder.getstate()[0]) + data.index(0)
                raise UserError(f"{path} is not text (NUL byte at offset {at}); give UTF-8 text")
            seen = len(decoder.getstate()[0]) + len(data)
            yield decoder.decode(data)
            offset += seen - len(decoder.getstate()[0])
        yield decoder.decode(b"", final=True) + END_OF_TEXT
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text (byte 0x{error.object[error.start]:02x} at offset "
            f"{offset + error.start}); convert it, for example: iconv -f LATIN1 -t UTF-8"
        ) from error


# UTF-8 that somebody read as cp1252 or Latin-1. Repaired are the families that occur in English
# text: Latin-1 letters, general punctuation and emoji; others would hit honest text (the end of
# a quoted capital U-umlaut looks like a Syriac letter). Of punctuation the last byte is often
# lost (9d is unknown to cp1252: a closing quote) or was straightened (94: a dash).
_TAIL = "[\x80-\xbf" + bytes(range(0x80, 0xA0)).decode("cp1252", "ignore") + "]"
_MOJIBAKE = re.compile(
    f"\xc2[\xa0-\xbf]|\xc3{_TAIL}|\xf0[\u0178\x9f]{_TAIL * 2}"
    f'|\xe2[\u20ac\x80](?:{_TAIL}|["\ufffd]|)'
)
_LAST_LOST = {"": "\u201d", "\ufffd": "\u201d", '"': "\u2014"}
_LINE_END = re.compile("\r\n?|[\v\f\u2028\u2029]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u200b\u2060\ufeff\ud800-\udfff]")
_BLANK_LINES = re.compile("\n{3,}")
_PLAIN = str.maketrans(
    {"\u201c": '"', "\u201d": '"', "\u201e": '"', "\u2018": "'", "\u2019": "'", "\u2026": "..."}
    | dict.fromkeys("\u2010\u2011\u2013\u2014", "-")
    | dict.fromkeys("\xa0\u2009\u202f", " ")
)


def normalise(story: str, tally: Tally) -> str:
    """One spelling for every text, so that a small model need not learn the same thing twice.

    In this order: line ends; mojibake repaired; control and invisible characters removed; NFC;
    curly quotes, dashes, the ellipsis and odd spaces in ASCII (TinyStories mixes both: 1 story in
    30 is curly); no space at a line's end and no two blank lines in a row.
    """

    def step(what: str, after: str) -> str:
        tally.changed[what] += after != story
        return after

    story = step("line ends", _LINE_END.sub("\n", story))
    if not story.isascii():
        story = step("mojibake repaired", _MOJIBAKE.sub(_repair, story))
    story = step("control characters removed", _CONTROL.sub("", story))
    if not story.isascii():
        story = step("Unicode NFC", unicodedata.normalize("NFC", story))
        story = step("quotes and dashes to ASCII", story.translate(_PLAIN))
    story = story.strip()
    story = step("spaces at line ends", "\n".join(map(str.rstrip, story.split("\n"))))
    return step("blank lines", _BLANK_LINES.sub("\n\n", story))


def _repair(match: re.Match[str]) -> str:
    run = match[0]
    if run[0] == "\xe2" and run[2:] in _LAST_LOST:
        return _LAST_LOST[run[2:]]
    return b"".join(c.encode("latin-1" if c < "\u0100" else "cp1252") for c in run).decode()


def clean_stories(
    stories: Iterable[str], tally: Tally, exclude: Signatures | None = None
) -> Iterator[str]:
    """Stream the normalised stories that are long enough and not seen before.

    A duplicate, exact or near, of an earlier story is dropped, and so is one of a story in
    `exclude`: with the validation stories there (`signatures`), no training story gives a
    validation story away. `tally` counts what was changed and dropped, and why.
    """
    seen = Signatures()
    for raw in stories:
        tally.read += 1
        story = normalise(raw, tally)
        if len(story) < MIN_CHARACTERS or len(story.split(None, MIN_WORDS)) < MIN_WORDS:
            tally.dropped["too short"] += 1
            continue
        keys = seen.keys(story)
        if exclude is not None and exclude.match(keys):
            tally.dropped["in the validation set"] += 1
        elif how := seen.match(keys):
            tally.dropped[f"{how} duplicate"] += 1
        else:
            seen.add(keys)
            yield story


def signatures(stories: Iterable[str]) -> Signatures:
    """The signatures of raw or cleaned stories, for the `exclude` of `clean_stories`."""
    found = Signatures()
    for story in stories:
        found.add(found.keys(normalise(story, Tally())))
    return found


@dataclass(frozen=True)
class TokenFile:
    """Stories as token ids: story i is `tokens[starts[i]:starts[i + 1]]`, end of text included."""

    tokens: np.ndarray  # uint16 or uint32 [n_tokens], memory-mapped if it is on disk
    starts: np.ndarray  # int64 [stories + 1]
    bytes: int  # of all the stories' text in UTF-8, for bits per byte
    tally: str = ""
    path: Path | None = None

    @classmethod
    def from_ids(cls, stories: list[list[int]], n_bytes: int) -> TokenFile:
        """A token file in memory; each story's ids should end with the end of text."""
        starts = np.cumsum([0, *map(len, stories)], dtype=np.int64)
        tokens = np.array([token for ids in stories for token in ids], np.uint32)
        return cls(tokens, starts, n_bytes)

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def story(self, i: int) -> np.ndarray:
        return self.tokens[self.starts[i] : self.starts[i + 1]]


def fingerprint(source: str | Path) -> str:
    """The sha256 of the contents of a file, or of a folder's *.txt files in their order."""
    whole = hashlib.sha256()
    for path in source_files(source):
        digest = hashlib.sha256()
        for data in _blocks(path):
            digest.update(data)
        whole.update(digest.digest())
    return whole.hexdigest()


def prepare(
    source: str | Path | Callable[[], Iterable[str]],
    tokenizer: Tokenizer,
    cache: str | Path,
    *,
    exclude: str | Path | None = None,
    key: str = "",
    progress: bool | None = None,
) -> TokenFile:
    """The token file of `source`: made now in the folder `cache`, or found there from before.

    Args:
        source: a text file or folder, which is read and cleaned; or a function that returns the
            stories, which are taken as they are.
        exclude: the validation file or folder: its stories and their near duplicates are dropped
            from a `source` of files.
        key: what identifies the stories of a function (files are identified by their content).
        progress: a bar on stderr; None shows it on a terminal only.

    Raises:
        UserError: what `read_stories` raises; no story is left; the cache cannot be written to.
    """
    if callable(source):
        if not key:
            raise ValueError("stories from a function need a key that identifies them")
        origin = [key]
    else:
        origin = [fingerprint(path) for path in (source, exclude) if path is not None]
    spelling = f"{tokenizer.eot_id} {tokenizer.backend.to_str()}"
    made_from = {"format": FORMAT, "origin": origin, "tokenizer": _sha256(spelling)}
    folder = Path(cache) / _sha256(json.dumps(made_from))[:32]
    made_from["name"] = "generated stories" if callable(source) else str(source)
    if (found := _open(folder)) is not None:
        return found

    tally = Tally()
    if callable(source):
        stories = source()
    else:
        unwanted = None if exclude is None else signatures(read_stories(exclude))
        stories = clean_stories(read_stories(source, tally), tally, unwanted)
    _write(folder, stories, tokenizer, tally, made_from, progress)
    made = _open(folder)
    assert made is not None, f"{folder} was changed while it was written"
    return made


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _open(folder: Path) -> TokenFile | None:
    """The token file of `folder`, or None if it is not there or not whole."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        starts = np.load(folder / "starts.npy")
        tokens = np.memmap(folder / "tokens.bin", meta["dtype"], mode="r")
        if (len(starts) - 1, starts[-1], len(tokens)) != (meta["stories"], *[meta["tokens"]] * 2):
            return None
        return TokenFile(tokens, starts, meta["bytes"], meta["tally"], folder)
    except (OSError, EOFError, LookupError, TypeError, ValueError):
        return None


def _write(
    folder: Path,
    stories: Iterable[str],
    tokenizer: Tokenizer,
    tally: Tally,
    made_from: dict[str, object],
    progress: bool | None,
) -> None:
    """Tokenise into `folder`; meta.json comes last, and without it nothing there counts."""
    dtype = "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"
    starts, n_bytes = array("q", [0]), 0
    silent = None if progress is None else not progress  # tqdm's None: unless on a terminal
    with (
        atomic_path(folder / "tokens.bin") as temporary,
        open(temporary, "wb") as file,
        tqdm(desc="preparing", unit=" stories", disable=silent) as bar,
    ):
        for batch in _batches(stories):
            for ids in tokenizer.encode_batch(batch):
                file.write(np.array([*ids, tokenizer.eot_id], dtype).tobytes())
                starts.append(starts[-1] + len(ids) + 1)
            n_bytes += sum(len(story.encode()) for story in batch)
            bar.update(len(batch))
        if n_bytes == 0:
            why = ", ".join(f"{n} {why}" for why, n in tally.dropped.items()) or "none came"
            origin = made_from["name"]
            raise UserError(f"no story is left of {origin} ({why}); give more or longer text")
    tally.read = tally.read or len(starts) - 1
    with atomic_path(folder / "starts.npy") as temporary, open(temporary, "wb") as file:
        np.save(file, np.array(starts, np.int64))
    meta = made_from | {"vocab_size": tokenizer.vocab_size, "dtype": dtype, "bytes": n_bytes}
    meta |= {"stories": len(starts) - 1, "tokens": starts[-1], "tally": str(tally)}
    atomic_write(folder / "meta.json", json.dumps(meta, indent=2) + "\n")


def _batches(stories: Iterable[str]) -> Iterator[list[str]]:
    batch, size = [], 0
    for story in stories:
        batch.append(story)
        size += len(story)
        if size >= BLOCK:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
