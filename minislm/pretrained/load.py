"""Opens trained models: run folders, Hugging Face folders, models of the hub, files of llama2.c.
Weight files are not trusted: see README.md. Errors are one line that names file and tensor."""

import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from minislm.model import Transformer
from minislm.pretrained import llama2c
from minislm.pretrained.families import Family, describe, parse_config, read_config
from minislm.pretrained.rope import scaled_rotary_tables
from minislm.pretrained.tokenizers import load_tokenizer
from minislm.runtime.device import DTYPES, on_meta_device
from minislm.runtime.errors import CheckpointError, UserError, log
from minislm.runtime.files import read_text
from minislm.runtime.pickles import read_pickle
from minislm.tokenizer import Tokenizer

_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
          "pytorch_model.bin.index.json")  # fmt: skip
_WRAPPER = re.compile(r"\b(_orig_mod|(_\w+_)?module)\.")  # of torch.compile, DDP and FSDP
Tensors = dict[str, Tensor]  # of files, mapped into memory: values are read when they are used
Parts = list[tuple[str, slice, str, Tensor]]  # parameter, its rows, name and values of a tensor


def load(
    source: str | Path, *, dtype: str = "float32", device: str = "cpu", revision: str | None = None
) -> tuple[Transformer, Tokenizer]:
    """Open a trained model: the model, in eval mode, and its tokenizer.
    source: a run folder, Hugging Face folder or llama2.c .bin; else owner/name of the hub.
    dtype: float32, bfloat16 or float16; weights are converted one tensor at a time.
    device: as torch names it. revision: a branch, tag or commit of the hub.
    UserError: there is no such source; CheckpointError: it is there and cannot be used."""
    if dtype not in DTYPES:
        raise UserError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    file = Path(source)
    if file.is_file():
        if file.suffix != ".bin" or file.name.startswith(("pytorch_model", "adapter_")):
            part = describe([file], "a part of a model; give its folder")
            raise CheckpointError(f"{file}: {part}")
        _check_start(file)
        contents, stored = llama2c.read_model(file)
        tokenizer = llama2c.read_tokenizer(file, contents["vocab_size"])
        family, config = parse_config(contents)
    else:
        folder, tokenizer_folder = (file, file) if file.is_dir() else _fetch(str(source), revision)
        file, stored = _read_weights(folder)
        family, config = read_config(folder / "config.json")
        tokenizer = load_tokenizer(tokenizer_folder, folder)
    full = (family.prefix, "lm_head.")
    try:
        names = [_WRAPPER.sub("", name) for name in stored]
        names = [name if name.startswith(full) else family.prefix + name for name in names]
        if len(set(names)) < len(names):
            raise CheckpointError("two tensors have names that differ only in a prefix")
        stored = dict(zip(names, stored.values()))
        name = family.stored_names("embedding.weight")[0]
        _find(stored, name, (config.vocab_size, config.width))
        if tokenizer.vocab_size > config.vocab_size and not tokenizer.fits(config.vocab_size):
            rows = f"{config.vocab_size} rows, too few for the tokenizer's"
            tokens = f"{tokenizer.vocab_size} tokens; they do not belong together"
            raise CheckpointError(f"tensor {name} has {rows} {tokens}")
        # Rotary tables would be all that takes memory here: they are computed after the checks.
        context = config.context if config.position == "learned" else 1
        with on_meta_device():
            model = Transformer(replace(config, context=context, rope_scaling=None))
        model.config = config
        _fill(model, _match(model, family, stored), file, DTYPES[dtype], device)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error
    return model.eval(), tokenizer


def _fetch(source: str, revision: str | None) -> tuple[Path, Path]:
    """The folders of a hub model and of its tokenizer."""
    from minislm.pretrained import hub  # only here: importing huggingface_hub takes 0.2 s

    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source):
        raise UserError(f"{source} does not exist; give a folder, a .bin, or owner/name of the hub")
    try:
        return hub.fetch(source, revision)
    except UserError as error:
        raise UserError(f"there is no folder {source} here, and on the hub: {error}") from error


def _read_weights(folder: Path) -> tuple[Path, Tensors]:
    """The weight file, or the index of its shards, and all tensors; safetensors come first."""
    found = [folder / name for name in _FILES if (folder / name).is_file()]
    if not found:
        other = describe(folder.glob("*"), "check the path")
        raise CheckpointError(f"no weights in {folder} ({_FILES[0]} or {_FILES[2]}): {other}")
    tensors: Tensors = {}
    for file in _shards(found[0]) if found[0].suffix == ".json" else found[:1]:
        _check_start(file)
        read = _read_safetensors if file.suffix == ".safetensors" else _read_pickle
        for name, tensor in read(file).items():
            if name in tensors:
                raise CheckpointError(f"{file}: tensor {name} is in two files")
            tensors[name] = tensor
    return found[0], tensors


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(read_text(index))["weight_map"].values()))
        outside = any(Path(name).name != name for name in names)
    except Exception as error:  # whatever damaged JSON leads to
        raise CheckpointError(f"{index} is damaged: it does not map tensors to files") from error
    if outside:
        raise CheckpointError(f"{index} points outside its folder; do not use it")
    files = [index.with_name(name) for name in names]
    for file in files:
        if not os.path.isfile(file):  # False, too, for a name that no file can have
            raise CheckpointError(f"{file} is missing; {index.name} lists it")
    return files


