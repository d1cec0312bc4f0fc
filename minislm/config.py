"""Every knob of the project: one dataclass field is one command-line flag with its help text.

A setting is taken from the preset, then from a run's own config, then from the flags; only the
flags that were typed count, so a default never overrides a run. No torch here: `--help` answers
at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
from dataclasses import dataclass, field
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from minislm.runtime.errors import UserError


def knob(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    minimum: float | None = None,
    above: float | None = None,
) -> Any:
    """A field with a flag: its value is at least `minimum`, or greater than `above`."""
    metadata = {"help": help, "choices": choices, "minimum": minimum, "above": above}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a transformer. The defaults are one block of Llama's kind."""

    n_layer: int = knob(1, "number of blocks", minimum=1)
    width: int = knob(256, "width of the residual stream", minimum=1)
    n_head: int = knob(8, "number of query heads", minimum=1)
    n_kv_head: int = knob(4, "number of key/value heads; 0: as many as query heads", minimum=0)
    head_dim: int = knob(0, "width of one head; 0: width / heads", minimum=0)
    mlp_width: int = knob(0, "width of the MLP; 0: 4 x width, or 8/3 when gated", minimum=0)
    context: int = knob(512, "longest text in tokens", minimum=1)
    norm: str = knob("rmsnorm", "normalisation", choices=("rmsnorm", "layernorm"))
    norm_eps: float = knob(1e-5, "added to the variance in a norm", minimum=0)
    position: str = knob("rotary", "kind of positions", choices=("rotary", "learned"))
    rope_theta: float = knob(10000.0, "base of the rotary frequencies", minimum=1)
    mlp: str = knob("gated_silu", "kind of MLP", choices=("gated_silu", "gelu"))
    qkv_bias: bool = knob(False, "biases on queries, keys and values")
    out_bias: bool = knob(False, "bias on the attention's output")
    mlp_bias: bool = knob(False, "biases in the MLP")
    attention_scale: bool = knob(True, "divide attention logits by sqrt(head width)")
    windows: tuple[int, ...] = knob(
        (0,), "local attention: tokens seen by each block, in turn; 0: all (GPT-Neo: 0,256)"
    )
    tied: bool = knob(True, "the head shares its weights with the embedding")
    dropout: float = knob(0.0, "share of activations dropped in training", minimum=0)
    # What is measured or read from a checkpoint, not chosen by a flag:
    vocab_size: int = 4096
    rope_scaling: dict | None = None

    def __post_init__(self) -> None:
        check(self)
        if self.width % self.n_head and not self.head_dim:
            raise UserError(
                f"width {self.width} is not a multiple of {self.n_head} heads; "
                "change --width or --n-head, or set --head-dim"
            )
        if self.n_head % self.kv_heads:
            raise UserError(
                f"{self.n_head} heads cannot share {self.kv_heads} key/value heads evenly; "
                "change --n-kv-head"
            )
        if self.position == "rotary" and self.head_width % 2:
            raise UserError(
                f"rotary positions need an even head width, not {self.head_width}; "
                "set --head-dim or --position learned"
            )
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
        if self.mlp_width:
            return self.mlp_width
        if self.mlp == "gelu":
            return 4 * self.width
        return 32 * math.ceil(self.width * 8 / 3 / 32)  # as many weights as the plain kind has

    def window_of(self, layer: int) -> int:
        """How many tokens block `layer` sees, itself included; 0 means all before it."""
        return self.windows[layer % len(self.windows)]


def check(config: Any) -> None:
    """Hold every knob of a dataclass against its choices and its minimum; raises UserError."""
    for each in dataclasses.fields(config):
        value, flag = getattr(config, each.name), flag_name(each.name)
        choices = each.metadata.get("choices")
        minimum, above = each.metadata.get("minimum"), each.metadata.get("above")
        if value is None:  # left open: decided where it is used
            continue
        if choices and value not in choices:
            raise UserError(f"{flag} must be one of {', '.join(choices)}, not {value!r}")
        if minimum is not None and not minimum <= value < math.inf:
            raise UserError(f"{flag} must be a number from {minimum:g} up, not {value}")
        if above is not None and not above < value < math.inf:
            raise UserError(f"{flag} must be a number above {above:g}, not {value}")


