"""Raw stories from text, .jsonl, .csv and parquet files, streamed; and their content's hash."""

import codecs
import csv
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
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
_STRING = re.compile(r"(large_)?string(_view)?$|dictionary<values=(large_)?string(_view)?,")
_HELD_OUT = re.compile("(?i)(?<![a-z])(validation|valid|val|test|dev)(?![a-z])")
# How JSON begins: brackets, then a string before a colon, a comma or a bracket.
_JSON = re.compile(r'[\ufeff\s]*[\[{][\[{\s]*"(?:[^"\\]|\\.)*"\s*[:,\]]')


class TextError(UserError):
    """A text that cannot be read until its file is changed."""


def source_files(source: str | Path, every: bool = False) -> list[Path]:
    """The files of `source`: a file, or those of a folder or pattern that can be read; by name.
    Hidden files are left out. So are those named for validation or testing, unless `every` or the
    pattern includes them, or there are no others. UserError: there is none."""
    path, found, held_out = Path(source), [], False
    advice = "give a text file, a folder of *.txt files, or owner/name of the hub"
    missing = f"no file or folder {path}; {advice}"
    if os.path.isfile(path):  # False, too, for a name that no file can have
        return [path]
    if os.path.isdir(path):
        found = path.iterdir()
        missing = f"no *.txt file in folder {path}, nor .jsonl, .csv, .parquet; put texts there"
    elif os.path.exists(path):
        missing = f"{path} is not a regular file; save the text to a file and give that"
    elif any(c in path.name for c in "*?["):
        found, held_out = path.parent.glob(path.name), bool(_HELD_OUT.search(path.name))
    found = (file for file in found if file.suffix.lower() in _READERS and file.name[0] != ".")
    if files := sorted(file for file in found if file.is_file()):
        named = [file for file in files if bool(_HELD_OUT.search(file.name)) == held_out]
        return files if every else named or files
    raise UserError(missing)


def validation_files(source: str | Path) -> str | None:
    """The pattern of the files named for validation, else testing, beside others of `source`."""
    files = source_files(source, every=True)
    words = [word[0] for file in files if (word := _HELD_OUT.search(file.name))]
    pattern = str(files[0].with_name(f"*{max(words, key=str.lower, default='')}*"))
    return pattern if 0 < len(words) < len(files) else None


def read_stories(source: str | Path, counts: Counts | None = None) -> Iterator[str]:
    """Stream the raw stories of UTF-8 text files and of the rows of .jsonl, .csv and .parquet.
    A text longer than MAX_STORY characters is cut; `counts` has the number of these cuts.
    UserError: nothing there, or unreadable; TextError: no text, or not UTF-8."""
    return chain.from_iterable(read_batches(source, Counts() if counts is None else counts))


def read_batches(source: str | Path, counts: Counts) -> Iterator[list[str]]:
    """The stories of `read_stories` in lists, each of BATCH characters or up to a block more."""
    files, batch, size, empty = source_files(source), [], 0, True
    for path in files:
        rest, reader = "", _READERS.get(path.suffix.lower() or ".txt")
        if reader is None:
            raise TextError(f"{path} is not read: give {', '.join(_READERS)} (plain text: .txt)")
        for text in reader(path):
            *whole, rest = (rest + text).split(END_OF_TEXT)
            # The slack leaves a separator that has only half arrived behind the cut.
            *begun, rest = cut(rest, MAX_STORY, slack=len(END_OF_TEXT))
            parts = [part for story in whole for part in cut(story, MAX_STORY)] + begun
            counts["changed: long text cut"] += len(parts) - len(whole)
            batch += filter(str.strip, parts)
            size += sum(map(len, parts))
            if batch and size >= BATCH:
                yield batch
                batch, size, empty = [], 0, False
    if batch:
        yield batch
    elif empty:
        nothing = not any(path.stat().st_size for path in files)
        what = "is empty" if nothing else "holds no story, only white space and separators"
        raise TextError(f"{source} {what}; give a file with text in it")


