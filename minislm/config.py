"""The hyperparameters of the core: model, training and sampling, each a frozen dataclass.

A field made with `option` is also a command-line flag (see cli/options.py). Values are checked when
a config is made, so a wrong one is refused before any work. No torch here."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

from minislm.runtime.errors import UserError


def option(
    default: Any, help: str, *, choices: tuple[str, ...] = (), minimum: float | None = None,
    above: float | None = None, below: float = math.inf,
) -> Any:  # fmt: skip
    """A field with a flag; its value is at least `minimum`, or greater than `above`."""
    limits = {"choices": choices, "minimum": minimum, "above": above, "below": below}
    return field(default=default, metadata={"help": help} | limits)


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a transformer. The defaults are one Llama block."""

    n_layer: int = option(1, "number of blocks", minimum=1)
    width: int = option(256, "width of the residual stream", minimum=1)
    n_head: int = option(8, "number of query heads", minimum=1)
    n_kv_head: int = option(4, "number of key/value heads; 0: as many as query heads", minimum=0)
    head_dim: int = option(0, "width of one head; 0: width / heads", minimum=0)
    mlp_width: int = option(0, "width of the MLP; 0: 4 x width, or 8/3 x width if gated", minimum=0)
    context: int = option(512, "context length in tokens", minimum=1)
    norm: str = option("rmsnorm", "normalisation", choices=("rmsnorm", "layernorm"))
    position: str = option("rotary", "position encoding; run: rotary, by place in a number",
                           choices=("rotary", "learned", "none", "run"))  # fmt: skip
    mlp: str = option("gated_silu", "kind of MLP", choices=("gated_silu", "gelu"))
    qkv_bias: bool = option(False, "biases on queries, keys and values")
    out_bias: bool = option(False, "bias on the attention output")
    windows: tuple[int, ...] = option(
        (0,), "local attention: window of each block, repeated; 0: global (GPT-Neo: 0,256)"
    )
    tied: bool = option(True, "the head shares its weights with the embedding")
    dropout: float = option(0.0, "dropout rate in training", minimum=0)
    # Constants of a model family, or measured; not flags:
    mlp_bias: bool = False  # biases in the MLP
    rope_theta: float = 10000.0  # base of the rotary frequencies
    attention_scale: bool = True  # divide attention scores by sqrt(head width)
    norm_eps: float = 1e-5
    vocab_size: int = 4096
    run_tokens: tuple[int, ...] = ()  # with position run: the digits
    qk_scale: float = 0.0  # of normalised queries and keys; 0: they are not normalised
    null_cosine: float = 0.0  # similarity from which a query attends to a token; 0: none
    rope_scaling: dict | None = None

    def __post_init__(self) -> None:
        check(self)
        if self.width % self.n_head and not self.head_dim:
            raise UserError(f"width {self.width} is not a multiple of {self.n_head} heads; "
                            "change --width or --n-head, or set --head-dim")  # fmt: skip
        if self.n_head % self.kv_heads:
            raise UserError(f"{self.n_head} heads cannot share {self.kv_heads} key/value heads "
                            "evenly; change --n-kv-head")  # fmt: skip
        if self.position in ("rotary", "run") and self.head_width % 2:
            raise UserError(f"rotary positions need an even head width, not {self.head_width}; "
                            "set --head-dim or --position learned")  # fmt: skip
        if self.null_cosine and not self.qk_scale:
            raise UserError("null_cosine compares normalised keys; set qk_scale too")
        if not self.windows or min(self.windows) < 0:
            raise UserError(f"--windows takes numbers from 0 up, not {self.windows}")
        if self.dropout >= 1:
            raise UserError(f"--dropout must be below 1, not {self.dropout}")

    @property
    def kv_heads(self) -> int:
        return self.n_kv_head or self.n_head

    @property
    def head_width(self) -> int:
        return self.head_dim or self.width // self.n_head

    @property
    def mlp_hidden(self) -> int:
        gated = 32 * math.ceil(self.width * 8 / 3 / 32)  # about as many weights as 4 x, ungated
        return self.mlp_width or (gated if self.mlp == "gated_silu" else 4 * self.width)

    def window_of(self, layer: int) -> int:
        """How many tokens block `layer` attends to, itself included; 0: all before it."""
        return self.windows[layer % len(self.windows)]


_GPT = dict(norm="layernorm", position="learned", mlp="gelu", n_kv_head=0, out_bias=True,
            mlp_bias=True)  # fmt: skip