def _known(flag: str, value: str, choices: tuple[str, ...]) -> None:
    """Hold a list of names with commas against what there is; raises UserError."""
    for name in value.split(","):
        if name not in choices:
            raise UserError(f"{flag} takes {', '.join(choices)} with commas, not {name!r}")


def only_with(flags: argparse.Namespace, config: type, *leaders: str) -> None:
    """Refuse flags of a config that were typed without the one that they belong to."""
    typed = [each.name for each in dataclasses.fields(config) if hasattr(flags, each.name)]
    if typed and not any(hasattr(flags, leader) for leader in leaders):
        raise UserError(f"{flag_name(typed[0])} goes with {' or '.join(map(flag_name, leaders))}")


def flag_name(name: str) -> str:
    return "--" + name.replace("_", "-")


PRESETS: dict[str, dict[str, Any]] = {
    "one-block": {},
    "two-blocks": dict(
        n_layer=2, n_head=4, mlp_width=1024, qkv_bias=True, out_bias=True,
    ),
    "gpt2": dict(
        norm="layernorm", position="learned", mlp="gelu", n_kv_head=0,
        qkv_bias=True, out_bias=True, mlp_bias=True,
    ),
    "gpt-neo": dict(
        norm="layernorm", position="learned", mlp="gelu", n_kv_head=0,
        out_bias=True, mlp_bias=True, attention_scale=False, windows=(0, 256), n_layer=2,
    ),
    "tinystories-1m": dict(
        norm="layernorm", position="learned", mlp="gelu", n_kv_head=0, out_bias=True,
        mlp_bias=True, attention_scale=False, windows=(0, 256), n_layer=8, width=64, n_head=16,
    ),
}  # fmt: skip
# What a preset learns best with, where that is not the default.
RATES: dict[str, dict[str, Any]] = {
    "two-blocks": dict(learning_rate=0.010, matrix_rate=0.008, momentum=0.9),
}
# Sizes that a benchmark fills with random weights: the default block's, and those of two published
# models, all in GPT-2's form, which every peer reads (CTranslate2 does not read GPT-Neo's).
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
class DataConfig:
    """What is learned from."""

    data: str | None = knob(None, "text to learn from: a .txt or .parquet file, a folder of them, "
                            "or a data set of the hub (owner/name or owner/name/FILE); else "
                            "stories are generated")
    valid: str | None = knob(None, "validation text; else the data set's own, or one story in 20 "
                             "is held out")
    tasks: str = knob("auto", "pair tasks to train: names with commas, all, or none; auto: all "
                      "that fit the context and the model, none with --data")
    stories: int | None = knob(None, "how many stories to generate (default: 6000, or 2 where "
                               "--tasks names tasks)", minimum=0)
    vocab: int | None = knob(None, "tokens in the vocabulary (default: 4096 with --data, 2048 for "
                             "generated stories)", minimum=257)
    digits: str = knob("auto", "how numbers are tokenized; auto: merged for unary, else single",
                       choices=("auto", "single", "merged"))
    pair_share: float = knob(0.25, "share of the tokens learned from that are pairs", above=0)
    loss_on: str = knob("completion", "what of a pair is learned", choices=("completion", "all"))
    cache: str = knob("runs/cache", "folder of the token files")

    def __post_init__(self) -> None:
        check(self)
        if self.pair_share >= 1:
            raise UserError(f"--pair-share must be below 1, not {self.pair_share}")


