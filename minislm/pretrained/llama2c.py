"""The files of llama2.c: a Llama in one .bin, its tokenizer in another.

Both formats are little-endian, as `export.py`, `run.c` and `tokenizer.py` of karpathy/llama2.c
define them. Weights come out under Hugging Face's names, so that what reads a Llama reads these.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, normalizers, processors
from torch import Tensor

from minislm.pretrained.tokenizers import PretrainedTokenizer
from minislm.runtime.errors import CheckpointError

_MAGIC = b"24ka"  # "ak42" as a little-endian number; version 0 has no magic
_FIELDS = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "max_seq_len")

_SPECIAL = ("<unk>", "<s>", "</s>")  # ids 0, 1, 2, spelt in various ways in the files
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]  # ids 3 to 258


def read_model(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A model file of version 0 or 1 (float32).

    Returns:
        The config.json that Hugging Face's Llama would have, and its tensors: mapped from the file,
        but for the queries' and keys' matrices.

    Raises:
        CheckpointError: the header makes no sense, or the file has another size than it says.
    """
    size, head = file.stat().st_size, _head(file)
    start, version = 28, 0
    if head[:4] == _MAGIC:
        start, version = 256, int.from_bytes(head[4:8], "little")
        if version != 1 or len(head) < start:
            raise CheckpointError(f"{file}: llama2.c version {version}; minislm reads 0 and 1")
        head = head[8:]
    if len(head) < 28:
        raise CheckpointError(f"{file} is no llama2.c model: it has only {size} bytes")
    shape = dict(zip(_FIELDS, struct.unpack_from("<7i", head), strict=True))
    tied = shape["vocab_size"] > 0 if version == 0 else head[28] != 0
    shape["vocab_size"] = abs(shape["vocab_size"])
    _check_header(file, shape)

    layout = _layout(shape, tied, version)
    floats = sum(math.prod(dims) for _, dims in layout)
    if size != start + 4 * floats:
        raise CheckpointError(
            f"{file} has {size} bytes where its header asks for {start + 4 * floats}: "
            "it is damaged or no llama2.c model; get it again"
        )
    # Copy-on-write, because torch warns of read-only memory; nothing is ever written.
    numbers = torch.from_numpy(np.memmap(file, "<f4", mode="c", offset=start, shape=(floats,)))
    tensors = {}
    parts = numbers.split([math.prod(dims) for _, dims in layout])
    for (name, dims), part in zip(layout, parts, strict=True):
        tensors |= _named(name, part.view(dims), shape)
    return _config(shape, tied), tensors


def _head(file: Path) -> bytes:
    with open(file, "rb") as opened:
        return opened.read(256)


def _check_header(file: Path, shape: dict[str, int]) -> None:
    heads, kv_heads = shape["n_heads"], shape["n_kv_heads"]
    if (
        min(shape.values()) < 1
        or shape["dim"] % (2 * heads)
        or heads % kv_heads
        or shape["n_layers"] > 1024
    ):
        values = ", ".join(f"{name} {value}" for name, value in shape.items())
        raise CheckpointError(f"{file} is no llama2.c model: its header says {values}")


