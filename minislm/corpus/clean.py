"""Raw stories to clean ones: one spelling for every text, nothing too short, nothing twice.

Signatures tell duplicates in about 100 bytes a story; nothing else here grows with the text.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from minislm.corpus.duplicates import Signatures

MIN_CHARACTERS, MIN_WORDS = 50, 10


@dataclass
class Counts:
    """What became of the stories: `read` is `kept` plus all of `dropped`."""

    read: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)  # stories; one may count several times

    @property
    def kept(self) -> int:
        return self.read - self.dropped.total()

    def add(self, other: Counts) -> None:
        """Count what `other` has counted, too."""
        self.read += other.read
        self.dropped.update(other.dropped)
        self.changed.update(other.changed)

    def __str__(self) -> str:
        rows = [("stories read", self.read)]
        rows += [(f"  dropped: {why}", n) for why, n in sorted(self.dropped.items()) if n]
        rows += [("stories kept", self.kept)]
        rows += [(f"  changed: {what}", n) for what, n in sorted(self.changed.items()) if n]
        return "\n".join(f"{name:<36}{n:>12,}" for name, n in rows)


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
# NFC takes time quadratic in a run of combining marks: 15 seconds for 100,000 of them. It changes
# nothing across the front of an ASCII character, so there the text may be cut; where none comes
# (Unicode's UAX 15 knows no honest run beyond 30), it is cut all the same.
_NFC_PIECE = re.compile("(?s:.{1,1024}(?=[\0-\x7f]|$)|.{1024})")
_PLAIN = str.maketrans(
    {"\u201c": '"', "\u201d": '"', "\u201e": '"', "\u2018": "'", "\u2019": "'", "\u2026": "..."}
    | dict.fromkeys("\u2010\u2011\u2013\u2014", "-")
    | dict.fromkeys("\xa0\u2009\u202f", " ")
)


def normalise(story: str, tally: Counts) -> str:
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
        story = step("Unicode NFC", _NFC_PIECE.sub(_nfc, story))
        story = step("quotes and dashes to ASCII", story.translate(_PLAIN))
    story = story.strip()
    story = step("spaces at line ends", "\n".join(map(str.rstrip, story.split("\n"))))
    return step("blank lines", _BLANK_LINES.sub("\n\n", story))


def _nfc(match: re.Match[str]) -> str:
    return unicodedata.normalize("NFC", match[0])


def _repair(match: re.Match[str]) -> str:
    run = match[0]
    if run[0] == "\xe2" and run[2:] in _LAST_LOST:
        return _LAST_LOST[run[2:]]
    return b"".join(c.encode("latin-1" if c < "\u0100" else "cp1252") for c in run).decode()


def clean_story(raw: str, tally: Counts) -> str | None:
    """The normalised story, or None if it is too short; `tally` counts both."""
    tally.read += 1
    story = normalise(raw, tally)
    if len(story) < MIN_CHARACTERS or len(story.split(None, MIN_WORDS)) < MIN_WORDS:
        tally.dropped["too short"] += 1
        return None
    return story


def admit(keys: list[int], seen: Signatures, exclude: Signatures | None, tally: Counts) -> bool:
    """Whether a story with these signature keys is new; then it is `seen` from now on.

    A duplicate, exact or near, of an earlier story is not, and neither is one of a story in
    `exclude`: with the validation stories there (`signatures`), no training story gives a
    validation story away. `tally` counts what was dropped, and why.
    """
    if exclude is not None and exclude.match(keys):
        tally.dropped["in the validation set"] += 1
    elif how := seen.match(keys):
        tally.dropped[f"{how} duplicate"] += 1
    else:
        seen.add(keys)
        return True
    return False


def clean_stories(
    stories: Iterable[str], tally: Counts, exclude: Signatures | None = None
) -> Iterator[str]:
    """Stream the normalised stories that are long enough and not seen before, as `admit` has it."""
    seen = Signatures()
    for raw in stories:
        story = clean_story(raw, tally)
        if story is not None and admit(seen.keys(story), seen, exclude, tally):
            yield story


def signatures(stories: Iterable[str]) -> Signatures:
    """The signatures of raw or cleaned stories, for the `exclude` of `clean_stories`."""
    found = Signatures()
    for story in stories:
        found.add(found.keys(normalise(story, Counts())))
    return found