@dataclass(frozen=True)
class TrainConfig:
    """How it is learned."""

    out: str | None = knob(None, "run folder (default: runs/PRESET, or the next free name)")
    preset: str = knob("one-block", "the model's shape to start from, and its rates",
                       choices=tuple(PRESETS))
    resume: bool = knob(False, "go on with the run in --out, or with the newest run")
    steps: int | None = knob(None, "optimizer steps to train for", minimum=1)
    minutes: float | None = knob(None, "minutes to train for (default where --steps is not given: "
                                 "3.5)", above=0)
    batch_tokens: int = knob(4096, "tokens in a batch", minimum=1)
    accumulate: int = knob(1, "batches added up for one step", minimum=1)
    optimizer: str = knob("muon", "muon: orthogonalised momentum for the blocks' matrices, AdamW "
                          "for the rest; adamw: for all", choices=("muon", "adamw"))
    learning_rate: float = knob(7e-3, "peak learning rate of AdamW", above=0)
    matrix_rate: float = knob(0.02, "peak learning rate of Muon", above=0)
    momentum: float = knob(0.95, "share of the past in Muon's averaged gradient", minimum=0)
    weight_decay: float = knob(0.1, "decay of the matrices", minimum=0)
    warmup: float = knob(0.02, "share of the training in which the rates rise", minimum=0)
    decay: float = knob(0.4, "share of the training, at its end, in which the rates fall",
                         above=0)  # fmt: skip
    clip: float = knob(1.0, "largest norm of the gradient", above=0)
    evals: int = knob(10, "how often the run is evaluated and saved", minimum=1)
    keep: int = knob(1, "how many of the last states are kept (the best weights always are)",
                     minimum=1)  # fmt: skip
    samples: int = knob(2, "how often a short sample is shown", minimum=0)
    seed: int = knob(0, "seed of everything random", minimum=0)
    device: str = knob("auto", "cpu, cuda, mps; auto: the best there is")
    compile: bool = knob(False, "compile the blocks in the first step (for a GPU: seconds "
                         "that longer runs earn back)")
    dtype: str = knob("auto", "of the matrix products; auto: bfloat16 where the machine is fast",
                      choices=("auto", "float32", "bfloat16"))
    threads: int | None = knob(None, "CPU threads (default: torch's choice)", minimum=1)
    processes: int = knob(1, "processes that train together and share the threads (as torchrun "
                          "does it)", minimum=1)  # fmt: skip
    json: str | None = knob(None, "write the result to this JSON file")

    def __post_init__(self) -> None:
        check(self)
        if self.momentum >= 1:
            raise UserError(f"--momentum must be below 1, not {self.momentum}")


@dataclass(frozen=True)
class SampleConfig:
    """How a text is continued."""

    max_new_tokens: int = knob(300, "tokens to add at most", minimum=1)
    temperature: float = knob(0.8, "0: always the likeliest token; 1: as the model thinks",
                              minimum=0)  # fmt: skip
    top_k: int = knob(0, "choose among the k likeliest tokens; 0: all", minimum=0)
    top_p: float = knob(1.0, "choose among the likeliest tokens that share this mass", minimum=0)
    min_p: float = knob(0.0, "choose among tokens at least this share as likely as the likeliest",
                        minimum=0)  # fmt: skip
    repetition_penalty: float = knob(1.0, "above 1: tokens of the text so far become less likely",
                                     above=0)  # fmt: skip
    min_new_tokens: int = knob(0, "tokens to add at least, before the end of text", minimum=0)
    stop: bool = knob(True, "stop at the end of text")
    stop_strings: tuple[str, ...] = ()  # the text ends before the first of these
    beams: int = knob(1, "more than 1: the likeliest text as a whole, by beam search", minimum=1)
    length_penalty: float = knob(1.0, "power of the length that a beam's score is divided by",
                                 minimum=-math.inf)  # fmt: skip
    logprobs: bool = knob(False, "give the log-probability of every token added")
    seed: int = knob(0, "seed of the random choices", minimum=0)

    def __post_init__(self) -> None:
        check(self)
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top-p must be above 0 and at most 1, not {self.top_p}")
        if self.min_p > 1:
            raise UserError(f"--min-p must be at most 1, not {self.min_p}")
        if "" in self.stop_strings:
            raise UserError("an empty stop string would end every text at once; leave it out")
        if self.beams > 1 and (self.repetition_penalty != 1 or self.logprobs):
            raise UserError("--beams goes with neither --repetition-penalty nor --logprobs")


