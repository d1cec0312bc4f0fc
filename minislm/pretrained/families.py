"""Published model families as tables: their names for our options and for our parameters.
A `Family` maps keys of config.json to fields of `ModelConfig`, and stored tensors to parameters of
`Transformer`. A model is of the first family whose config.json, read back, describes the same."""

import json
import re
import reprlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, get_type_hints

from minislm.config import ModelConfig
from minislm.runtime.errors import CheckpointError, UserError
from minislm.runtime.files import read_text

_REQUIRED = object()  # no default: config.json must have the key

# The largest values are far beyond every model, and small enough that a damaged config.json cannot
# use much memory before its numbers are compared with the weight file.
_RANGES = {
    "n_layer": (1, 1024), "n_head": (1, 2**16), "head_dim": (0, 2**16), "mlp_width": (0, 2**24),
    "context": (1, 2**20), "vocab_size": (1, 2**32), "norm_eps": (0, 1), "rope_theta": (1, 2**63),
}  # fmt: skip
_ANY = (-(2**63), 2**63)
_TYPES = get_type_hints(ModelConfig)
_TYPE_NAMES = {int: "a whole number from {:g} to {:g}", float: "a number from {:g} to {:g}",
               bool: "true or false", str: "a string"}  # fmt: skip
_ROPE_SCALING = {  # kind of rotary scaling -> its parameters; see rope.py
    "linear": ["factor"],
    "llama3": ["low_freq_factor", "high_freq_factor", "original_max_position_embeddings", "factor"],
}
_OTHER_FILES = {  # pattern of a name -> what is often given in place of a model, and what to do
    r"adapter_.*": "is an adapter: merge it into its base model (PEFT: merge_and_unload)",
    r".*\.gguf": "is for llama.cpp; give a Hugging Face folder of the model",
    r".*\.(pt|pth|ckpt)": "is a training state; give a run folder or Hugging Face folder",
    r".*\.(h5|msgpack|onnx)": "is for another framework; get model.safetensors",
}


@dataclass(frozen=True)
class Family:
    """The names of one family in config.json and in weight files."""

    model_type: str
    architecture: str
    keys: Mapping[str, str]  # option -> key of config.json
    defaults: Mapping[str, Any] = field(default_factory=dict)  # option -> value without the key
    fixed: Mapping[str, Any] = field(default_factory=dict)  # options that all its models share
    # Keys with a few values that we compute, the usual first; a model with another is refused.
    supported: Mapping[str, tuple] = field(default_factory=dict)
    copies: Mapping[str, str] = field(default_factory=dict)  # a further key -> its option
    prefix: str = ""  # of tensor names; a model saved without its head lacks it
    block: str = ""  # prefix of the tensor names of block {}
    # Our module -> its modules, stacked along the output axis.
    modules: Mapping[str, str] = field(default_factory=dict)
    transposed: str = "(?!)"  # pattern of our parameters stored as [in, out]; this matches nothing
    buffers: str = "(?!)"  # pattern of stored tensors that are not weights

    def stored_names(self, name: str) -> list[str]:
        """The stored tensors that make up our parameter `name`."""
        if not self.modules:
            return [name]
        layer, module, kind = re.fullmatch(r"(?:blocks\.(\d+)\.)?(.+)\.(\w+)", name).groups()
        prefix = self.block.format(layer) if layer else ""
        return [f"{prefix}{stored}.{kind}" for stored in self.modules[module].split()]

    def slices(self, name: str, rows: int, config: ModelConfig) -> list[tuple[str, slice, bool]]:
        """Each stored tensor of our parameter, its rows there, and whether it is transposed."""
        names, transposed = self.stored_names(name), re.search(self.transposed, name) is not None
        sizes = [rows // len(names)] * len(names)
        if len(names) == 3:  # queries, keys, values
            kv_width = config.kv_heads * config.head_width
            sizes = [config.n_head * config.head_width, kv_width, kv_width]
        rows_of = [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes))]
        return [(stored, part, transposed) for stored, part in zip(names, rows_of)]