def _check_start(file: Path) -> None:
    """Refuse what is often found in place of weights."""
    with open(file, "rb") as opened:
        start = opened.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{file} is a Git LFS pointer, not the weights; run: git lfs pull")
    if not start or start.lstrip()[:1] == b"<":
        raise CheckpointError(f"{file} is empty or a web page, not weights; download it again")


def _read_safetensors(file: Path) -> Tensors:
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        where = _damaged_tensor(file)
        raise CheckpointError(f"{file} is damaged{where}: {error}; download it again") from error


def _damaged_tensor(file: Path) -> str:
    """Names the first tensor with wrong offsets or size, which safetensors does not always do."""
    try:
        with open(file, "rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(min(length, 100_000_000)))
        header.pop("__metadata__", None)
        end_of_file, end = file.stat().st_size - 8 - length, 0
        for name, info in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            start, stop = info["data_offsets"]
            bits = int(re.sub(r"\D", "", info["dtype"].split("_")[0]) or 8)
            size = math.prod(map(int, info["shape"])) * bits / 8
            if start != end or stop > end_of_file or stop - start != size:
                return f" at tensor {name}"
            end = stop
    except Exception:  # whatever a damaged header leads to
        pass
    return ""


def _read_pickle(file: Path) -> Tensors:
    tensors = read_pickle(file, mapped=True)
    if not isinstance(tensors, dict):
        raise CheckpointError(f"{file} is not a dictionary of tensors")
    for name, tensor in tensors.items():
        plain = isinstance(name, str) and isinstance(tensor, Tensor)
        dense = plain and tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not dense or tensor.nbytes > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"{file}: {name!s:.200} is not a dense tensor; save a state_dict")
    return tensors


def _match(model: Transformer, family: Family, stored: Tensors) -> Parts:
    """Every slice of a parameter, and the tensor that has its values.
    CheckpointError: a tensor is missing, unexpected or of another shape."""
    parts: Parts = []
    for ours, weight in model.named_parameters():
        for name, rows, transposed in family.slices(ours, len(weight), model.config):
            shape = (rows.stop - rows.start, *weight.shape[1:])
            tensor = _find(stored, name, shape[::-1] if transposed else shape)
            parts.append((ours, rows, name, tensor.T if transposed else tensor))
    embedding = family.stored_names("embedding.weight")[0]
    for name in sorted(stored.keys() - {name for _, _, name, _ in parts}):
        if model.config.tied and name in family.stored_names("head.weight"):
            # It is often stored all the same. Compared as bytes, since NaN differs from NaN.
            pair = _find(stored, name, stored[embedding].shape), stored[embedding]
            if not torch.equal(*(tensor.contiguous().view(torch.uint8) for tensor in pair)):
                advice = "they must not be tied in config.json"
                raise CheckpointError(f"tensor {name} differs from {embedding}; {advice}")
        elif not re.fullmatch(family.buffers, name):
            shape = f"this is a {family.model_type} model of {model.config.n_layer} blocks"
            raise CheckpointError(f"tensor {name} is unexpected: by config.json {shape}")
    return parts


def _find(stored: Tensors, name: str, shape: tuple[int, ...]) -> Tensor:
    if name not in stored:
        tied = "; if it is that of the embedding, set tie_word_embeddings to true in config.json"
        raise CheckpointError(f"tensor {name} is missing{tied * name.endswith('head.weight')}")
    found = stored[name].shape
    if found != shape:
        raise CheckpointError(f"tensor {name} is {list(found)}, by config.json {list(shape)}")
    return stored[name]


@torch.no_grad()
def _fill(model: Transformer, parts: Parts, file: Path, dtype: torch.dtype, device: str) -> None:
    """Move a model from the meta device to its own, and read its values, tensor by tensor."""
    for module in model.modules():  # `to_empty` would import sympy for it
        for name, weight in list(module.named_parameters(recurse=False)):
            memory = torch.empty(weight.shape, dtype=dtype, device=device)
            setattr(module, name, nn.Parameter(memory))
    if model.config.tied:  # two parameters by now
        model.head.weight = model.embedding.weight
    if model.config.position in ("rotary", "run"):
        tables = scaled_rotary_tables(model.config)
        model.cos, model.sin = (table.to(device) for table in tables)
    parameters = dict(model.named_parameters())
    for ours, rows, name, tensor in parts:
        if not tensor.is_floating_point():
            raise CheckpointError(f"tensor {name} is of type {tensor.dtype}")
        part = parameters[ours][rows].copy_(tensor)
        if not part.isfinite().all():
            log(f"warning: {file}: tensor {name} has NaN or infinite values")