_PRECISIONS = ("float32", "bfloat16", "float16", "int8")


@dataclass(frozen=True)
class MachineConfig:
    """Which model is opened, and where it runs."""

    device: str = knob("auto", "cpu, cuda, mps; auto: the best there is")
    dtype: str = knob("float32", "of the weights; int8: the large matrices, on a CPU",
                      choices=_PRECISIONS)
    threads: int | None = knob(None, "CPU threads (default: torch's choice)", minimum=1)
    json: str | None = knob(None, "write the result to this JSON file")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class EvalConfig:
    """What is measured."""

    data: str | None = knob(None, "text to measure the loss on (default: the run's own validation "
                            "text; for other models generated stories)")
    tasks: str = knob("auto", "pair tasks to ask: names with commas, all, or none; auto: those the "
                      "run was trained on")
    context: int | None = knob(None, "read texts in windows of at most this many tokens (default: "
                               "the model's context)", minimum=2)
    batch_size: int = knob(64, "prompts answered together", minimum=1)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class InspectConfig:
    """What --inspect and --off do."""

    inspect: str = knob("", "write a page that shows how a model reads this text: attention, "
                        "losses, neurons")
    page: str = knob("inspect.html", "the page's file; pictures are written beside it")
    off: str | None = knob(None, "switch parts off, such as head:0.3,neuron:0.117 (block, then "
                           "number), and see loss and text change; or inspect without them")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class ScoreConfig:
    """What --score does."""

    score: bool = knob(False, "grade what models say: grammar, creativity, consistency and "
                       "instruction-following, from 0 to 10")
    completions: int = knob(200, "texts that each model is asked for", minimum=16)
    prompts: str | None = knob(None, "beginnings to go on from, one a line (default: the "
                               "project's own 44)")
    grader: str | None = knob(None, "a model whose likelihood of the texts is told beside the "
                              "scores")
    human: str | None = knob(None, "a CSV file of texts that a person scored: hold the scores "
                             "against it (needs --grader)")
    sensitivity: bool = knob(False, "show what the scores do when texts are spoilt on purpose")
    judge: str | None = knob(None, "URL of an OpenAI-compatible endpoint that judges too, such as "
                             "http://localhost:8000/v1; its key is read from MINISLM_JUDGE_KEY")
    judge_model: str | None = knob(None, "name of the judge's model")
    judge_texts: int = knob(40, "texts of each model that the judge reads", minimum=1)
    judge_budget: int = knob(200_000, "tokens after which the judge is asked no more", minimum=1)

    def __post_init__(self) -> None:
        check(self)
        if (self.judge is None) != (self.judge_model is None):
            raise UserError("--judge and --judge-model go together; give both")
        if self.human is not None and self.grader is None:
            raise UserError("--human needs --grader: likelihood alone is one of the baselines")


STUDIES = ("verdict", "word-classes", "data", "hyperparameters")