def _layout(shape: dict[str, int], tied: bool, version: int) -> list[tuple[str, tuple]]:
    """Every tensor in the order of the file; those of all blocks lie together."""
    C, F, L, V = (shape[name] for name in ("dim", "hidden_dim", "n_layers", "vocab_size"))
    T, D = shape["max_seq_len"], C // shape["n_heads"]
    kv = D * shape["n_kv_heads"]
    embedding, norm = ("model.embed_tokens", (V, C)), ("model.norm", (C,))
    attention_norm, mlp_norm = ("input_layernorm", (L, C)), ("post_attention_layernorm", (L, C))
    attention = [
        ("self_attn.q_proj", (L, C, C)),
        ("self_attn.k_proj", (L, kv, C)),
        ("self_attn.v_proj", (L, kv, C)),
        ("self_attn.o_proj", (L, C, C)),
    ]
    mlp = [
        ("mlp.gate_proj", (L, F, C)),
        ("mlp.down_proj", (L, C, F)),
        ("mlp.up_proj", (L, F, C)),
    ]
    head = [] if tied else [("lm_head", (V, C))]
    if version == 1:
        return [attention_norm, mlp_norm, norm, embedding, *attention, *mlp, *head]
    rotary = [("cos", (T, D // 2)), ("sin", (T, D // 2))]  # no longer read: they can be computed
    return [embedding, attention_norm, *attention, mlp_norm, *mlp, norm, *rotary, *head]


def _named(name: str, tensor: Tensor, shape: dict[str, int]) -> dict[str, Tensor]:
    """The tensors of one kind, by Hugging Face's names and in its order of rows."""
    if name in ("cos", "sin"):
        return {}
    if name.startswith(("model.", "lm_head")):
        return {f"{name}.weight": tensor}
    heads = {"self_attn.q_proj": "n_heads", "self_attn.k_proj": "n_kv_heads"}.get(name)
    rows = list(tensor)
    if heads is not None:
        rows = [_halves(row, shape[heads]) for row in rows]
    return {f"model.layers.{i}.{name}.weight": row for i, row in enumerate(rows)}


def _halves(weight: Tensor, heads: int) -> Tensor:
    """Rotary pairs from neighbours, (0, 1), (2, 3)..., to halves, (0, D/2), (1, D/2 + 1)..."""
    rows, columns = weight.shape
    pairs = weight.view(heads, rows // heads // 2, 2, columns)
    return pairs.transpose(1, 2).reshape(rows, columns)


def _config(shape: dict[str, int], tied: bool) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": shape["dim"],
        "intermediate_size": shape["hidden_dim"],
        "num_hidden_layers": shape["n_layers"],
        "num_attention_heads": shape["n_heads"],
        "num_key_value_heads": shape["n_kv_heads"],
        "vocab_size": shape["vocab_size"],
        "max_position_embeddings": shape["max_seq_len"],
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
    }


def tokenizer_file(model: Path, vocab_size: int) -> Path:
    """The tokenizer beside a model file: tok512.bin for 512 tokens, or tokenizer.bin."""
    names = (f"tok{vocab_size}.bin", "tokenizer.bin")
    found = [model.with_name(name) for name in names if model.with_name(name).is_file()]
    if not found:
        raise CheckpointError(f"{model} has no tokenizer: put {' or '.join(names)} beside it")
    return found[0]


def read_tokenizer(file: Path, vocab_size: int) -> PretrainedTokenizer:
    """A tokenizer file: SentencePiece's BPE with scores, as `run.c` encodes.

    A text gets a space in front, characters without a token become bytes, and of all neighbours
    that make up a token those with the highest score are merged first. The token that begins a
    story, <s>, also ends it, as `run.c` has it.

    Raises:
        CheckpointError: another size than `vocab_size` pieces take, or no such tokenizer.
    """
    pieces, scores = _read_pieces(file, vocab_size)
    ids = {piece: id for id, piece in enumerate(pieces)}
    if len(ids) < vocab_size or pieces[3:259] != _BYTES:
        raise CheckpointError(
            f"{file} is no llama2.c tokenizer: two tokens are alike, or 3 to 258 are not the bytes"
        )
    # Best score first; the library, too, merges the leftmost of equal pairs.
    merges = [
        (-scores[id], id, piece[:cut], piece[cut:])
        for id, piece in enumerate(pieces[259:], start=259)
        for cut in range(1, len(piece))
        if piece[:cut] in ids and piece[cut:] in ids
    ]
    merges.sort(key=lambda merge: merge[:2])
    backend = tokenizers.Tokenizer(
        models.BPE(
            vocab=ids,
            merges=[(left, right) for _, _, left, right in merges],
            unk_token=_SPECIAL[0],
            byte_fallback=True,
        )
    )
    backend.normalizer = normalizers.Prepend(" ")
    backend.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = [AddedToken(token, special=True, normalized=False) for token in _SPECIAL]
    backend.add_special_tokens(special)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return PretrainedTokenizer(backend, end_of_text="<s>")


def _read_pieces(file: Path, vocab_size: int) -> tuple[list[str], list[float]]:
    damaged = f"{file} is damaged or no llama2.c tokenizer of {vocab_size} tokens"
    if vocab_size < 259:
        raise CheckpointError(f"{file}: {vocab_size} tokens cannot hold all 256 bytes")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror or error}") from error
    pieces, scores, at = list(_SPECIAL), [0.0] * len(_SPECIAL), 4
    for id in range(vocab_size):
        if at + 8 > len(data):
            raise CheckpointError(f"{damaged}: it ends at token {id}")
        score, length = struct.unpack_from("<fi", data, at)
        piece = data[at + 8 : at + 8 + length]
        if length < 1 or len(piece) < length or not math.isfinite(score):
            raise CheckpointError(f"{damaged}: token {id} makes no sense")
        at += 8 + length
        if id < len(_SPECIAL):
            continue
        try:
            pieces.append(piece.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{damaged}: token {id} is not UTF-8") from error
        scores.append(score)
    if at != len(data):
        raise CheckpointError(f"{damaged}: {len(data) - at} bytes are left over")
    return pieces, scores
