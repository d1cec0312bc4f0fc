"""Small files of llama2.c for tests: a random model in both versions, and its tokenizer."""

from __future__ import annotations

import struct
from pathlib import Path

import torch

from minislm.pretrained.llama2c import BYTES

WORDS = (
    " t,he, the,in,ing,ca,at,cat, cat,aa,aaa,aaaa,  ,    ,\n\n,er,ere,there, there,é,éé,--,---"
).split(",")
C, F, L, H, K, T = 24, 40, 2, 6, 2, 64
V = 259 + len(set("".join(WORDS)) | {" "}) + sum(len(word) > 1 for word in WORDS)


def write_tokenizer_bin(file: Path, words: list[str] = WORDS) -> None:
    """A tokenizer.bin of the characters of `words`, and `words`, best first.

    Better tokens get higher ids, so that ids cannot pass for scores.
    """
    characters = sorted(set("".join(words)) | {" "})
    known = [*characters, *reversed([word for word in words if len(word) > 1])]
    tokens = ["<unk>", "\n<s>\n", "\n</s>\n", *BYTES, *known]
    scores = [0.0] * 259 + [float(n) for n in range(len(known))]
    data = struct.pack("<i", max(len(token.encode()) for token in tokens))
    for token, score in zip(tokens, scores, strict=True):
        data += struct.pack("<fi", score, len(token.encode())) + token.encode()
    file.write_bytes(data)


def write_llama2c(folder: Path) -> list[torch.Tensor]:
    """Write v0.bin, v1.bin and tokenizer.bin; the tensors of the model, in the order of v0.bin.

    Its head is not tied, and three query heads share a key/value head.
    """
    write_tokenizer_bin(folder / "tokenizer.bin")
    kv, generator = C // H * K, torch.Generator().manual_seed(3)
    shapes = [(V, C), (L, C), (L, C, C), (L, kv, C), (L, kv, C), (L, C, C), (L, C), (L, F, C),
              (L, C, F), (L, F, C), (C,), (T, C // H // 2), (T, C // H // 2), (V, C)]  # fmt: skip
    tensors = [torch.randn(shape, generator=generator) * 0.3 for shape in shapes]
    data = [tensor.numpy().tobytes() for tensor in tensors]
    (folder / "v0.bin").write_bytes(struct.pack("<7i", C, F, L, H, K, -V, T) + b"".join(data))
    # Version 1: the norms come first, and there are no rotary tables.
    header = struct.pack("<Ii7iB", 0x616B3432, 1, C, F, L, H, K, V, T, 0).ljust(256, b"\0")
    order = (1, 6, 10, 0, 2, 3, 4, 5, 7, 8, 9, 13)
    (folder / "v1.bin").write_bytes(header + b"".join(data[n] for n in order))
    return tensors