@dataclass(frozen=True)
class StudyConfig:
    """What --study does."""

    study: str = knob("verdict", "run a study and write its report: verdict (reasoning or "
                      "heuristics?), word-classes, data, or hyperparameters", choices=STUDIES)
    quick: bool = knob(False, "a small version of a study, in under 3 minutes")
    seeds: int | None = knob(None, "runs of each kind (default: 8 in verdict, 3 elsewhere; 2 when "
                             "quick)", minimum=1)
    out: str | None = knob(None, "folder of a study's results, pictures and report (default: "
                           "runs/studies/NAME)")
    processes: int | None = knob(None, "runs at a time (default: one a core)", minimum=1)
    only: tuple[str, ...] = ()  # the tasks of --tasks; empty: those that the study is about
    beside: tuple[str, ...] = ()  # the models of --model: asked beside the study's own subjects

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class BenchmarkConfig:
    """What --benchmark measures."""

    batch_sizes: tuple[int, ...] = knob((1, 8, 64, 256), "prompts continued together")
    peers: bool = knob(False, "measure transformers and CTranslate2 too, where installed")
    shape: str = knob("one-block", "random weights of this shape are measured where --model is "
                      "not given", choices=tuple(SHAPES))
    modes: str = knob("greedy,top-k", "ways to choose a token: greedy, top-k, or both")
    precisions: str = knob(",".join(_PRECISIONS), "precisions to measure, of each engine those "
                           "that it has")
    rounds: int = knob(5, "measurements of each; the median counts", minimum=1)
    new_tokens: int = knob(200, "tokens asked for, of each prompt", minimum=2)
    chart: str | None = knob(None, "draw the figures into this PNG file")

    def __post_init__(self) -> None:
        check(self)
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise UserError(f"--batch-sizes takes numbers from 1 up, not {self.batch_sizes}")
        _known("--modes", self.modes, ("greedy", "top-k"))
        _known("--precisions", self.precisions, _PRECISIONS)


class Parser(argparse.ArgumentParser):
    """Flags made from dataclasses; a mistake is a UserError that knows the nearest flag."""

    def __init__(self, description: str, *configs: type):
        super().__init__(
            description=description,
            argument_default=argparse.SUPPRESS,  # so that only typed flags are in the result
            allow_abbrev=False,
        )
        for config in configs:
            self.add_config(config)

    def add_config(self, config: type) -> None:
        group = self.add_argument_group((config.__doc__ or "").splitlines()[0].rstrip("."))
        types = get_type_hints(config)
        for each in dataclasses.fields(config):
            if "help" not in each.metadata:
                continue
            shown = each.metadata["help"]
            if each.default is not None:
                shown += f" (default: {_shown(each.default)})"
            kind = next(iter(get_args(types[each.name])), types[each.name])  # int | None: int
            if kind is bool:
                action = argparse.BooleanOptionalAction
                group.add_argument(flag_name(each.name), action=action, help=shown)
                continue
            of = _numbers if isinstance(each.default, tuple) else kind
            choices, name = each.metadata["choices"] or None, each.name.upper()
            metavar = None if choices else name
            group.add_argument(
                flag_name(each.name), type=of, choices=choices, metavar=metavar, help=shown
            )

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split()[0]
        if unknown.startswith("--") and message.startswith("unrecognized"):
            known = [flag for action in self._actions for flag in action.option_strings]
            near = difflib.get_close_matches(unknown.split("=")[0], known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"unknown flag {unknown}{hint or '; see --help'}")
        raise UserError(f"{message}; see --help")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def build(config: type, flags: argparse.Namespace, base: dict[str, Any] | None = None) -> Any:
    """A config from `base` (a preset or a run's own settings), overridden by the typed flags."""
    names = {each.name for each in dataclasses.fields(config)}
    values = {name: value for name, value in (base or {}).items() if name in names}
    values |= {name: value for name, value in vars(flags).items() if name in names}
    return config(**values)


def to_dict(config: Any) -> dict[str, Any]:
    """A config as JSON can hold it."""
    return dataclasses.asdict(config)


def from_dict(config: type, values: dict[str, Any]) -> Any:
    """The config that `to_dict` made; lists become tuples again.

    Raises:
        UserError: an unknown setting, or a value of another type than the setting has.
    """
    names = {each.name for each in dataclasses.fields(config)}
    unknown = sorted(set(values) - names)
    if unknown:
        raise UserError(f"unknown setting {unknown[0]!r}; it was written by another version")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    types = get_type_hints(config)
    for name, value in values.items():
        if not _is_a(value, types[name]):
            raise UserError(f"{name} is {value!r:.60}, which it cannot be")
    return config(**values)


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value out of JSON is of a field's type: int, str | None, tuple[int, ...]..."""
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is_a(each, get_args(kind)[0]) for each in value)
    if get_args(kind):
        return any(_is_a(value, each) for each in get_args(kind))
    return type(value) in ((int, float) if kind is float else (kind,))