LLAMA = Family(
    model_type="llama", architecture="LlamaForCausalLM",
    keys=dict(n_layer="num_hidden_layers", width="hidden_size", n_head="num_attention_heads",
              n_kv_head="num_key_value_heads", head_dim="head_dim", mlp_width="intermediate_size",
              context="max_position_embeddings", norm_eps="rms_norm_eps", qkv_bias="attention_bias",
              out_bias="attention_bias", mlp_bias="mlp_bias", tied="tie_word_embeddings",
              dropout="attention_dropout", vocab_size="vocab_size"),
    defaults=dict(n_kv_head=0, head_dim=0, context=2048, norm_eps=1e-6, qkv_bias=False,
                  out_bias=False, mlp_bias=False, tied=False, dropout=0.0),
    fixed=dict(norm="rmsnorm", position="rotary", mlp="gated_silu"),
    supported={"hidden_act": ("silu", "swish")},
    prefix="model.", block="model.layers.{}.",
    modules={"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head",
             "attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm",
             "attention.qkv": "self_attn.q_proj self_attn.k_proj self_attn.v_proj",
             "attention.out": "self_attn.o_proj",
             "mlp.up": "mlp.gate_proj mlp.up_proj", "mlp.down": "mlp.down_proj"},
    buffers=r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",
)  # fmt: skip

_GPT = dict(norm="layernorm", position="learned", mlp="gelu", n_kv_head=0, out_bias=True,
            mlp_bias=True)  # fmt: skip
_GPT_MODULES = {"embedding": "transformer.wte", "position": "transformer.wpe",
                "norm": "transformer.ln_f", "head": "lm_head", "attention_norm": "ln_1",
                "mlp_norm": "ln_2", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}  # fmt: skip
_GELU = ("gelu_new", "gelu_fast", "gelu_pytorch_tanh")  # three names of one function

GPT2 = Family(
    model_type="gpt2", architecture="GPT2LMHeadModel",
    keys=dict(n_layer="n_layer", width="n_embd", n_head="n_head", mlp_width="n_inner",
              context="n_positions", norm_eps="layer_norm_epsilon",
              attention_scale="scale_attn_weights", tied="tie_word_embeddings",
              dropout="resid_pdrop", vocab_size="vocab_size"),
    defaults=dict(mlp_width=0, context=1024, norm_eps=1e-5, attention_scale=True, tied=True,
                  dropout=0.1),
    fixed=_GPT | dict(qkv_bias=True),
    supported={"activation_function": _GELU, "scale_attn_by_inverse_layer_idx": (False,),
               "add_cross_attention": (False,)},
    copies={"n_ctx": "context", "embd_pdrop": "dropout", "attn_pdrop": "dropout"},
    prefix="transformer.", block="transformer.h.{}.",
    modules=_GPT_MODULES | {"attention.qkv": "attn.c_attn", "attention.out": "attn.c_proj"},
    transposed=r"(qkv|out|up|down)\.weight$",
    buffers=r"transformer\.h\.\d+\.attn\.(masked_)?bias",
)  # fmt: skip

GPT_NEO = Family(
    model_type="gpt_neo", architecture="GPTNeoForCausalLM",
    keys=dict(n_layer="num_layers", width="hidden_size", n_head="num_heads",
              mlp_width="intermediate_size", context="max_position_embeddings",
              norm_eps="layer_norm_epsilon", tied="tie_word_embeddings", dropout="resid_dropout",
              vocab_size="vocab_size"),
    defaults=dict(mlp_width=0, context=2048, norm_eps=1e-5, tied=True, dropout=0.0),
    fixed=_GPT | dict(qkv_bias=False, attention_scale=False),
    supported={"activation_function": _GELU},
    copies={"embed_dropout": "dropout", "attention_dropout": "dropout"},
    prefix="transformer.", block="transformer.h.{}.",
    modules=_GPT_MODULES | {"attention.qkv": " ".join(f"attn.attention.{x}_proj" for x in "qkv"),
                            "attention.out": "attn.attention.out_proj"},
    buffers=r"transformer\.h\.\d+\.attn\.attention\.(masked_)?bias",
)  # fmt: skip