def cut(text: str, size: int, slack: int = 0) -> list[str]:
    """`text` in parts of at most `size` characters, where it is longer than `size` + `slack`; cut
    in the second half of a part, at the last blank line, else line end, else space."""
    parts = []
    while len(text) > size + slack:
        places = (text.rfind(gap, size // 2, size) for gap in ("\n\n", "\n", " "))
        place = next((place for place in places if place > 0), size)
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
                raise TextError(f"{path} is UTF-16; convert it, as by: iconv -f UTF-16 -t UTF-8")
            begun = len(decoder.getstate()[0])  # bytes of a character that is not complete
            if b"\0" in data:
                at = offset + begun + data.index(0)
                raise TextError(f"{path} is not text (NUL byte at offset {at}); give UTF-8 text")
            text = decoder.decode(data)
            if not offset and _JSON.match(text):
                raise TextError(f"{path} is JSON; give one object with a text per line, as .jsonl")
            yield text
            offset += begun + len(data) - len(decoder.getstate()[0])
        yield decoder.decode(b"", final=True) + END_OF_TEXT
    except UnicodeDecodeError as error:
        place = f"byte 0x{error.object[error.start]:02x} at offset {offset + error.start}"
        advice = "convert it, for example: iconv -f LATIN1 -t UTF-8"
        raise TextError(f"{path} is not UTF-8 text ({place}); {advice}") from error


def _records(path: Path) -> Iterator[str]:
    """The texts of a .jsonl or .csv file, each with a separator behind it."""
    column, number = "", 1
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = (json.loads(line) for line in file if line.strip())
            if path.suffix.lower() == ".csv":
                csv.field_size_limit(1 << 30)
                lines = chain([names := file.readline()], file)
                rows = csv.DictReader(lines, delimiter=max(",;\t", key=names.count), strict=True)
            for row in rows:
                if not isinstance(row, dict) or None in row:  # None: of values beyond the names
                    raise ValueError("it has values without a name")
                texts = [k for k in row if isinstance(row[k], str) and row[k].strip("-.0123456789")]
                column = column or _text_column(path, ["text"] if "text" in row else texts, row)
                yield (row.get(column) or "") + END_OF_TEXT
                number += 1
    except (ValueError, TypeError, OSError, RecursionError, csv.Error) as error:
        advice = 'a line of .jsonl is {"text": "..."}, a text with commas in .csv is in quotes'
        raise TextError(f"{path}: row {number} cannot be read ({error}); {advice}") from error


def _rows(path: Path) -> Iterator[str]:
    """The texts of a parquet file, some rows at a time, each with a separator behind it."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise UserError(f"{path} takes pyarrow to read: pip install pyarrow") from error
    try:
        with parquet.ParquetFile(path, buffer_size=BLOCK) as file:  # page by page
            kinds = {each.name: str(each.type) for each in file.schema_arrow}
            texts = [name for name, kind in kinds.items() if _STRING.match(kind)]
            columns = [_text_column(path, texts, kinds)]
            for rows in file.iter_batches(_ROWS, columns=columns):
                yield "".join(text + END_OF_TEXT for text in rows.column(0).to_pylist() if text)
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        raise TextError(f"{path} is damaged or no parquet file ({error}); get it again") from error


def _text_column(path: Path, texts: list[str], names: Iterable[str]) -> str:
    """The column of the stories: "text", or the only one with texts that are no numbers."""
    texts = ["text"] if "text" in texts else texts
    if len(texts) != 1:
        raise TextError(f'{path} has no column "text", but {", ".join(names) or "none"}')
    return texts[0]


_READERS = {".txt": _decode, ".jsonl": _records, ".csv": _records, ".parquet": _rows}


def fingerprint(source: str | Path, cache: str | Path) -> str:
    """The sha256 of contents and suffixes of the files of `source`; `cache` keeps large ones'."""
    known, whole, hashes = "", hashlib.sha256(), Path(cache, "hashes.txt")
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
        whole.update(f"{found[1] if found else content.hexdigest()}{path.suffix.lower()}".encode())
    return whole.hexdigest()
