"""Unicode in one spelling: what cleaning does to a text, and sampling to the prompts of a run."""

import re
from unicodedata import normalize

# NFC takes time quadratic in a run of combining marks: 15 seconds for 100,000 of them. It never
# joins an ASCII character to what precedes it, so the text may be cut before one. Where there is
# none in 1,024 characters it is cut all the same: UAX 15 knows no correct run beyond 30 marks.
_NFC_BLOCK = re.compile("(?s:.{1,1024}(?=[\0-\x7f]|$)|.{1024})")
TO_ASCII = str.maketrans(
    {"\u201c": '"', "\u201d": '"', "\u201e": '"', "\u2018": "'", "\u2019": "'", "\u2026": "..."}
    | dict.fromkeys("\u2010\u2011\u2013\u2014", "-")
    | dict.fromkeys("\xa0\u2009\u202f", " ")
)


def nfc(text: str) -> str:
    """Letters and their accents as single characters, where Unicode has them."""
    return _NFC_BLOCK.sub(lambda run: normalize("NFC", run[0]), text)


def to_ascii(text: str) -> str:
    """Curly quotes, dashes, the ellipsis and odd spaces in ASCII."""
    return text.translate(TO_ASCII)
