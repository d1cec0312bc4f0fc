"""Models from files and back: Hugging Face folders, the hub, llama2.c.

A weight file is not trusted. Its header is held against config.json before the model takes any
memory, every tensor must have its place, nothing in a pickle is run, and what is wrong is told in
one line that names the file and the tensor.
"""

from __future__ import annotations

import json
import os
import re
import reprlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from minislm.config import ModelConfig
from minislm.model import Transformer
from minislm.pretrained import hub, llama2c
from minislm.pretrained.families import (
    LLAMA,
    Family,
    model_config_from_hf,
    read_config,
)
from minislm.pretrained.rope import scaled_rotary_tables
from minislm.pretrained.tokenizers import load_tokenizer
from minislm.runtime.device import DTYPES, on_meta_device
from minislm.runtime.errors import CheckpointError, UserError
from minislm.runtime.pickles import read_pickle
from minislm.tokenizer import Tokenizer

_WEIGHTS = "model.safetensors"
_FORMATS = (_WEIGHTS, "pytorch_model.bin")  # the first that is there is read, whole or in shards


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: its name there and shape are known, its numbers not read yet."""

    file: Path
    name: str
    shape: tuple[int, ...]
    read: Callable[[], Tensor]


def load(
    source: str | Path, *, dtype: str = "float32", device: str = "cpu", revision: str | None = None
) -> tuple[Transformer, Tokenizer]:
    """Open a trained model: a run folder, a Hugging Face folder, a hub id or a llama2.c .bin.

    The published TinyStories models hold 2048 positions, and all are loaded; beyond 512 they were
    never trained.

    Args:
        source: a folder or file; else the name of a model on the hub, as owner/name.
        dtype: float32, bfloat16 or float16; weights are converted one tensor at a time.
        device: where the model goes, as torch names it.
        revision: a branch, tag or commit of the hub.

    Returns:
        The model, in eval mode, and its tokenizer.

    Raises:
        UserError: the source cannot be had; CheckpointError: it is there and cannot be used. One
            line that names the file and, where it is about one, the tensor.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    path = Path(source)
    if path.is_file():
        family, config, stored, tokenizer = _open_llama2c(path)
    else:
        folder, tokenizer_folder = (path, path) if path.is_dir() else _fetch(str(source), revision)
        family, config = read_config(folder / "config.json")
        stored, tokenizer = _stored_tensors(folder), load_tokenizer(tokenizer_folder)
    stored = {family.full_name(name): each for name, each in stored.items()}
    embedding = _find(stored, family.their_names("embedding.weight")[0])
    _check_shape(embedding, (config.vocab_size, config.width))
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{embedding.file}: tensor {embedding.name} has {config.vocab_size} rows, too few for "
            f"the tokenizer's {tokenizer.vocab_size} tokens; they do not belong together"
        )
    with on_meta_device():  # no memory is used before they are checked
        model = Transformer(config)
    places = _places(model, family, stored)
    _fill(model, places, DTYPES[dtype], device)
    return model.eval(), tokenizer


def _fetch(source: str, revision: str | None) -> tuple[Path, Path]:
    """The folders of a hub model and of its tokenizer."""
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source):
        raise UserError(f"{source} does not exist; give a folder, a .bin, or owner/name of the hub")
    try:
        folder = hub.fetch(source, revision)
        return folder, hub.tokenizer_folder(source, folder)
    except UserError as error:
        if not Path(source).parent.is_dir():
            raise
        raise UserError(f"there is no folder {source} here, and on the hub: {error}") from error


def _open_llama2c(file: Path) -> tuple[Family, ModelConfig, dict[str, Stored], Tokenizer]:
    if file.suffix != ".bin" or file.name.startswith("pytorch_model"):
        raise CheckpointError(f"{file} is a part of a model; give the folder that holds it")
    _check_text(file)
    config, tensors = llama2c.read_model(file)
    vocab_size = config["vocab_size"]
    tokenizer = llama2c.read_tokenizer(llama2c.tokenizer_file(file, vocab_size), vocab_size)
    stored = {name: _in_memory(file, name, tensor) for name, tensor in tensors.items()}
    return LLAMA, model_config_from_hf(config, file), stored, tokenizer


def _in_memory(file: Path, name: str, tensor: Tensor) -> Stored:
    return Stored(file, name, tuple(tensor.shape), lambda: tensor)


# --- The tensors of a folder, by name -------------------------------------------------------------


def _stored_tensors(folder: Path) -> dict[str, Stored]:
    """All tensors in the weight files of a folder; no numbers are read yet where that can be."""
    found: dict[str, Stored] = {}
    for file in _weight_files(folder):
        _check_text(file)
        read = _safetensors if file.suffix == ".safetensors" else _pickled
        for each in read(file):
            if each.name in found:
                raise CheckpointError(f"{file}: tensor {_shown(each.name)} is in two files")
            found[each.name] = each
    return found


def _weight_files(folder: Path) -> list[Path]:
    for name in _FORMATS:
        file, index = folder / name, folder / f"{name}.index.json"
        if file.is_file():
            return [file]
        if index.is_file():
            return _shards(index)
    raise CheckpointError(f"no weights in {folder}: it needs {' or '.join(_FORMATS)}")


def _shards(index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        plain = all(Path(name).name == name for name in names)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} is damaged: it does not map tensors to files") from error
    if not plain:
        raise CheckpointError(f"{index} points outside its folder; do not use it")
    files = [index.with_name(name) for name in sorted(names)]
    for file in files:
        if not os.path.isfile(file):  # False, too, for a name that no file can have
            raise CheckpointError(f"{file} is missing, and {index.name} asks for it")
    return files


