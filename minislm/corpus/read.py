"""Raw stories out of files: text or parquet, one or many, streamed; and what identifies them."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minislm.corpus.clean import Counts
from minislm.runtime.errors import UserError
from minislm.runtime.files import atomic_write
from minislm.tasks import END_OF_TEXT

MAX_STORY = 100_000  # characters; the longest story of TinyStories has about 5,000
BLOCK = 1 << 20  # bytes read at a time
_SUFFIXES = (".txt", ".parquet")
_ROWS = 256  # of a parquet file, read at a time


class TextError(UserError):
    """A text that cannot be read as it is, today or tomorrow."""


def source_files(source: str | Path) -> list[Path]:
    """The files of `source`: a file, a folder's *.txt and *.parquet, or a pattern's; by name.

    Raises:
        UserError: there is none.
    """
    path = Path(source)
    if os.path.isfile(path):  # False, too, for a name that no file can have
        return [path]
    if os.path.isdir(path):
        files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
    elif os.path.exists(path):
        raise UserError(f"{path} is not a regular file; save the text to a file and give that")
    else:
        files = sorted(path.parent.glob(path.name)) if any(c in path.name for c in "*?[") else []
    files = [file for file in files if file.is_file()]
    if not files and os.path.isdir(path):
        raise UserError(f"no *.txt file in folder {path}; put text files there or give one file")
    if not files:
        raise UserError(
            f"no file or folder {path}; give a text file, a folder of *.txt files, or owner/name "
            "of the hub"
        )
    return files


def read_stories(
    source: str | Path, tally: Counts | None = None, block: int = BLOCK
) -> Iterator[str]:
    """Stream the raw stories of UTF-8 text files and of the rows of parquet files.

    Stories are separated by `<|endoftext|>`, on a line of its own or anywhere else; the end of a
    file or of a row ends a story too. A file without separators (somebody's own input.txt) is one
    document, blank lines and all. A text longer than MAX_STORY characters is cut, in its second
    half, at the last blank line, else line end, else space: a long document becomes several
    stories of 50,000 to 100,000 characters. `tally` counts these cuts.

    Raises:
        UserError: nothing there, or unreadable.
        TextError: binary, not UTF-8 (with the byte offset), no story.
    """
    tally = Counts() if tally is None else tally
    files = source_files(source)
    empty = True
    for path in files:
        rest = ""
        for text in _rows(path) if path.suffix == ".parquet" else _decode(path, block):
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
        raise TextError(f"{source} {what}; give a file with text in it")


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
            if not offset and data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                raise TextError(
                    f"{path} is UTF-16; convert it, for example: iconv -f UTF-16 -t UTF-8"
                )
            if b"\0" in data:
                at = offset + len(decoder.getstate()[0]) + data.index(0)
                raise TextError(f"{path} is not text (NUL byte at offset {at}); give UTF-8 text")
            seen = len(decoder.getstate()[0]) + len(data)
            yield decoder.decode(data)
            offset += seen - len(decoder.getstate()[0])
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
        raise UserError(
            f"{path} is a parquet file, which takes pyarrow to read: pip install pyarrow"
        ) from error
    try:
        with parquet.ParquetFile(path, buffer_size=BLOCK) as file:  # page by page
            column = _text_column(path, file.schema_arrow)
            for batch in file.iter_batches(_ROWS, columns=[column]):
                texts = (text for text in batch.column(0).to_pylist() if text)
                yield "".join(text + END_OF_TEXT for text in texts)
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise TextError(f"{path} is damaged or no parquet file ({error}); get it again") from error


def _text_column(path: Path, schema: Any) -> str:
    """The column "text", or the only one that holds text."""
    found = [each.name for each in schema if str(each.type) in ("string", "large_string")]
    if "text" not in found and len(found) != 1:
        raise TextError(f'{path} has no column "text", but {", ".join(schema.names) or "none"}')
    return "text" if "text" in found else found[0]


def fingerprint(source: str | Path, memory: str | Path | None = None) -> str:
    """The sha256 of the contents of all files of `source`, in their order.

    Args:
        source: as `source_files` takes it.
        memory: a JSON file that remembers the hash of a file by its path, size and times, so that
            a large one is not read again before every run.
    """
    known = _remembered(memory) if memory else {}
    whole, begun, learned = hashlib.sha256(), time.time(), False
    for path in source_files(source):
        stat = path.stat()
        state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        name = str(path.resolve())
        *then, digest = known.get(name) or [None]
        if then != state:
            content = hashlib.sha256()
            for data in _blocks(path):
                content.update(data)
            digest = content.hexdigest()
            # A file that was written to just now may change again within a tick of its clock.
            if stat.st_size > BLOCK and max(stat.st_mtime, stat.st_ctime) < begun - 2:
                known[name], learned = [*state, digest], True
        whole.update(bytes.fromhex(digest))
    if memory and learned:
        try:
            atomic_write(memory, json.dumps(known, indent=1) + "\n")
        except UserError:  # a cache that is only read: then the file is read the next time, too
            pass
    return whole.hexdigest()


def _remembered(memory: str | Path) -> dict[str, list]:
    """What the memory knows; a damaged one knows nothing."""
    try:
        known = json.loads(Path(memory).read_bytes())
        return {
            name: entry
            for name, entry in known.items()
            if len(entry) == 4 and len(bytes.fromhex(entry[3])) == 32
        }
    except (OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError):
        return {}
