"""Hostile input: thousands of damaged files, each opened rightly or refused in one clear line.

A short form runs with all tests, the full 10,000 in two minutes by:

    pytest -m slow tests/test_fuzz.py
"""

import copy
import faulthandler
import io
import json
import math
import os
import pickle
import random
import resource
import struct
import sys
import time
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch
from helpers import random_model
from safetensors.torch import load_file
from test_pretrained import write_tokenizer_bin

from minislm import checkpoint
from minislm.cli.config import DataConfig
from minislm.cli.run_settings import Settings
from minislm.config import PRESETS, TrainConfig
from minislm.corpus.clean import Counts, clean_stories
from minislm.corpus.prepare import prepare
from minislm.corpus.read import read_stories
from minislm.pretrained.load import load, save_model
from minislm.runtime.errors import UserError
from minislm.tasks import TASKS
from minislm.tokenizer import END_OF_TEXT, Tokenizer

SHORT, FULL = 300, 10_000
LONGEST = 10  # seconds of work, for any input
MOST_MEMORY = 300 << 20  # bytes that opening any input may add to the peak


# --- What is opened, and what a right answer is ---------------------------------------------------


@dataclass
class Target:
    """A file to damage: its sound contents, and how it is opened and what comes out is checked."""

    file: Path
    seeds: list[bytes]
    open: Callable[[], None]
    damage: Callable[[bytes, random.Random], bytes]


def speaks(tokenizer: Tokenizer) -> None:
    """What `Tokenizer.load` gave can be used."""
    ids = tokenizer.encode("Once upon a time, 12 dogs \u00e9\U0001f600\n")
    assert all(0 <= token < tokenizer.vocab_size for token in ids)
    assert isinstance(tokenizer.decode(ids), str)


@torch.no_grad()
def thinks(source: Path) -> None:
    """What `load` gave can be used."""
    model, tokenizer = load(source)
    speaks(tokenizer)
    assert tokenizer.vocab_size <= model.config.vocab_size
    tokens = torch.arange(min(5, model.config.context))[None] % model.config.vocab_size
    assert model(tokens).shape == (*tokens.shape, model.config.vocab_size)