_GPT_NEO = _GPT | dict(attention_scale=False, windows=(0, 256))
PRESETS: dict[str, dict[str, Any]] = {
    "one-block": {},
    "two-blocks": dict(n_layer=2, n_head=4, mlp_width=1024, qkv_bias=True, out_bias=True),
    "gpt2": _GPT | dict(qkv_bias=True),
    "gpt-neo": _GPT_NEO | dict(n_layer=2),
    "tinystories-1m": _GPT_NEO | dict(n_layer=8, width=64, n_head=16),
    "unary": dict(width=64, n_head=4, n_kv_head=0, mlp="gelu", tied=False, context=9000,
                  position="run", rope_theta=10.0, qk_scale=18.0, null_cosine=0.7),
}  # fmt: skip
# Other settings of a preset, where the defaults are not the best measured.
PRESET_TRAINING: dict[str, dict[str, Any]] = {
    "two-blocks": dict(learning_rate=0.010, matrix_rate=0.008, momentum=0.9),
    "unary": dict(tasks="unary", vocab=257, steps=2400, batch_tokens=1024, learning_rate=3e-3,
                  matrix_rate=0.005, curriculum=0.5, dtype="float32", evals=1, samples=0),
}  # fmt: skip


@dataclass(frozen=True)
class TrainConfig:
    """Training."""

    steps: int | None = option(None, "optimizer steps", minimum=1)
    minutes: float | None = option(None, "minutes of training (default without --steps: 3.5)",
                                   above=0)  # fmt: skip
    batch_tokens: int = option(4096, "tokens in a batch", minimum=1)
    accumulate: int = option(1, "gradient accumulation: batches per step", minimum=1)
    optimizer: str = option("muon", "muon for the matrices of the blocks and AdamW for the rest; "
                            "or adamw for all", choices=("muon", "adamw"))  # fmt: skip
    learning_rate: float = option(7e-3, "peak learning rate of AdamW", above=0)
    matrix_rate: float = option(0.02, "peak learning rate of Muon", above=0)
    momentum: float = option(0.95, "momentum of Muon", minimum=0)
    weight_decay: float = option(0.1, "weight decay of the matrices", minimum=0)
    warmup: float = option(0.02, "fraction of training in which the rates rise", minimum=0)
    decay: float = option(0.4, "fraction of training, at its end, in which the rates fall", above=0)
    clip: float = option(1.0, "gradient clipping: largest norm", above=0)
    evals: int = option(10, "number of evaluations and saves", minimum=1)
    keep: int = option(1, "number of training states kept", minimum=1)
    seed: int = option(0, "random seed", minimum=0)
    curriculum: float = 0.0  # part of training in which pairs grow to the longest; 0: all at once

    def __post_init__(self) -> None:
        check(self)
        if self.momentum >= 1:
            raise UserError(f"--momentum must be below 1, not {self.momentum}")


@dataclass(frozen=True)
class SampleConfig:
    """Sampling."""

    max_new_tokens: int = option(300, "maximum number of new tokens", minimum=1)
    temperature: float = option(0.8, "sampling temperature; 0 is greedy decoding", minimum=0)
    top_k: int = option(0, "keep the k most probable tokens; 0: all", minimum=0)
    top_p: float = option(1.0, "nucleus sampling: keep the smallest set of tokens with cumulative "
                          "probability top_p", minimum=0)  # fmt: skip
    min_p: float = option(0.0, "keep tokens with at least this fraction of the highest probability",
                          minimum=0)  # fmt: skip
    repetition_penalty: float = option(1.0, "above 1: tokens seen so far become less probable",
                                       above=0)  # fmt: skip
    stop: bool = option(True, "stop at the end of text")
    stop_strings: tuple[str, ...] = ()  # a text ends before the first of these
    logprobs: bool = option(False, "return the log-probability of every new token")
    seed: int = option(0, "random seed", minimum=0)

    def __post_init__(self) -> None:
        check(self)
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top-p must be above 0 and at most 1, not {self.top_p}")
        if self.min_p > 1:
            raise UserError(f"--min-p must be at most 1, not {self.min_p}")
        if "" in self.stop_strings:
            raise UserError("an empty stop string would end every text at once; leave it out")


def check(config: Any) -> None:
    """Compare every option with its choices and limits; raises UserError naming the flag."""
    for each in fields(config):
        value, flag = getattr(config, each.name), flag_name(each.name)
        limits = each.metadata
        if value is None or not limits:
            continue
        if limits["choices"] and value not in limits["choices"]:
            raise UserError(f"{flag} must be one of {', '.join(limits['choices'])}, not {value!r}")
        low, below = limits["minimum"], limits["below"]
        if low is not None and not low <= value < below:
            raise UserError(f"{flag} must be at least {low:g} and below {below:g}, not {value}")
        if limits["above"] is not None and not limits["above"] < value < math.inf:
            raise UserError(f"{flag} must be a number above {limits['above']:g}, not {value}")


def flag_name(name: str) -> str:
    return "--" + name.replace("_", "-")
