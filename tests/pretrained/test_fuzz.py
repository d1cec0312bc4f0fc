"""Hostile input: thousands of damaged files, each opened rightly or refused in one clear line.

A short form runs with all tests, the full 10,000 in two minutes by:

    pytest -m slow tests/pretrained/test_fuzz.py
"""

from __future__ import annotations

import faulthandler
import io
import json
import os
import pickle
import random
import resource
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import random_model
from pretrained.damage import in_bytes, in_json, in_safetensors, in_text, in_zip
from pretrained.llama2c_files import write_llama2c
from safetensors.torch import load_file

from minislm import checkpoint
from minislm.cli.config import DataConfig, RunConfig
from minislm.cli.run_settings import Settings
from minislm.config import PRESETS, TrainConfig
from minislm.corpus.clean import Counts, clean_stories
from minislm.corpus.prepare import prepare
from minislm.corpus.read import read_stories
from minislm.pretrained.load import load
from minislm.pretrained.save import save
from minislm.pretrained.tokenizers import load_tokenizer
from minislm.runtime.errors import UserError
from minislm.tasks import END_OF_TEXT, TASKS
from minislm.tokenizer import Tokenizer

SHORT, FULL = 300, 10_000
LONGEST = 10  # seconds of work, for any input
MOST_MEMORY = 300 << 20  # bytes that opening any input may add to the peak


# --- What is opened, and what a right answer is ---------------------------------------------------


@dataclass
class Target:
    """A file to damage: its sound contents, and how it is opened and the result is checked."""

    file: Path
    seeds: list[bytes]
    open: Callable[[], None]
    damage: Callable[[bytes, random.Random], bytes]


def check_tokenizer(tokenizer: Tokenizer) -> None:
    """A loaded tokenizer can be used."""
    ids = tokenizer.encode("Once upon a time, 12 dogs \u00e9\U0001f600\n")
    assert all(0 <= token < tokenizer.vocab_size for token in ids)
    assert isinstance(tokenizer.decode(ids), str)


@torch.no_grad()
def check_model(source: Path) -> None:
    """A model can be loaded and used."""
    model, tokenizer = load(source)
    check_tokenizer(tokenizer)
    # An added token beyond the embedding is never in a text.
    assert (
        max(tokenizer.encode("".join(tokenizer.backend.get_vocab())), default=0)
        < model.config.vocab_size
    )
    tokens = torch.arange(min(5, model.config.context))[None] % model.config.vocab_size
    assert model(tokens).shape == (*tokens.shape, model.config.vocab_size)


