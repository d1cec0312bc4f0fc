"""Files of llama2.c: a Llama in one .bin, its tokenizer in another, both little-endian, as defined
by `export.py`, `run.c` and `tokenizer.py` of karpathy/llama2.c. Weights get the hub's names."""

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
_FIELDS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
           "num_key_value_heads", "vocab_size", "max_position_embeddings")  # fmt: skip
_SPECIAL = ["<unk>", "<s>", "</s>"]  # ids 0, 1, 2, under various names in the files
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]  # ids 3 to 258


def read_model(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The contents of config.json, and the tensors, of a model file of version 0 or 1 (float32).
    Tensors are mapped from the file, except for the matrices of queries and keys. CheckpointError:
    the header is invalid, or the file has another size than by its header."""
    size, start, version = file.stat().st_size, 28, 0
    with open(file, "rb") as opened:
        head = opened.read(256)
    if head[:4] == _MAGIC:
        start, version, head = 256, int.from_bytes(head[4:8], "little"), head[8:]
    if version > 1 or size < start:
        raise CheckpointError(f"{file}: {size} bytes of llama2.c version {version}, not 0 or 1")
    config = dict(zip(_FIELDS, struct.unpack_from("<7i", head)))
    tied = head[28] != 0 if version else config["vocab_size"] > 0
    config["vocab_size"] = abs(config["vocab_size"])
    C, F, L, H, K, V, T = config.values()
    if min(config.values()) < 1 or C % (2 * H) or H % K or L > 1024 or T > 2**20:
        raise CheckpointError(f"{file} is not a llama2.c model: its header has {config}")
    # Name and shape of every tensor, in the order of the file; those of all blocks are one.
    q, k = (L, C, C), (L, K * C // H, C)
    embedding, norm = {"model.embed_tokens": (V, C)}, {"model.norm": (C,)}
    attention_norm, mlp_norm = {"input_layernorm": (L, C)}, {"post_attention_layernorm": (L, C)}
    attention = {f"self_attn.{x}_proj": shape for x, shape in zip("qkvo", (q, k, k, q))}
    mlp = {"mlp.gate_proj": (L, F, C), "mlp.down_proj": (L, C, F), "mlp.up_proj": (L, F, C)}
    if version == 1:
        shapes = attention_norm | mlp_norm | norm | embedding | attention | mlp
    else:
        shapes = embedding | attention_norm | attention | mlp_norm | mlp | norm
        shapes |= dict.fromkeys(("cos", "sin"), (T, C // H // 2))
    shapes |= {} if tied else {"lm_head": (V, C)}
    sizes = [math.prod(shape) for shape in shapes.values()]
    if size != (right := start + 4 * sum(sizes)):
        raise CheckpointError(f"{file} has {size} bytes, by its header {right}: download it again")
    # Copy-on-write, because torch warns of read-only memory; nothing is ever written.
    values = torch.from_numpy(np.memmap(file, "<f4", mode="c", offset=start, shape=(sum(sizes),)))
    tensors = {}
    for (name, shape), part in zip(shapes.items(), values.split(sizes)):
        heads = {"self_attn.q_proj": H, "self_attn.k_proj": K}.get(name)
        if name.startswith(("model.", "lm_head")):
            tensors[f"{name}.weight"] = part.view(shape)
        elif name not in ("cos", "sin"):  # rotary tables: they are computed
            for layer, weight in enumerate(part.view(shape)):
                if heads is not None:  # rotary pairs, from (0, 1), (2, 3)... to (0, D/2), (1, ...)
                    weight = weight.view(heads, -1, 2, C).transpose(1, 2).reshape(-1, C)
                tensors[f"model.layers.{layer}.{name}.weight"] = weight
    constants = {"model_type": "llama", "rms_norm_eps": 1e-5, "rope_theta": 10000.0}
    return config | constants | {"tie_word_embeddings": tied}, tensors


def read_tokenizer(model: Path, vocab_size: int) -> PretrainedTokenizer:
    """The tokenizer beside a model file: SentencePiece's BPE with scores, as `run.c` encodes: space
    in front, bytes for characters without a token, highest score first. <s> begins and ends a
    story. CheckpointError: there is none, it has another size, or it is damaged."""
    names = (f"tok{vocab_size}.bin", "tokenizer.bin")
    file = next((model.with_name(n) for n in names if model.with_name(n).is_file()), None)
    if file is None:
        raise CheckpointError(f"{model} has no tokenizer: put {' or '.join(names)} beside it")
    tokens, scores = read_tokens(file, vocab_size)
    ids = {token: id for id, token in enumerate(tokens)}
    if len(ids) < vocab_size or tokens[3:259] != BYTES:
        raise CheckpointError(f"{file} is not a llama2.c tokenizer: equal tokens or missing bytes")
    # Best score first; the library, too, merges the leftmost of equal pairs.
    merges = sorted((-scores[id], id, cut) for id in range(259, vocab_size)
                    for cut in range(1, len(tokens[id]))
                    if tokens[id][:cut] in ids and tokens[id][cut:] in ids)  # fmt: skip
    pairs = [(tokens[id][:cut], tokens[id][cut:]) for _, id, cut in merges]
    bpe = models.BPE(vocab=ids, merges=pairs, unk_token=_SPECIAL[0], byte_fallback=True)
    backend = tokenizers.Tokenizer(bpe)
    backend.normalizer = normalizers.Prepend(" ")
    steps = [decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in _SPECIAL])
    templates = dict(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    backend.post_processor = processors.TemplateProcessing(**templates)
    return PretrainedTokenizer(backend, end_of_text="<s>")


def read_tokens(file: Path, vocab_size: int) -> tuple[list[str], list[float]]:
    """The tokens of a tokenizer file and their scores; raises CheckpointError."""
    damaged = f"{file} is damaged or not a llama2.c tokenizer of {vocab_size} tokens"
    try:
        data = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror or error}") from error
    tokens, scores, at = [], [], 4
    try:
        for _ in range(vocab_size):
            score, length = struct.unpack_from("<fi", data, at)
            token, at = data[at + 8 : at + 8 + length], at + 8 + length
            if length < 1 or len(token) < length or not math.isfinite(score):
                raise ValueError("invalid length or score")
            tokens.append(token.decode("utf-8"))
            scores.append(score)
    except (ValueError, struct.error) as error:
        raise CheckpointError(f"{damaged}: token {len(tokens)}: {error}") from error
    if at != len(data):
        raise CheckpointError(f"{damaged}: {len(data) - at} bytes are left over")
    return _SPECIAL + tokens[3:], scores
