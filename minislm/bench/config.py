"""Options of `sample.py --benchmark`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from minislm.config import PRESETS, check, option
from minislm.runtime.errors import UserError

PRECISIONS = ("float32", "bfloat16", "float16", "int8")
MODES = ("greedy", "top-k")
# Random weights of these shapes are measured: the default block's size and two published models',
# as GPT-2, which every other engine reads (CTranslate2 does not read GPT-Neo).
SHAPES: dict[str, dict[str, Any]] = {
    name: dict(n_layer=layers, width=width, n_head=heads, context=context, vocab_size=vocabulary)
    | PRESETS["gpt2"]
    for name, layers, width, heads, context, vocabulary in (
        ("one-block", 1, 256, 8, 512, 4096),
        ("tinystories-1layer-21m", 1, 1024, 16, 2048, 50257),
        ("tinystories-8m", 8, 256, 16, 2048, 50257),
    )
}


@dataclass(frozen=True)
class BenchmarkConfig:
    """Sampling throughput (--benchmark)."""

    batch_sizes: tuple[int, ...] = option((1, 8, 64, 256), "prompts continued together")
    peers: bool = option(False, "measure other engines too, where installed: transformers, "
                         "CTranslate2, llama.cpp")  # fmt: skip
    preset: str = option("one-block", "shape of the random weights, without --model",
                         choices=tuple(SHAPES))  # fmt: skip
    modes: str = option(",".join(MODES), "greedy, top-k, or both with a comma")
    precisions: str = option(",".join(PRECISIONS), "precisions to measure, of each engine those "
                             "that it supports")  # fmt: skip
    rounds: int = option(5, "measurements of each; the median counts", minimum=1)
    max_new_tokens: int = option(200, "new tokens of each prompt", minimum=2)
    out: str | None = option(None, "plot the figures into this PNG file")

    def __post_init__(self) -> None:
        check(self)
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise UserError(f"--batch-sizes takes numbers from 1 up, not {self.batch_sizes}")
        _known("--modes", self.modes, MODES)
        _known("--precisions", self.precisions, PRECISIONS)


def _known(flag: str, value: str, names: tuple[str, ...]) -> None:
    for name in value.split(","):
        if name not in names:
            raise UserError(f"{flag} takes {', '.join(names)} with commas, not {name!r}")
