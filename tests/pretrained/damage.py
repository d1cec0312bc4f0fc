"""Ways to damage a file: as bytes, JSON, safetensors, a zip file of torch.save, or a text."""

from __future__ import annotations

import copy
import io
import json
import math
import random
import struct
import zipfile
from typing import Any

from minislm.tasks import END_OF_TEXT

NUMBERS = [0, 1, 2, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1]


def in_bytes(data: bytes, rng: random.Random) -> bytes:
    """One to four of: bits flipped, cut, lengthened, a part doubled, removed or overwritten."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        size = len(changed)
        # Half of the damage is at the beginning, where headers are.
        at = rng.randrange(min(size, rng.choice([64, 512, size or 1])) or 1)
        part = rng.choice([1, 2, 4, 8, 30, 1000])
        kind = rng.randrange(8)
        if kind <= 1 and size:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del changed[rng.choice([0, 1, 7, 8, size // 10, size // 2, size - 1, at]) :]
        elif kind == 3:
            changed += rng.randbytes(part)
        elif kind == 4:
            changed[at:at] = changed[at : at + part]
        elif kind == 5:
            del changed[at : at + part]
        elif kind == 6:
            changed[at : at + part] = rng.randbytes(part)
        else:
            number = rng.choice(NUMBERS).to_bytes(8, "little")[: rng.choice([1, 2, 4, 8])]
            changed[at - at % 4 : at - at % 4 + len(number)] = number
    return bytes(changed)


VALUES = [None, True, False, "", "x", -1, 0, 1, 2, 7, 10**6, 10**9, 2**31, 2**63, 10**30, 0.5, -0.0,
          1e-300, 1e308, math.nan, math.inf, [], {}, [[]], [1, 2], {"a": 1}, "\ud800", "\0",
          "../../x", "<|endoftext|>", "x" * 5000, "relu", "llama", "gpt2", "minislm"]  # fmt: skip


def in_json(data: bytes, rng: random.Random) -> bytes:
    """One to three values, keys or items replaced, removed, doubled or nested; or `in_bytes`."""
    if rng.random() < 0.2:
        return in_bytes(data, rng)
    whole = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        holder, key = rng.choice(list(places(whole)) or [(None, None)])
        if holder is None:
            return json.dumps(rng.choice(VALUES)).encode()
        kind = rng.randrange(8)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[rng.choice(["", "x", "model_type", key + "s", key.upper()])] = holder.pop(key)
        elif kind == 2 and isinstance(holder, list):
            holder += [holder[key]] * rng.choice([1, 3, 100])
        elif kind == 3:
            holder[key] = rng.choice(list(places(whole)))[0]
            whole = json.loads(without_circles(whole))
        elif kind == 4 and type(holder[key]) in (int, float):
            number = holder[key]
            holder[key] = rng.choice([number + 1, -number, number * 10**6, str(number)])
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    text = json.dumps(whole)
    if rng.random() < 0.03:
        depth = rng.choice([100, 2000, 100_000])
        text = text.replace("null", "[" * depth + "]" * depth) + "[" * depth
    return text.encode()


def without_circles(value: Any) -> str:
    try:
        return json.dumps(value)
    except (ValueError, RecursionError):
        return "{}"


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key) in a JSON value, the upper ones more often than their number."""
    found, level = [], [value]
    while level and len(found) < 3000:
        here = [
            (each, key)
            for each in level
            if isinstance(each, (dict, list))
            for key in (list(each) if isinstance(each, dict) else range(len(each)))
        ]
        found += here * max(1, 20 // (len(here) or 1))
        level = [holder[key] for holder, key in here]
    return found


def in_safetensors(data: bytes, rng: random.Random) -> bytes:
    """The header as JSON, its declared length, or any byte."""
    if rng.random() < 0.3:
        return in_bytes(data, rng)
    length = struct.unpack("<Q", data[:8])[0]
    header = in_json(data[8 : 8 + length], rng)
    declared = len(header) if rng.random() < 0.9 else rng.choice(NUMBERS)
    return struct.pack("<Q", declared) + header + data[8 + length :]


def in_zip(data: bytes, rng: random.Random) -> bytes:
    """A part of what torch.save wrote: the pickle more often than the numbers; or any byte."""
    if rng.random() < 0.4 or not data.startswith(b"PK"):
        return in_bytes(data, rng)
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w") as new:
        if max(part.file_size for part in old.infolist()) > 1 << 24:
            return in_bytes(data, rng)  # the zip bomb
        names = old.namelist()
        damaged = next(n for n in names if n.endswith("data.pkl"))
        damaged = damaged if rng.random() < 0.8 else rng.choice(names)
        for name in names:
            content = old.read(name)
            if name == damaged:
                if rng.random() < 0.1:
                    continue
                content = in_bytes(content, rng)
                name = name if rng.random() < 0.95 else "../" + name
            compression = zipfile.ZIP_DEFLATED if rng.random() < 0.05 else zipfile.ZIP_STORED
            new.writestr(name, content, compression)
    return made.getvalue()


def in_text(data: bytes, rng: random.Random) -> bytes:
    """Faults of real corpora: other encodings, NULs, endless lines, missing or lone separators."""
    separator = END_OF_TEXT.encode()
    kind = rng.randrange(14)
    if kind == 0:
        return data.replace(separator, rng.choice([b"", b"\n", separator[:-1], separator * 3]))
    if kind == 1:
        return separator.join([rng.choice([b"", b"\n", b" "])] * rng.choice([2, 1000]))
    if kind == 2:
        return data.decode().encode(rng.choice(["utf-16", "utf-16-be", "utf-32", "utf-8-sig"]))
    if kind == 3:
        return data.replace(b"\n", rng.choice([b"", b"\r", b"\r\n", b"\n\n\n\n", b"\0"]))
    if kind <= 8:  # a character, or two, again and again
        odd = ["x", " ", "\n", "a\u0301", "\u0301\u0323", "\u200b", "\ufffd", "\U0001f600", "<",
               "\u00e2\u20ac", "\u00c3", "1", "\u1100\u1161", "\t", "\ufeff", "\v",
               END_OF_TEXT[:-1]]  # fmt: skip
        run = "".join(rng.sample(odd, rng.choice([1, 1, 2])))
        run = run * rng.choice([10, 5_000, 120_000 // len(run), 300_000 // len(run)])
        at = rng.randrange(len(data) + 1)
        return data[:at] + run.encode() + data[at:]
    if kind == 9:
        at = rng.randrange(len(data) + 1)
        bad = [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xe2\x82", b"\0", b"\xf4\x90\x80\x80"]
        return data[:at] + rng.choice(bad) + data[at:]
    return in_bytes(data, rng)