class Touch:
    """Unpickling it makes a folder: the proof that code was run."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


# --- The targets ----------------------------------------------------------------------------------


def model_folder(folder: Path, tokenizer: Tokenizer, preset: str, as_bin: bool = False) -> Path:
    options = PRESETS[preset] | dict(n_layer=2, width=32, n_head=4, context=64)
    save(folder, random_model(vocab_size=tokenizer.vocab_size, **options), tokenizer)
    if as_bin:
        tensors = load_file(folder / "model.safetensors")
        torch.save(tensors, folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    return folder


def with_old_and_malicious(file: Path, content: Any, marker: Path) -> list[bytes]:
    """Files of torch.save in the present and the old format; with code; a zip bomb; a pickle."""
    sound = file.read_bytes()
    malicious = content | {"code": Touch(marker)}
    made = [io.BytesIO() for _ in range(4)]
    torch.save(content, made[0], _use_new_zipfile_serialization=False)
    torch.save(malicious, made[1])
    torch.save(malicious, made[2], _use_new_zipfile_serialization=False)
    bomb = iter([bytes(1 << 29)])  # inflates to half a gigabyte
    with zipfile.ZipFile(io.BytesIO(sound)) as old:
        with zipfile.ZipFile(made[3], "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
            for name in old.namelist():
                data = next(bomb, b"") if "/data/" in name else old.read(name)
                new.writestr(name, data)
    return [sound, sound, *(each.getvalue() for each in made), pickle.dumps(Touch(marker))]


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
        add(
            f"config.json of {preset}",
            folder / "config.json",
            lambda f=folder: check_model(f),
            in_json,
        )
    own = new("own")
    save(own, random_model(vocab_size=400, norm="layernorm", windows=(0, 9)), tokenizer)
    add("config.json of minislm", own / "config.json", lambda: check_model(own), in_json)

    folder = model_folder(new("tokenizer"), tokenizer, "one-block")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        add(name, folder / name, lambda: check_model(folder), in_json)
    pair = new("vocab")
    vocab = json.loads((folder / "tokenizer.json").read_text())["model"]
    (pair / "vocab.json").write_text(json.dumps(vocab["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in vocab["merges"]]
    (pair / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    add("vocab.json", pair / "vocab.json", lambda: check_tokenizer(load_tokenizer(pair)), in_json)
    add("merges.txt", pair / "merges.txt", lambda: check_tokenizer(load_tokenizer(pair)), in_bytes)

    weights = model_folder(new("weights"), tokenizer, "one-block")
    file = weights / "model.safetensors"
    add("model.safetensors", file, lambda: check_model(weights), in_safetensors)
    pickled = model_folder(new("pickled"), tokenizer, "gpt2", as_bin=True)
    file = pickled / "pytorch_model.bin"
    content = torch.load(file, weights_only=True)
    seeds = with_old_and_malicious(file, content, marker)
    add("pytorch_model.bin", file, lambda: check_model(pickled), in_zip, *seeds)
    shards = model_folder(new("shards"), tokenizer, "one-block")
    names = load_file(shards / "model.safetensors")
    (shards / "model.safetensors").rename(shards / "one.safetensors")
    index = shards / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, "one.safetensors")}))
    add("index.json", index, lambda: check_model(shards), in_json)

    add_run(add, new("run"), marker)
    write_llama2c(bins := new("llama2c"))
    for name in ("v0.bin", "v1.bin"):
        add(f"llama2.c {name}", bins / name, lambda n=name: check_model(bins / n), in_bytes)
    file = bins / "tokenizer.bin"
    add("llama2.c tokenizer", file, lambda: check_model(bins / "v0.bin"), in_bytes)
    return found


def add_corpus(add: Callable, folder: Path, tokenizer: Tokenizer, stories: list[str]) -> None:
    """A text, and the files of its token file."""
    text, cache = folder / "text.txt", folder / "cache"

    def check_text() -> None:
        counts = Counts()
        made = prepare(text, tokenizer, cache)
        expected = list(clean_stories(read_stories(text, counts), counts))
        assert made.counts == str(counts) and len(made) == len(expected)
        for i, story in enumerate(expected):
            assert tokenizer.decode(made.document(i)[:-1].tolist()) == story
        for file in sorted(made.path.parent.rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()

    sound = f"\n{END_OF_TEXT}\n".join(stories[:20]) + f"\n{END_OF_TEXT}\n"
    text.write_text(sound)
    add("corpus", text, check_text, in_text)
    other = folder / "other.txt"
    other.write_text(sound)
    made = prepare(other, tokenizer, folder / "made")
    tokens = made.tokens.tolist()

    def check_prepared() -> None:  # a damaged file is made again
        again = prepare(other, tokenizer, folder / "made")
        assert (again.tokens.tolist(), again.bytes) == (tokens, made.bytes)
        assert np.array_equal(again.starts, made.starts) and again.counts == made.counts

    index = next(each for each in made.path.iterdir() if each.suffix in (".json", ".npz"))
    add("corpus index", index, check_prepared, in_json if index.suffix == ".json" else in_bytes)
    add("tokens.bin", made.path / "tokens.bin", check_prepared, in_bytes)


def add_run(add: Callable, run: Path, marker: Path) -> None:
    """The settings and the training state of a run."""
    settings = Settings(random_model().config, DataConfig(), TrainConfig(), RunConfig())
    (run / "run.json").write_text(json.dumps(settings.as_dict() | {"tasks": ["copy"]}))

    def check_settings() -> None:
        for config in vars(Settings.read(run)).values():
            defaults = asdict(type(config)())
            for name, value in asdict(config).items():
                kind = type(defaults[name])
                assert type(value) is kind or None in (value, defaults[name]) or kind is float, name
        assert set(Settings.tasks(run)) <= set(TASKS)

    add("run.json", run / "run.json", check_settings, in_json)
    state = {"step": 3, "model": random_model().state_dict(), "random": torch.get_rng_state()}
    checkpoint.save_state(run, state)
    file = run / checkpoint.STATE
    seeds = with_old_and_malicious(file, state, marker)
    add("train_state.pt", file, lambda: checkpoint.load_state(run), in_zip, *seeds)


NAMES = [
    "corpus", "corpus index", "tokens.bin",
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
        rng = random.Random(f"{name} {seed}")
        data = target.damage(rng.choice(target.seeds), rng) if seed else target.seeds[-1]
        if problem := outcome(target, data):
            problems.append(f"{name} {seed}: {problem}")
        assert not marker.exists(), f"{name} {seed} ran code"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    if grown > MOST_MEMORY >> 10:
        problems.append(f"{name}: the peak of memory grew by {grown >> 10} MB")
    assert outcome(target, sound) == ""
    assert not problems, "\n".join([f"{len(problems)} of {count}", *problems[:40]])


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files(name, targets, marker):
    attack(name, targets[name], SHORT // len(NAMES), marker)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_many_damaged_files(name, targets, marker):
    attack(name, targets[name], FULL // len(NAMES), marker)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "train_state.pt"])
def test_a_flipped_bit_among_the_values_is_found(name, targets):
    file, sound = targets[name].file, targets[name].seeds[0]
    rng = random.Random(0)
    with zipfile.ZipFile(io.BytesIO(sound)) as parts:
        inside = [p for p in parts.infolist() if "/data/" in p.filename and p.file_size > 2000]
    for _ in range(30):
        part = rng.choice(inside)
        data = bytearray(sound)
        data[data.index(part.filename.encode()) + 200 + rng.randrange(1000)] ^= 4
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
def test_a_pipe_in_place_of_a_file_does_not_block(name, targets):
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
