"""A model and its tokenizer as data for web/engine.js: a JSON header and one block of bytes."""

import json
from typing import Any

import torch
from torch import Tensor

from minislm.interpret.ablation import Means
from minislm.model import Transformer
from minislm.runtime.errors import UserError
from minislm.runtime.unicode import TO_ASCII
from minislm.tokenizer import Tokenizer


def export(
    model: Transformer, tokenizer: Tokenizer, means: Means, precision: str = "int8"
) -> tuple[dict[str, Any], bytes]:
    """Header and bytes: matrices in `precision` (int8, bfloat16, float32), vectors in float32.
    UserError: a tokenizer that is not byte-level BPE as in GPT-2."""
    c, blob, tensors = model.config, bytearray(), []
    entries = dict(model.state_dict())
    if c.tied:
        entries.pop("head.weight")
    for layer in range(c.n_layer):
        entries[f"means.{layer}.heads"] = means.heads_LHD[layer]
        entries[f"means.{layer}.neurons"] = means.neurons_LF[layer]
    if c.position == "rotary":
        entries["frequencies"] = torch.atan2(model.sin[1], model.cos[1])[: c.head_width // 2]
    for name, tensor in entries.items():
        matrix = tensor.ndim == 2 and not name.startswith("means")
        kind = precision if matrix else "float32"
        rows = len(tensor) if matrix else 1
        tensors.append([name, kind, rows, tensor.numel() // rows, len(blob)])
        blob += _encoded(tensor.detach().float().cpu(), kind)
        blob += bytes(-len(blob) % 4)
    config = {
        "L": c.n_layer, "H": c.n_head, "K": c.kv_heads, "D": c.head_width, "C": c.width,
        "F": c.mlp_hidden, "V": c.vocab_size, "context": c.context, "tied": c.tied,
        "gated": c.mlp == "gated_silu", "norm_eps": c.norm_eps,
        "scale": model.blocks[0].attention.scale,
        "windows": [c.window_of(layer) for layer in range(c.n_layer)],
        "unused": [*tokenizer.unused_ids, *range(tokenizer.vocab_size, c.vocab_size)],
    }  # fmt: skip
    header = {"config": config, "tensors": tensors, "tokenizer": _tokenizer(tokenizer, blob)}
    return header, bytes(blob)


def _encoded(tensor: Tensor, kind: str) -> bytes:
    if kind == "float32":
        return tensor.numpy().astype("<f4").tobytes()
    if kind == "bfloat16":
        return tensor.bfloat16().view(torch.int16).numpy().astype("<i2").tobytes()
    codes, scales = quantize(tensor)
    return codes.numpy().tobytes() + scales.numpy().astype("<f4").tobytes()


def quantize(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8 with a scale per row: codes int8 [rows, columns] and scales float32 [rows].
    Of two scales, that of the largest weight and the power of two above it, each row takes the one
    with the smaller squared error: a row that is rounded to a power of two already stays exact."""
    largest = (matrix.abs().amax(1, keepdim=True) / 127).clamp(min=1e-30)
    scales = torch.stack((largest, torch.exp2(largest.log2().ceil())))
    codes = (matrix / scales).round().clamp(-127, 127)
    error = (codes * scales - matrix).square().sum(2, keepdim=True)
    codes, scales = (torch.where(error[1] < error[0], b, a) for a, b in (codes, scales))
    return codes.to(torch.int8), scales[:, 0]


def _tokenizer(tokenizer: Tokenizer, blob: bytearray) -> dict[str, Any]:
    """The tokenizer's header; its merges are added to the bytes, as pairs of ids."""
    whole = json.loads(tokenizer.backend.to_str())
    words, model = whole["pre_tokenizer"] or {}, whole["model"]
    steps = words.get("pretokenizers", [words])
    kinds = [step.get("type") for step in steps]
    digits = kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"]
    byte_level = steps[-1].get("use_regex", True) and not steps[-1].get("add_prefix_space")
    if not (digits or kinds == ["ByteLevel"]) or not byte_level or whole["normalizer"]:
        raise UserError("the page runs models with the byte-level BPE of this project or of GPT-2")
    vocab = [tokenizer.backend.id_to_token(token) for token in range(tokenizer.vocab_size)]
    ids = torch.tensor([[model["vocab"][part] for part in pair] for pair in model["merges"]])
    offset, clean = len(blob), None
    blob += ids.numpy().astype("<u2" if len(vocab) <= 1 << 16 else "<u4").tobytes()
    if getattr(tokenizer, "prepare", str) is not str:
        clean = {chr(code): text for code, text in TO_ASCII.items()}
    return {"vocab": vocab, "merges": len(ids), "offset": offset, "digits": bool(digits),
            "clean": clean, "end": tokenizer.eot_id,
            "bos": [*getattr(tokenizer, "bos_ids", [])]}  # fmt: skip