class Touch:
    """Unpickling it makes a folder: the proof that code was run."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


# --- How it is damaged ----------------------------------------------------------------------------

NUMBERS = [0, 1, 2, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1]


def in_bytes(data: bytes, draw: random.Random) -> bytes:
    """One to four of: bits flipped, cut, lengthened, a part doubled, lost or overwritten."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        size = len(changed)
        # Half of the damage strikes the beginning, where headers are.
        at = draw.randrange(min(size, draw.choice([64, 512, size or 1])) or 1)
        part = draw.choice([1, 2, 4, 8, 30, 1000])
        kind = draw.randrange(8)
        if kind <= 1 and size:
            changed[at] ^= 1 << draw.randrange(8)
        elif kind == 2:
            del changed[draw.choice([0, 1, 7, 8, size // 10, size // 2, size - 1, at]) :]
        elif kind == 3:
            changed += draw.randbytes(part)
        elif kind == 4:
            changed[at:at] = changed[at : at + part]
        elif kind == 5:
            del changed[at : at + part]
        elif kind == 6:
            changed[at : at + part] = draw.randbytes(part)
        else:
            number = draw.choice(NUMBERS).to_bytes(8, "little")[: draw.choice([1, 2, 4, 8])]
            changed[at - at % 4 : at - at % 4 + len(number)] = number
    return bytes(changed)


VALUES = [None, True, False, "", "x", -1, 0, 1, 2, 7, 10**6, 10**9, 2**31, 2**63, 10**30, 0.5, -0.0,
          1e-300, 1e308, math.nan, math.inf, [], {}, [[]], [1, 2], {"a": 1}, "\ud800", "\0",
          "../../x", "<|endoftext|>", "x" * 5000, "relu", "llama", "gpt2", "minislm"]  # fmt: skip


def in_json(data: bytes, draw: random.Random) -> bytes:
    """One to three values, keys or items replaced, lost, doubled or nested; else `in_bytes`."""
    if draw.random() < 0.2:
        return in_bytes(data, draw)
    whole = json.loads(data)
    for _ in range(draw.randint(1, 3)):
        holder, key = draw.choice(list(places(whole)) or [(None, None)])
        if holder is None:
            return json.dumps(draw.choice(VALUES)).encode()
        kind = draw.randrange(8)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[draw.choice(["", "x", "model_type", key + "s", key.upper()])] = holder.pop(key)
        elif kind == 2 and isinstance(holder, list):
            holder += [holder[key]] * draw.choice([1, 3, 100])
        elif kind == 3:
            holder[key] = draw.choice(list(places(whole)))[0]
            whole = json.loads(without_circles(whole))
        elif kind == 4 and type(holder[key]) in (int, float):
            number = holder[key]
            holder[key] = draw.choice([number + 1, -number, number * 10**6, str(number)])
        else:
            holder[key] = copy.deepcopy(draw.choice(VALUES))
    text = json.dumps(whole)
    if draw.random() < 0.03:
        depth = draw.choice([100, 2000, 100_000])
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


def in_safetensors(data: bytes, draw: random.Random) -> bytes:
    """The header as JSON, its declared length, or any byte."""
    if draw.random() < 0.3:
        return in_bytes(data, draw)
    length = struct.unpack("<Q", data[:8])[0]
    header = in_json(data[8 : 8 + length], draw)
    declared = len(header) if draw.random() < 0.9 else draw.choice(NUMBERS)
    return struct.pack("<Q", declared) + header + data[8 + length :]


def in_zip(data: bytes, draw: random.Random) -> bytes:
    """A part of what torch.save wrote: the pickle more often than the numbers; or any byte."""
    if draw.random() < 0.4 or not data.startswith(b"PK"):
        return in_bytes(data, draw)
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w") as new:
        if max(part.file_size for part in old.infolist()) > 1 << 24:
            return in_bytes(data, draw)  # the bomb
        names = old.namelist()
        struck = next(n for n in names if n.endswith("data.pkl"))
        struck = struck if draw.random() < 0.8 else draw.choice(names)
        for name in names:
            content = old.read(name)
            if name == struck:
                if draw.random() < 0.1:
                    continue
                content = in_bytes(content, draw)
                name = name if draw.random() < 0.95 else "../" + name
            squeezed = zipfile.ZIP_DEFLATED if draw.random() < 0.05 else zipfile.ZIP_STORED
            new.writestr(name, content, squeezed)
    return made.getvalue()


def in_text(data: bytes, draw: random.Random) -> bytes:
    """What corpora suffer from: other encodings, NULs, endless lines, lost or lone separators."""
    separator = END_OF_TEXT.encode()
    kind = draw.randrange(14)
    if kind == 0:
        return data.replace(separator, draw.choice([b"", b"\n", separator[:-1], separator * 3]))
    if kind == 1:
        return separator.join([draw.choice([b"", b"\n", b" "])] * draw.choice([2, 1000]))
    if kind == 2:
        return data.decode().encode(draw.choice(["utf-16", "utf-16-be", "utf-32", "utf-8-sig"]))
    if kind == 3:
        return data.replace(b"\n", draw.choice([b"", b"\r", b"\r\n", b"\n\n\n\n", b"\0"]))
    if kind <= 8:  # a character, or two, again and again
        odd = ["x", " ", "\n", "a\u0301", "\u0301\u0323", "\u200b", "\ufffd", "\U0001f600", "<",
               "\u00e2\u20ac", "\u00c3", "1", "\u1100\u1161", "\t", "\ufeff", "\v",
               END_OF_TEXT[:-1]]  # fmt: skip
        run = "".join(draw.sample(odd, draw.choice([1, 1, 2])))
        run = run * draw.choice([10, 5_000, 120_000 // len(run), 300_000 // len(run)])
        at = draw.randrange(len(data) + 1)
        return data[:at] + run.encode() + data[at:]
    if kind == 9:
        at = draw.randrange(len(data) + 1)
        bad = [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xe2\x82", b"\0", b"\xf4\x90\x80\x80"]
        return data[:at] + draw.choice(bad) + data[at:]
    return in_bytes(data, draw)


# --- The targets ----------------------------------------------------------------------------------


def model_folder(folder: Path, tokenizer: Tokenizer, preset: str, as_bin: bool = False) -> Path:
    knobs = PRESETS[preset] | dict(n_layer=2, width=32, n_head=4, context=64)
    save_model(folder, random_model(vocab_size=tokenizer.vocab_size, **knobs), tokenizer)
    if as_bin:
        tensors = load_file(folder / "model.safetensors")
        torch.save(tensors, folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    return folder


def with_old_and_hostile(file: Path, content: Any, marker: Path) -> list[bytes]:
    """What torch.save makes of `content`, now and formerly; with code in it; with a bomb."""
    sound = file.read_bytes()
    evil = content | {"evil": Touch(marker)}
    made = [io.BytesIO() for _ in range(4)]
    torch.save(content, made[0], _use_new_zipfile_serialization=False)
    torch.save(evil, made[1])
    torch.save(evil, made[2], _use_new_zipfile_serialization=False)
    bomb = iter([bytes(1 << 29)])  # inflates to half a gigabyte
    with zipfile.ZipFile(io.BytesIO(sound)) as old:
        with zipfile.ZipFile(made[3], "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
            for name in old.namelist():
                data = next(bomb, b"") if "/data/" in name else old.read(name)
                new.writestr(name, data)
    return [sound, sound, *(each.getvalue() for each in made), pickle.dumps(Touch(marker))]


def llama2c_files(folder: Path) -> None:
    words = ["the", " the", " cat", "at", " c", "s", "."]
    write_tokenizer_bin(folder / "tokenizer.bin", words)
    C, F, L, H, K, T = 24, 40, 2, 6, 2, 64
    V = 259 + len(set("".join(words)) | {" "}) + sum(len(w) > 1 for w in words)
    floats = V * C + L * (2 * C + 2 * C * C + 2 * C * (C // H * K) + 3 * C * F) + C
    numbers = np.random.default_rng(0).normal(size=floats + T * (C // H)).astype("<f4")
    head = struct.pack("<7i", C, F, L, H, K, V, T)
    (folder / "v0.bin").write_bytes(head + numbers.tobytes())
    head = struct.pack("<Ii7iB", 0x616B3432, 1, C, F, L, H, K, V, T, 1).ljust(256, b"\0")
    (folder / "v1.bin").write_bytes(head + numbers[:floats].tobytes())


@pytest.fixture(scope="module")
def marker(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("marker") / "code-was-run"


@pytest.fixture(scope="module")
def targets(tmp_path_factory, tokenizer, stories, marker) -> dict[str, Target]:
    new = tmp_path_factory.mktemp
    found: dict[str, Target] = {}

    def add(name: str, file: Path, open: Callable, damage: Callable, *seeds: bytes) -> None:
        found[name] = Target(file, list(seeds) or [file.read_bytes()], open, damage)

    add_corpus(add, new("corpus"), tokenizer, stories)
    for preset in ("one-block", "gpt2", "gpt-neo"):
        folder = model_folder(new(preset), tokenizer, preset)
        add(f"config.json of {preset}", folder / "config.json", lambda f=folder: thinks(f), in_json)
    own = new("own")
    save_model(own, random_model(vocab_size=400, norm="layernorm", windows=(0, 9)), tokenizer)
    add("config.json of minislm", own / "config.json", lambda: thinks(own), in_json)

    folder = model_folder(new("tokenizer"), tokenizer, "one-block")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        add(name, folder / name, lambda: thinks(folder), in_json)
    pair = new("vocab")
    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]
    (pair / "vocab.json").write_text(json.dumps(vocab["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in vocab["merges"]]
    (pair / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    add("vocab.json", pair / "vocab.json", lambda: speaks(Tokenizer.load(pair)), in_json)
    add("merges.txt", pair / "merges.txt", lambda: speaks(Tokenizer.load(pair)), in_bytes)

    weights = model_folder(new("weights"), tokenizer, "one-block")
    file = weights / "model.safetensors"
    add("model.safetensors", file, lambda: thinks(weights), in_safetensors)
    pickled = model_folder(new("pickled"), tokenizer, "gpt2", as_bin=True)
    file = pickled / "pytorch_model.bin"
    content = torch.load(file, weights_only=True)
    seeds = with_old_and_hostile(file, content, marker)
    add("pytorch_model.bin", file, lambda: thinks(pickled), in_zip, *seeds)
    shards = model_folder(new("shards"), tokenizer, "one-block")
    names = load_file(shards / "model.safetensors")
    (shards / "model.safetensors").rename(shards / "one.safetensors")
    index = shards / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, "one.safetensors")}))
    add("index.json", index, lambda: thinks(shards), in_json)

    add_run(add, new("run"), marker)
    llama2c_files(bins := new("llama2c"))
    for name in ("v0.bin", "v1.bin"):
        add(f"llama2.c {name}", bins / name, lambda n=name: thinks(bins / n), in_bytes)
    file = bins / "tokenizer.bin"
    add("llama2.c tokenizer", file, lambda: thinks(bins / "v0.bin"), in_bytes)
    return found


def add_corpus(add: Callable, folder: Path, tokenizer: Tokenizer, stories: list[str]) -> None:
    """A text, and the files of its token file."""
    text, cache = folder / "text.txt", folder / "cache"

    def prepares() -> None:
        tally = Counts()
        made = prepare(text, tokenizer, cache)
        wanted = list(clean_stories(read_stories(text, tally), tally))
        assert made.tally == str(tally) and len(made) == len(wanted)
        for i, story in enumerate(wanted):
            assert tokenizer.decode(made.document(i)[:-1].tolist()) == story
        for file in sorted(made.path.parent.rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()

    sound = f"\n{END_OF_TEXT}\n".join(stories[:20]) + f"\n{END_OF_TEXT}\n"
    text.write_text(sound)
    add("corpus", text, prepares, in_text)
    other = folder / "other.txt"
    other.write_text(sound)
    made = prepare(other, tokenizer, folder / "made")
    tokens = made.tokens.tolist()
    for name in ("meta.json", "starts.npy", "tokens.bin"):

        def is_made_again() -> None:
            again = prepare(other, tokenizer, folder / "made")
            assert (again.tokens.tolist(), again.bytes) == (tokens, made.bytes)
            assert np.array_equal(again.starts, made.starts) and again.tally == made.tally

        damage = in_json if name == "meta.json" else in_bytes
        add(name, made.path / name, is_made_again, damage)


def add_run(add: Callable, run: Path, marker: Path) -> None:
    """The settings and the training state of a run."""
    settings = Settings(random_model().config, DataConfig(), TrainConfig())
    (run / "run.json").write_text(json.dumps(settings.as_dict() | {"tasks": ["copy"]}))

    def reads() -> None:
        for config in vars(Settings.read(run)).values():
            defaults = asdict(type(config)())
            for name, value in asdict(config).items():
                kind = type(defaults[name])
                assert type(value) is kind or None in (value, defaults[name]) or kind is float, name
        assert set(Settings.tasks(run)) <= set(TASKS)

    add("run.json", run / "run.json", reads, in_json)
    state = {"step": 3, "model": random_model().state_dict(), "random": torch.get_rng_state()}
    checkpoint.save_state(run, state)
    file = run / checkpoint.STATE
    seeds = with_old_and_hostile(file, state, marker)
    add("train_state.pt", file, lambda: checkpoint.load_state(run), in_zip, *seeds)


NAMES = [
    "corpus", "meta.json", "starts.npy", "tokens.bin",
    "config.json of one-block", "config.json of gpt2", "config.json of gpt-neo",
    "config.json of minislm", "tokenizer.json", "tokenizer_config.json", "vocab.json",
    "merges.txt", "model.safetensors", "pytorch_model.bin", "index.json", "run.json",
    "train_state.pt", "llama2.c v0.bin", "llama2.c v1.bin", "llama2.c tokenizer",
]  # fmt: skip


# --- The test -------------------------------------------------------------------------------------


def outcome(target: Target, data: bytes) -> str:
    """ "" for a right answer or a clear refusal of the damaged file, else what was wrong."""
    target.file.unlink(missing_ok=True)  # not in place: a tensor may still be mapped from it
    target.file.parent.mkdir(parents=True, exist_ok=True)
    target.file.write_bytes(data)
    begin = time.process_time()  # not the clock: the machine may have other things to do
    faulthandler.dump_traceback_later(120, exit=True, file=sys.__stderr__)
    try:
        target.open()
    except UserError as error:
        message = str(error)
        if not message.isprintable() or len(message) > 1000 or "weights_only" in message:
            return f"unclear refusal: {message!r}"
    except BaseException as error:  # the library's panics are no Exceptions
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__module__}.{type(error).__name__}: {error}"
    finally:
        faulthandler.cancel_dump_traceback_later()
    seconds = time.process_time() - begin
    return f"took {seconds:.0f} seconds" if seconds > LONGEST else ""


def attack(name: str, target: Target, count: int, marker: Path) -> None:
    problems = []
    sound = target.file.read_bytes()
    assert outcome(target, sound) == ""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(count):
        draw = random.Random(f"{name} {seed}")
        data = target.damage(draw.choice(target.seeds), draw) if seed else target.seeds[-1]
        if problem := outcome(target, data):
            problems.append(f"{name} {seed}: {problem}")
        assert not marker.exists(), f"{name} {seed} ran code"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    if grown > MOST_MEMORY >> 10:
        problems.append(f"{name}: the peak of memory grew by {grown >> 10} MB")
    assert outcome(target, sound) == ""
    assert not problems, "\n".join([f"{len(problems)} of {count}", *problems[:40]])


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files(name, targets, marker):
    attack(name, targets[name], SHORT // len(NAMES), marker)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_many_damaged_files(name, targets, marker):
    attack(name, targets[name], FULL // len(NAMES), marker)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "train_state.pt"])
def test_a_flipped_bit_among_the_numbers_is_seen(name, targets):
    file, sound = targets[name].file, targets[name].seeds[0]
    draw = random.Random(0)
    with zipfile.ZipFile(io.BytesIO(sound)) as parts:
        inside = [p for p in parts.infolist() if "/data/" in p.filename and p.file_size > 2000]
    for _ in range(30):
        part = draw.choice(inside)
        data = bytearray(sound)
        data[data.index(part.filename.encode()) + 200 + draw.randrange(1000)] ^= 4
        file.write_bytes(data)
        with pytest.raises(UserError, match=f"{name} is damaged"):
            targets[name].open()
    file.write_bytes(sound)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "train_state.pt"])
def test_a_compressed_checkpoint_is_not_unpacked(name, targets):
    file, sound = targets[name].file, targets[name].seeds[0]
    with zipfile.ZipFile(io.BytesIO(sound)) as old:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
            for part in old.namelist():
                new.writestr(part, old.read(part))
    with pytest.raises(UserError, match="is compressed|damaged or not a training state"):
        targets[name].open()
    file.write_bytes(sound)


@pytest.mark.parametrize("width", ["64", 64.5, True, None, [64]])
def test_a_setting_of_another_type_is_refused(width, targets):
    target = targets["run.json"]
    settings = json.loads(target.seeds[0])
    settings["model"]["width"] = width
    target.file.write_text(json.dumps(settings))
    with pytest.raises(UserError, match="run.json is damaged .width is"):
        target.open()
    target.file.write_bytes(target.seeds[0])


def test_a_message_is_one_line_that_a_terminal_can_show():
    error = UserError("x.json:\n 'a\0\x1b[31m\ud800' \t" + "y" * 5000 + " the end")
    assert str(error).startswith("x.json: 'a\\x00\\x1b[31m\\ud800' yyy")
    assert str(error).endswith("y the end") and len(str(error)) < 700


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
@pytest.mark.parametrize("name", ["corpus", "config.json of gpt2", "tokenizer.json", "merges.txt",
                                  "model.safetensors", "pytorch_model.bin", "train_state.pt",
                                  "llama2.c v0.bin"])  # fmt: skip
def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(name, targets):
    file = targets[name].file
    sound = file.read_bytes()
    file.unlink()
    os.mkfifo(file)
    try:
        with pytest.raises(UserError):
            targets[name].open()
    finally:
        file.unlink()
        file.write_bytes(sound)


def test_no_target_is_forgotten(targets):
    assert list(targets) == NAMES
