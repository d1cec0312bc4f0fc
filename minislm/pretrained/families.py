"""The published families, as tables: their words beside ours, in config.json and in weight files.

A `Family` says how one of them spells the knobs of `ModelConfig` and the parameters of
`Transformer`. What it cannot spell it is not: `family_of` picks the first whose config.json reads
back as the same model.
"""

from __future__ import annotations

import dataclasses
import json
import re
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from minislm.config import ModelConfig
from minislm.runtime.errors import CheckpointError, UserError

REQUIRED = object()  # a key that config.json must have

# Far beyond every model, and small enough that a damaged config.json does no harm: what grows with
# these is made before the weight file is held against them.
_MOST = {"n_layer": 1024, "n_head": 2**16, "head_dim": 2**16, "mlp_width": 2**24, "context": 2**20}

_KINDS = get_type_hints(ModelConfig)
_KIND_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
# What each kind of rotary scaling is told, in Hugging Face's words, which are ours too.
_ROPE_SCALING = {
    "linear": ("factor",),
    "llama3": (
        "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """One family's words.

    Attributes:
        model_type, architecture: its names in config.json.
        fields: our knob -> (its key, the value where the key is absent).
        knobs: the knobs all its models share.
        only: keys whose values we compute, the usual first; a model with another is refused.
        copies: further keys written for other readers -> the knob they repeat.
        prefix: what stands before its tensor names, except in files of a model without a head.
        modules: our module -> its modules, stacked along the output axis; {} is the block.
        conv1d: matrices of the blocks are stored [in, out].
        buffers: tensors in its files that are no weights.
    """

    model_type: str
    architecture: str
    fields: Mapping[str, tuple[str, Any]]
    knobs: Mapping[str, Any] = field(default_factory=dict)
    only: Mapping[str, tuple] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    modules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    conv1d: bool = False
    buffers: str = "(?!)"  # matches nothing

    def their_names(self, ours: str) -> tuple[str, ...]:
        """The tensors that one parameter of ours is stacked from."""
        if not self.modules:
            return (ours,)
        module, _, kind = ours.rpartition(".")
        block = re.search(r"\d+", module)
        theirs = self.modules[re.sub(r"\d+", "{}", module)]
        return tuple(f"{name.format(block and block[0])}.{kind}" for name in theirs)

    def pieces(self, ours: str, rows: int, config: ModelConfig) -> list[tuple[str, slice]]:
        """The same tensors, each with its rows of our parameter."""
        names = self.their_names(ours)
        sizes = [rows // len(names)] * len(names)
        if len(names) == 3:  # queries, keys, values
            q, kv = config.n_head * config.head_width, config.kv_heads * config.head_width
            sizes = [q, kv, kv]
        ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
        rows_of = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        return list(zip(names, rows_of, strict=True))

    def transposed(self, ours: str) -> bool:
        return self.conv1d and bool(re.search(r"(qkv|out|up|down)\.weight$", ours))

    def full_name(self, stored: str) -> str:
        """A stored name with its prefix: files of a model without a head leave it out."""
        return stored if stored.startswith((self.prefix, "lm_head.")) else self.prefix + stored


def _per_block(prefix: str, modules: dict[str, str | tuple[str, ...]]) -> dict[str, tuple]:
    names = {ours: (name,) if isinstance(name, str) else name for ours, name in modules.items()}
    return {
        f"blocks.{{}}.{ours}": tuple(f"{prefix}.{{}}.{name}" for name in theirs)
        for ours, theirs in names.items()
    }


_GPT_ENDS = {
    "embedding": ("transformer.wte",),
    "position": ("transformer.wpe",),
    "norm": ("transformer.ln_f",),
    "head": ("lm_head",),
}
_GPT_KNOBS = dict(
    norm="layernorm", position="learned", mlp="gelu", out_bias=True, mlp_bias=True,
)  # fmt: skip
_GELU = ("gelu_new", "gelu_fast", "gelu_pytorch_tanh")  # names of one function

GPT2 = Family(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    fields={
        "n_layer": ("n_layer", REQUIRED),
        "width": ("n_embd", REQUIRED),
        "n_head": ("n_head", REQUIRED),
        "mlp_width": ("n_inner", 0),
        "context": ("n_positions", 1024),
        "norm_eps": ("layer_norm_epsilon", 1e-5),
        "attention_scale": ("scale_attn_weights", True),
        "tied": ("tie_word_embeddings", True),
        "dropout": ("resid_pdrop", 0.1),
        "vocab_size": ("vocab_size", REQUIRED),
    },
    knobs=_GPT_KNOBS | dict(n_kv_head=0, qkv_bias=True),
    only={
        "activation_function": _GELU,
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    copies={"n_ctx": "context", "embd_pdrop": "dropout", "attn_pdrop": "dropout"},
    prefix="transformer.",
    modules=_GPT_ENDS
    | _per_block(
        "transformer.h",
        {
            "attention_norm": "ln_1",
            "attention.qkv": "attn.c_attn",
            "attention.out": "attn.c_proj",
            "mlp_norm": "ln_2",
            "mlp.up": "mlp.c_fc",
            "mlp.down": "mlp.c_proj",
        },
    ),
    conv1d=True,
    buffers=r"transformer\.h\.\d+\.attn\.(masked_)?bias",
)

# The published TinyStories models hold 2048 positions, all of which are read; those from 512 on
# were never trained, so texts should end before.
GPT_NEO = Family(
    model_type="gpt_neo",
    architecture="GPTNeoForCausalLM",
    fields={
        "n_layer": ("num_layers", REQUIRED),
        "width": ("hidden_size", REQUIRED),
        "n_head": ("num_heads", REQUIRED),
        "mlp_width": ("intermediate_size", 0),
        "context": ("max_position_embeddings", 2048),
        "norm_eps": ("layer_norm_epsilon", 1e-5),
        "tied": ("tie_word_embeddings", True),
        "dropout": ("resid_dropout", 0.0),
        "vocab_size": ("vocab_size", REQUIRED),
    },
    knobs=_GPT_KNOBS | dict(n_kv_head=0, qkv_bias=False, attention_scale=False),
    only={"activation_function": _GELU},
    copies={"embed_dropout": "dropout", "attention_dropout": "dropout"},
    prefix="transformer.",
    modules=_GPT_ENDS
    | _per_block(
        "transformer.h",
        {
            "attention_norm": "ln_1",
            "attention.qkv": tuple(f"attn.attention.{x}_proj" for x in "qkv"),
            "attention.out": "attn.attention.out_proj",
            "mlp_norm": "ln_2",
            "mlp.up": "mlp.c_fc",
            "mlp.down": "mlp.c_proj",
        },
    ),
    buffers=r"transformer\.h\.\d+\.attn\.attention\.(masked_)?bias",
)

LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    fields={
        "n_layer": ("num_hidden_layers", REQUIRED),
        "width": ("hidden_size", REQUIRED),
        "n_head": ("num_attention_heads", REQUIRED),
        "n_kv_head": ("num_key_value_heads", 0),
        "head_dim": ("head_dim", 0),
        "mlp_width": ("intermediate_size", REQUIRED),
        "context": ("max_position_embeddings", 2048),
        "norm_eps": ("rms_norm_eps", 1e-6),
        "qkv_bias": ("attention_bias", False),
        "out_bias": ("attention_bias", False),
        "mlp_bias": ("mlp_bias", False),
        "tied": ("tie_word_embeddings", False),
        "dropout": ("attention_dropout", 0.0),
        "vocab_size": ("vocab_size", REQUIRED),
    },
    knobs=dict(norm="rmsnorm", position="rotary", mlp="gated_silu"),
    only={"hidden_act": ("silu", "swish")},
    prefix="model.",
    modules={"embedding": ("model.embed_tokens",), "norm": ("model.norm",), "head": ("lm_head",)}
    | _per_block(
        "model.layers",
        {
            "attention_norm": "input_layernorm",
            "attention.qkv": tuple(f"self_attn.{x}_proj" for x in "qkv"),
            "attention.out": "self_attn.o_proj",
            "mlp_norm": "post_attention_layernorm",
            "mlp.up": ("mlp.gate_proj", "mlp.up_proj"),
            "mlp.down": "mlp.down_proj",
        },
    ),
    buffers=r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",
)

# Any combination of knobs, in our own words.
OWN = Family(
    model_type="minislm",
    architecture="",
    fields={
        name: (name, REQUIRED) for name in _KINDS if name not in ("windows", "rope_scaling")
    },
)  # fmt: skip

FAMILIES = {family.model_type: family for family in (LLAMA, GPT2, GPT_NEO, OWN)}


def read_config(file: Path) -> tuple[Family, ModelConfig]:
    """The family and the shape that a config.json describes; raises CheckpointError."""
    if file.exists() and not file.is_file():  # a pipe would keep us waiting
        raise CheckpointError(f"{file} is not a regular file")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(f"cannot read {file}: {reason}; is it a model folder?") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not JSON ({error}); get it again") from error
    return family_named(config, file), model_config_from_hf(config, file)


def family_named(config: Any, where: str | Path) -> Family:
    """The family that a config.json names; raises CheckpointError for others."""
    if not isinstance(config, dict):
        raise CheckpointError(f"{where} is not a JSON object; is it the config.json of a model?")
    name = config.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise CheckpointError(
            f"{where}: unknown architecture (model_type {reprlib.repr(name)}); "
            f"minislm reads {', '.join(FAMILIES)}"
        )
    return FAMILIES[name]


def model_config_from_hf(config: dict[str, Any], where: str | Path) -> ModelConfig:
    """The shape that the contents of a config.json describe.

    Args:
        config: the parsed config.json.
        where: named in errors.

    Raises:
        CheckpointError: an unknown architecture, a missing or ill-typed value, or a model that
            differs from what `Transformer` computes.
    """
    family = family_named(config, where)
    for key, values in family.only.items():
        if config.get(key, values[0]) not in values:
            raise CheckpointError(
                f"{where}: {key} is {reprlib.repr(config[key])}; "
                f"minislm computes only {values[0]!r}"
            )
    if config.get("quantization_config"):
        raise CheckpointError(f"{where}: the weights are quantized; get the unquantized model")
    knobs = dict(family.knobs)
    for knob, (key, default) in family.fields.items():
        knobs[knob] = _value(config, key, _KINDS[knob], default, where)
    if knobs["vocab_size"] < 1:
        raise CheckpointError(f"{where}: vocab_size is {knobs['vocab_size']}")
    for knob, most in _MOST.items():
        if knobs.get(knob, 0) > most:
            key = family.fields[knob][0]
            raise CheckpointError(f"{where}: {key} is {knobs[knob]}; minislm takes {most} at most")
    if knobs["position"] == "rotary":
        knobs |= _rope(config, where)
    knobs["windows"] = _windows(family, config, knobs, where)
    try:
        return ModelConfig(**knobs)
    except UserError as error:
        raise CheckpointError(f"{where} describes no model: {error}") from error


def _value(config: dict, key: str, kind: type, default: Any, where: str | Path) -> Any:
    value = config.get(key)
    if value is None:
        if default is REQUIRED:
            raise CheckpointError(f"{where}: {key} is missing")
        return default
    right = isinstance(value, (int, float) if kind is float else kind)
    if kind in (int, float):
        right = right and not isinstance(value, bool) and abs(value) < 2**63
    if not right:
        raise CheckpointError(f"{where}: {key} is {reprlib.repr(value)}, not {_KIND_NAMES[kind]}")
    return kind(value)


def _rope(config: dict, where: str | Path) -> dict[str, Any]:
    """Base and scaling of the rotary frequencies, in transformers 5's spelling or the older one."""
    key = "rope_parameters" if config.get("rope_parameters") else "rope_scaling"
    given = config.get(key) or {}
    if not isinstance(given, dict):
        raise CheckpointError(f"{where}: {key} is {reprlib.repr(given)}, not an object")
    either = config | given
    partial = either.get("partial_rotary_factor")
    if partial not in (None, 1):
        raise CheckpointError(f"{where}: partial_rotary_factor is {reprlib.repr(partial)}, not 1")
    theta = _value(either, "rope_theta", float, 10000.0, where)
    kind = given.get("rope_type", given.get("type", "default"))
    if kind in ("default", None):
        return {"rope_theta": theta, "rope_scaling": None}
    if not isinstance(kind, str) or kind not in _ROPE_SCALING:
        raise CheckpointError(
            f"{where}: rotary scaling {reprlib.repr(kind)} is unknown to minislm; "
            f"it computes {', '.join(_ROPE_SCALING)}"
        )
    scaling = {
        name: _value(given, name, int if name.startswith("original") else float, REQUIRED, where)
        for name in _ROPE_SCALING[kind]
    }
    if min(scaling.values()) <= 0 or (
        kind == "llama3" and scaling["high_freq_factor"] <= scaling["low_freq_factor"]
    ):
        raise CheckpointError(f"{where}: {key} {reprlib.repr(scaling)} makes no sense")
    return {"rope_theta": theta, "rope_scaling": {"rope_type": kind} | scaling}


def _windows(family: Family, config: dict, knobs: dict, where: str | Path) -> tuple[int, ...]:
    """How many tokens each block sees, as its shortest repeating pattern."""
    if family is OWN:
        windows = config.get("windows")
        if not (isinstance(windows, list) and windows and all(type(w) is int for w in windows)):
            raise CheckpointError(f"{where}: windows is {reprlib.repr(windows)}, not numbers")
        return tuple(windows)
    if family is not GPT_NEO:
        return (0,)
    window = _value(config, "window_size", int, 256, where)
    if window < 1:
        raise CheckpointError(f"{where}: window_size is {window}")
    # A window that holds the whole context hides nothing.
    size_of = {"global": 0, "local": window if window < knobs["context"] else 0}
    try:
        layers = config.get("attention_layers")
        if (types := config.get("attention_types")) is not None:
            times = [min(count, knobs["n_layer"] + 1) for _, count in types]
            layers = [name for (names, _), n in zip(types, times) for name in names * n]
        sizes = [size_of[name] for name in layers]
        if len(sizes) != knobs["n_layer"]:
            raise ValueError("another number of blocks")
    except (TypeError, ValueError, LookupError) as error:
        raise CheckpointError(
            f"{where}: attention_types does not say global or local for each of the "
            f"{knobs['n_layer']} blocks"
        ) from error
    periods = range(1, len(sizes) + 1)
    period = next(n for n in periods if all(a == b for a, b in zip(sizes, sizes[n:])))
    return tuple(sizes[:period])


def hf_config(config: ModelConfig, eot_id: int, bos_id: int | None = None) -> dict[str, Any]:
    """The contents of config.json, in the words of the family that `config` belongs to.

    Args:
        config: the model's shape.
        eot_id: the token that ends a text (and pads).
        bos_id: the token that begins one; None: `eot_id`.
    """
    ids = {
        "bos_token_id": eot_id if bos_id is None else bos_id,
        "eos_token_id": eot_id,
        "pad_token_id": eot_id,
    }
    return _written(family_of(config), config) | ids


def family_of(config: ModelConfig) -> Family:
    """The first published family that can say all that `config` says, else our own."""
    for family in (LLAMA, GPT2, GPT_NEO):
        if config.width % config.n_head:  # transformers refuses those, whatever the head_dim
            break
        try:
            read_back = model_config_from_hf(_written(family, config), family.model_type)
        except UserError:
            continue
        if _resolved(read_back) == _resolved(config):
            return family
    return OWN


def _written(family: Family, config: ModelConfig) -> dict[str, Any]:
    if family is OWN:
        return {"model_type": OWN.model_type} | asdict(config)
    written = {"model_type": family.model_type, "architectures": [family.architecture]}
    explicit = vars(_resolved(config))
    written |= {key: explicit[knob] for knob, (key, _) in family.fields.items()}
    written |= {key: explicit[knob] for key, knob in family.copies.items()}
    written |= {key: values[0] for key, values in family.only.items()}
    if family.knobs["position"] == "rotary":
        written |= {"rope_theta": config.rope_theta, "rope_scaling": config.rope_scaling}
    if family is GPT_NEO:
        layers = ["local" if window else "global" for window in explicit["windows"]]
        written["attention_layers"] = layers
        written["attention_types"] = [[layers, 1]]
        written["window_size"] = max(explicit["windows"]) or 256
    return written | {"torch_dtype": "float32", "use_cache": True}


def _resolved(config: ModelConfig) -> ModelConfig:
    """The same model with every number spelt out, so that two configs can be compared."""
    windows = [config.window_of(layer) for layer in range(config.n_layer)]
    rotary = config.position == "rotary"
    return dataclasses.replace(
        config,
        n_kv_head=config.kv_heads,
        head_dim=config.head_width,
        mlp_width=config.mlp_hidden,
        windows=tuple(0 if window >= config.context else window for window in windows),
        rope_theta=config.rope_theta if rotary else 10000.0,
        rope_scaling=config.rope_scaling if rotary else None,
    )
