"""Raw stories from text and parquet files, one or many, streamed; and the hash of their content."""

import codecs
import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

from minislm.corpus.clean import Counts
from minislm.runtime.errors import UserError
from minislm.tasks import END_OF_TEXT

MAX_STORY = 100_000  # characters; the longest story of TinyStories has about 5,000
BLOCK = 1 << 20  # bytes read at a time
BATCH = 1 << 21  # characters that a process cleans and tokenizes at a time
_ROWS = 256  # of a parquet file, read at a time


class TextError(UserError):
    """A text that cannot be read until its file is changed."""


def source_files(source: str | Path) -> list[Path]:
    """The files of `source`: a file, a folder's *.txt and *.parquet, or a pattern's; by name.

    Raises UserError if there is none.
    """
    path, found = Path(source), []
    missing = (
        f"no file or folder {path}; give a text file, a folder of *.txt files, or owner/name "
        "of the hub"
    )
    if os.path.isfile(path):  # False, too, for a name that no file can have
        found = [path]
    elif os.path.isdir(path):
        found = [file for file in path.iterdir() if file.suffix in (".txt", ".parquet")]
        missing = f"no *.txt file in folder {path}; put text files there or give one file"
    elif os.path.exists(path):
        missing = f"{path} is not a regular file; save the text to a file and give that"
    elif any(c in path.name for c in "*?["):
        found = path.parent.glob(path.name)
    if files := sorted(file for file in found if file.is_file()):
        return files
    raise UserError(missing)


def read_stories(source: str | Path, counts: Counts | None = None) -> Iterator[str]:
    """Stream the raw stories of UTF-8 text files and of the rows of parquet files.

    `<|endoftext|>` separates stories, wherever it stands; so does the end of a file or of a row. A
    file without it is one document. A text longer than MAX_STORY characters is cut, in its second
    half, at the last blank line, else line end, else space; `counts` has the number of these cuts.

    Raises:
        UserError: nothing there, or unreadable.
        TextError: binary, not UTF-8 (with the byte offset), no story.
    """
    return chain.from_iterable(read_batches(source, Counts() if counts is None else counts))


def read_batches(source: str | Path, counts: Counts) -> Iterator[list[str]]:
    """The stories of `read_stories` in lists, each of BATCH characters or up to a block more."""
    files, batch, empty = source_files(source), [], True
    for path in files:
        rest = ""
        for text in _rows(path) if path.suffix == ".parquet" else _decode(path):
            *whole, rest = (rest + text).split(END_OF_TEXT)
            # The slack leaves a separator that has only half arrived behind the cut.
            *begun, rest = _cut(rest, MAX_STORY + len(END_OF_TEXT))
            parts = [part for story in whole for part in _cut(story, MAX_STORY)] + begun
            counts["changed: long text cut"] += len(parts) - len(whole)
            batch += filter(str.strip, parts)
            if sum(map(len, batch)) >= BATCH:
                yield batch
                batch, empty = [], False
    if batch:
        yield batch
    elif empty:
        nothing = not any(path.stat().st_size for path in files)
        what = "is empty" if nothing else "holds no story, only white space and separators"
        raise TextError(f"{source} {what}; give a file with text in it")


def _cut(text: str, limit: int) -> list[str]:
    """`text` in parts of at most MAX_STORY characters, where it is longer than `limit`."""
    parts = []
    while len(text) > limit:
        places = (text.rfind(gap, MAX_STORY // 2, MAX_STORY) for gap in ("\n\n", "\n", " "))
        place = next((place for place in places if place > 0), MAX_STORY)
        parts.append(text[:place])
        text = text[place:]
    return [*parts, text]


def _blocks(path: Path) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            while data := file.read(BLOCK):
                yield data
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check its permissions") from error


def _decode(path: Path) -> Iterator[str]:
    """The text of a file, block by block; a last separator closes the file's last story."""
    decoder, offset = codecs.getincrementaldecoder("utf-8")(), 0  # of the bytes decoded next
    try:
        for data in _blocks(path):
            if not offset and data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                advice = "convert it, for example: iconv -f UTF-16 -t UTF-8"
                raise TextError(f"{path} is UTF-16; {advice}")
            begun = len(decoder.getstate()[0])  # bytes of a character that is not complete
            if b"\0" in data:
                at = offset + begun + data.index(0)
                raise TextError(f"{path} is not text (NUL byte at offset {at}); give UTF-8 text")
            yield decoder.decode(data)
            offset += begun + len(data) - len(decoder.getstate()[0])
        yield decoder.decode(b"", final=True) + END_OF_TEXT
    except UnicodeDecodeError as error:
        raise TextError(
            f"{path} is not UTF-8 text (byte 0x{error.object[error.start]:02x} at offset "
            f"{offset + error.start}); convert it, for example: iconv -f LATIN1 -t UTF-8"
        ) from error


def _rows(path: Path) -> Iterator[str]:
    """The texts of a parquet file, some rows at a time, each with a separator behind it."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        advice = "which takes pyarrow to read: pip install pyarrow"
        raise UserError(f"{path} is a parquet file, {advice}") from error
    try:
        with parquet.ParquetFile(path, buffer_size=BLOCK) as file:  # page by page
            kinds = {each.name: str(each.type) for each in file.schema_arrow}
            columns = [name for name, kind in kinds.items() if kind in ("string", "large_string")]
            if "text" in columns:
                columns = ["text"]
            if len(columns) != 1:
                raise TextError(f'{path} has no column "text", but {", ".join(kinds) or "none"}')
            for rows in file.iter_batches(_ROWS, columns=columns):
                yield "".join(text + END_OF_TEXT for text in rows.column(0).to_pylist() if text)
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise TextError(f"{path} is damaged or no parquet file ({error}); get it again") from error


def fingerprint(source: str | Path, hashes: Path) -> str:
    """The sha256 of the contents of all files of `source`, in their order.

    The text file `hashes` keeps those of large files, so that they are not read before every run.
    """
    known, whole = "", hashlib.sha256()
    with suppress(OSError):  # not there yet
        known = hashes.read_text(errors="replace")
    for path in source_files(source):
        stat, now = path.stat(), time.time()
        state = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {ascii(str(path.resolve()))}"
        found = re.search(f"(?m)^([0-9a-f]{{64}}) {re.escape(state)}$", known)
        if found is None:
            content = hashlib.sha256()
            for data in _blocks(path):
                content.update(data)
            # A file that was written to just now may change again within a tick of its clock.
            if stat.st_size > BLOCK and max(stat.st_mtime, stat.st_ctime) < now - 2:
                with suppress(OSError):  # a read-only cache: the file is read the next time, too
                    hashes.parent.mkdir(parents=True, exist_ok=True)
                    with open(hashes, "a") as file:
                        file.write(f"{content.hexdigest()} {state}\n")
        whole.update((found[1] if found else content.hexdigest()).encode())
    return whole.hexdigest()
