"""Options of `sample.py --benchmark`."""

from dataclasses import dataclass

from minislm.config import check, option
from minislm.runtime.errors import UserError

PRECISIONS = ("float32", "bfloat16", "float16", "int8")
MODES = ("greedy", "top-k")
# Random weights of these shapes are measured: the sizes of the default block and of two published
# models, in GPT-2's architecture, which every other engine reads (CTranslate2 reads no GPT-Neo).
_PUBLISHED = dict(context=2048, vocab_size=50257)
SHAPES = {"one-block": dict(n_layer=1, width=256, n_head=8, context=512, vocab_size=4096),
          "tinystories-1layer-21m": dict(n_layer=1, width=1024, n_head=16) | _PUBLISHED,
          "tinystories-8m": dict(n_layer=8, width=256, n_head=16) | _PUBLISHED}  # fmt: skip


@dataclass(frozen=True)
class BenchmarkConfig:
    """Sampling throughput (--benchmark)."""

    batch_sizes: tuple[int, ...] = option((1, 8, 64, 256), "numbers of prompts continued together")
    peers: bool = option(False, "measure transformers, CTranslate2 and llama.cpp too")
    preset: str = option("one-block", "shape of the random weights, without --model",
                         choices=tuple(SHAPES))  # fmt: skip
    modes: str = option(",".join(MODES), "ways to sample: greedy, top-k, or both with a comma")
    precisions: str = option(",".join(PRECISIONS), "precisions, where an engine has them")
    rounds: int = option(5, "rounds of measurements; the median is reported", minimum=1)
    max_new_tokens: int = option(200, "new tokens of each prompt", minimum=2)
    out: str | None = option(None, "plot the speeds into this PNG file")

    def __post_init__(self) -> None:
        check(self)
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise UserError(f"--batch-sizes takes numbers from 1 up, not {self.batch_sizes}")
        for name, known in (("modes", MODES), ("precisions", PRECISIONS)):
            for value in getattr(self, name).split(","):
                if value not in known:
                    raise UserError(f"--{name} takes {', '.join(known)} with commas, not {value!r}")