def _check_text(file: Path) -> None:
    """Refuse what often lies where weights should: a pointer, a web page, nothing."""
    with open(file, "rb") as opened:
        start = opened.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{file} is a Git LFS pointer, not the weights; run: git lfs pull")
    if start.lstrip()[:1] == b"<":
        raise CheckpointError(f"{file} is a web page, not weights; download it again")
    if not start:
        raise CheckpointError(f"{file} is empty; download it again")


def _safetensors(file: Path) -> Iterator[Stored]:
    try:
        opened = safe_open(file, framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        tensor = _lying_tensor(file)
        raise CheckpointError(
            f"{file} is damaged{tensor and f' at tensor {tensor}'}: {error}; get it again"
        ) from error
    for name in opened.keys():
        shape = tuple(opened.get_slice(name).get_shape())
        yield Stored(file, name, shape, lambda name=name: opened.get_tensor(name))


def _lying_tensor(file: Path) -> str:
    """The first tensor whose bytes are not in the file, or not behind those before it.

    `safetensors` has refused the header already; it does not always say at which tensor.
    """
    try:
        with open(file, "rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(min(length, 100_000_000)))
        header.pop("__metadata__", None)
        end_of_file, end = file.stat().st_size - 8 - length, 0
        for name, info in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            start, end_before, end = info["data_offsets"][0], end, info["data_offsets"][1]
            bits = int(re.sub(r"\D", "", info["dtype"].split("_")[0]) or 8)
            numbers = 1
            for size in info["shape"]:
                numbers *= size
            if start != end_before or end > end_of_file or 8 * (end - start) != numbers * bits:
                return _shown(name)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    return ""


def _shown(name: str) -> str:
    """A name from a file, fit for one line."""
    return name if name.isprintable() and len(name) < 200 else reprlib.repr(name)


def _pickled(file: Path) -> Iterator[Stored]:
    tensors = read_pickle(file, mapped=True)
    if not isinstance(tensors, dict):
        raise CheckpointError(f"{file} holds no dictionary of tensors")
    for name, tensor in tensors.items():
        plain = isinstance(name, str) and isinstance(tensor, Tensor)
        if not plain or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise CheckpointError(f"{file}: {reprlib.repr(name)} is no tensor with a name")
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{file}: tensor {_shown(name)} has fewer numbers than its shape says"
            )
        yield _in_memory(file, name, tensor)


# --- From their tensors to our parameters ---------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where a stored tensor goes: rows of a parameter of ours."""

    ours: str
    rows: slice
    transposed: bool
    stored: Stored


def _places(model: Transformer, family: Family, stored: dict[str, Stored]) -> list[Place]:
    """A place for every tensor and a tensor for every place; raises CheckpointError."""
    places, used = [], set()
    for ours, weight in model.named_parameters():
        for theirs, rows in family.pieces(ours, len(weight), model.config):
            found = _find(stored, theirs)
            shape = (rows.stop - rows.start, *weight.shape[1:])
            transposed = family.transposed(ours)
            _check_shape(found, shape[::-1] if transposed else shape)
            places.append(Place(ours, rows, transposed, found))
            used.add(theirs)
    for name, extra in stored.items():
        if name in used or re.fullmatch(family.buffers, name):
            continue
        if not (model.config.tied and name in family.their_names("head.weight")):
            raise CheckpointError(
                f"{extra.file}: tensor {_shown(extra.name)} has no place in a "
                f"{family.model_type} model of {model.config.n_layer} blocks as config.json has it"
            )
        _check_tied(extra, _find(stored, family.their_names("embedding.weight")[0]))
    return places


def _find(stored: dict[str, Stored], name: str) -> Stored:
    if name not in stored:
        files = {each.file for each in stored.values()}
        where = files.pop() if len(files) == 1 else files and files.pop().parent or "the file"
        raise CheckpointError(f"{where}: tensor {name} is missing")
    return stored[name]


def _check_shape(stored: Stored, shape: tuple[int, ...]) -> None:
    if stored.shape != shape:
        raise CheckpointError(
            f"{stored.file}: tensor {stored.name} has shape {list(stored.shape)} where "
            f"config.json asks for {list(shape)}"
        )


def _check_tied(head: Stored, embedding: Stored) -> None:
    """A tied head is often stored all the same; it must be what it is tied to."""
    _check_shape(head, embedding.shape)
    bits = [each.read().contiguous().view(torch.uint8) for each in (head, embedding)]  # NaN too
    if not torch.equal(*bits):
        raise CheckpointError(
            f"{head.file}: tensor {head.name} differs from {embedding.name}; config.json must "
            "say that they are not tied (tie_word_embeddings false)"
        )


def _fill(model: Transformer, places: list[Place], dtype: torch.dtype, device: str) -> None:
    """Give the model of shapes its memory, and copy tensor after tensor into it."""
    for module in model.modules():  # as `to_empty` would, which loads sympy for it
        for name, weight in list(module.named_parameters(recurse=False)):
            memory = torch.empty(weight.shape, dtype=dtype, device=device)
            setattr(module, name, torch.nn.Parameter(memory))
    if model.config.tied:  # which has torn them apart
        model.head.weight = model.embedding.weight
    if model.config.position == "rotary":
        tables = scaled_rotary_tables(model.config)
        model.cos, model.sin = (table.to(device) for table in tables)
    parameters = dict(model.named_parameters())
    for place in places:
        tensor, stored = place.stored.read(), place.stored
        if not tensor.is_floating_point():
            raise CheckpointError(f"{stored.file}: tensor {stored.name} holds {tensor.dtype}")
        part = parameters[place.ours].data[place.rows]
        part.copy_(tensor.T if place.transposed else tensor)
        if not part.isfinite().all():
            print(
                f"warning: {stored.file}: tensor {stored.name} holds NaN or infinite numbers",
                file=sys.stderr,
            )