# Any combination of options, under our own names (see minislm/checkpoint.py).
_LISTS = ("windows", "run_tokens")
_OWN_KEYS = {name: name for name in _TYPES if name not in (*_LISTS, "rope_scaling")}
OWN = Family(model_type="minislm", architecture="", keys=_OWN_KEYS,
             defaults=dict(qk_scale=0.0, null_cosine=0.0))  # fmt: skip

FAMILIES = {family.model_type: family for family in (LLAMA, GPT2, GPT_NEO, OWN)}


def describe(files: Iterable[Path], otherwise: str) -> str:
    """What the first of `_OTHER_FILES` is, and what to do; `otherwise` if there is none."""
    for file in sorted(files):
        for pattern, kind in _OTHER_FILES.items():
            if re.fullmatch(pattern, file.name, re.IGNORECASE):
                return f"{file.name} {kind}"
    return otherwise


def read_config(file: Path) -> tuple[Family, ModelConfig]:
    """The family and the shape that a config.json describes; raises CheckpointError naming it."""
    try:
        return parse_config(json.loads(read_text(file)))
    except (UserError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot use {file}: {error}") from error


def parse_config(config: Any) -> tuple[Family, ModelConfig]:
    """The family and the shape that the contents of a config.json describe. UserError: an unknown
    family, a value that is missing or invalid, or a model that `Transformer` does not compute."""
    name = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(name, str) or name not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UserError(f"unknown architecture (model_type {reprlib.repr(name)}), not in {known}")
    family = FAMILIES[name]
    for key, values in family.supported.items():
        if config.get(key, values[0]) not in values:
            raise UserError(f"{key} is {reprlib.repr(config[key])}; only {values[0]!r} is computed")
    if config.get("quantization_config"):
        raise UserError("the weights are quantized; get the unquantized model")
    options = dict(family.fixed)
    for option, key in family.keys.items():
        default, limits = family.defaults.get(option, _REQUIRED), _RANGES.get(option, _ANY)
        options[option] = _get(config, key, _TYPES[option], default, limits)
    if options["position"] in ("rotary", "run"):
        options |= _rope(config)
    if family is GPT_NEO:
        options["windows"] = _neo_windows(config, options["n_layer"], options["context"])
    elif family is OWN:
        for name in _LISTS:
            ns = config.get(name, [])
            if not isinstance(ns, list) or not all(type(n) is int and n < 2**31 for n in ns):
                raise UserError(f"{name} is {reprlib.repr(ns)}, not a list of whole numbers")
            options[name] = tuple(ns)
    return family, ModelConfig(**options)


def _get(config: dict, key: str, kind: type, default: Any = _REQUIRED, limits: tuple = _ANY) -> Any:
    if (value := config.get(key)) is None:
        if default is _REQUIRED:
            raise UserError(f"{key} is missing")
        return default
    valid = type(value) is kind or (kind is float and type(value) is int)
    if not valid or (kind in (int, float) and not limits[0] <= value <= limits[1]):
        expected = _TYPE_NAMES[kind].format(*limits)
        raise UserError(f"{key} is {reprlib.repr(value)}, not {expected}")
    return kind(value)


def _rope(config: dict) -> dict[str, Any]:
    """Base and scaling of the rotary frequencies, under transformers 5's keys or the older ones."""
    key = "rope_parameters" if config.get("rope_parameters") else "rope_scaling"
    given = config.get(key) or {}
    if not isinstance(given, dict):
        raise UserError(f"{key} is {reprlib.repr(given)}, not an object")
    either = config | given
    if either.get("partial_rotary_factor") not in (None, 1):
        raise UserError("partial_rotary_factor is not 1; only 1 is computed")
    theta = _get(either, "rope_theta", float, 10000.0, _RANGES["rope_theta"])
    kind = str(given.get("rope_type", given.get("type", "default")))
    if kind in ("default", "None"):
        return {"rope_theta": theta, "rope_scaling": None}
    if kind not in _ROPE_SCALING:
        known = ", ".join(_ROPE_SCALING)
        raise UserError(f"{key} is of type {reprlib.repr(kind)}; only {known} are computed")
    types = {name: int if "original" in name else float for name in _ROPE_SCALING[kind]}
    scaling = {name: _get(given, name, types[name], limits=(1e-9, 2**40)) for name in types}
    if kind == "llama3" and scaling["high_freq_factor"] <= scaling["low_freq_factor"]:
        raise UserError(f"{key}: high_freq_factor must be above low_freq_factor")
    return {"rope_theta": theta, "rope_scaling": {"rope_type": kind} | scaling}


def _neo_windows(config: dict, n_layer: int, context: int) -> tuple[int, ...]:
    """The window of each block as the shortest repeating pattern; 0 is global attention."""
    window = _get(config, "window_size", int, 256, (1, 2**63))
    # A window of the whole context masks nothing.
    sizes = {"global": 0, "local": window if window < context else 0}
    try:
        types = config.get("attention_types") or [[config.get("attention_layers"), 1]]
        windows = [sizes[name] for names, n in types for name in names * min(n, n_layer + 1)]
    except (TypeError, ValueError, LookupError):
        windows = []
    if len(windows) != n_layer:
        raise UserError(f"attention_types must be global or local for each of {n_layer} blocks")
    repeats = (n for n in range(1, n_layer + 1) if windows[n:] == windows[:-n])
    return tuple(windows[: next(repeats)])


def family_of(config: ModelConfig) -> Family:
    """The first published family whose config.json can describe this model, else our own."""
    for family in (LLAMA, GPT2, GPT_NEO):
        with suppress(UserError):
            _, read_back = parse_config(hf_config(family, config))
            # transformers refuses widths that are no multiple of the heads, whatever the head_dim.
            if _explicit(read_back) == _explicit(config) and config.width % config.n_head == 0:
                return family
    return OWN


def hf_config(family: Family, config: ModelConfig) -> dict[str, Any]:
    """The contents of config.json under the names of a family."""
    if family is OWN:
        return {"model_type": OWN.model_type} | asdict(config)
    contents = {"model_type": family.model_type, "architectures": [family.architecture]}
    options = vars(_explicit(config))
    contents |= {key: options[option] for option, key in family.keys.items()}
    contents |= {key: options[option] for key, option in family.copies.items()}
    contents |= {key: values[0] for key, values in family.supported.items()}
    if family is LLAMA:
        contents |= {"rope_theta": config.rope_theta, "rope_scaling": config.rope_scaling}
    if family is GPT_NEO:
        layers = ["local" if window else "global" for window in options["windows"]]
        contents |= {"attention_layers": layers, "attention_types": [[layers, 1]]}
        contents["window_size"] = max(options["windows"]) or 256
    return contents | {"torch_dtype": "float32", "use_cache": True}


def _explicit(config: ModelConfig) -> ModelConfig:
    """The same model with every default as a number, so that two configs can be compared."""
    sizes = dict(n_kv_head=config.kv_heads, head_dim=config.head_width, mlp_width=config.mlp_hidden)
    rope = {} if config.position == "rotary" else dict(rope_theta=10000.0, rope_scaling=None)
    windows = map(config.window_of, range(config.n_layer))
    windows = tuple(window if window < config.context else 0 for window in windows)
    return replace(config, windows=windows, **sizes, **rope)
