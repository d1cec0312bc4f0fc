"""llama.cpp in the sampling benchmark: a model as a GGUF file, and a loop around its decode call.

It is measured on GPT-2's shape. Its loop is as short as Python allows: one call per step for all
rows, and the argmax of each by numpy; top-k sampling is its own.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from minislm.model import Transformer

_KINDS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "Q8_0"}
_MULTIPLE = 256  # it rounds the length of a sequence up to this


def write_gguf(model: Transformer, path: Path, precision: str) -> None:
    """The weights of a model of GPT-2's shape; matrices in `precision`, the rest in float32.

    Raises:
        ValueError: a model of another shape.
    """
    import gguf

    config = model.config
    same = (config.norm, config.position, config.mlp) == ("layernorm", "learned", "gelu")
    biases = config.qkv_bias and config.out_bias and config.mlp_bias
    if not (same and biases and config.kv_heads == config.n_head and config.attention_scale):
        raise ValueError("llama.cpp is measured on models of GPT-2's shape only")
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.mlp_hidden)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    for name, tensor in _named(model):
        kind = "F32" if tensor.ndim == 1 or name.startswith("position") else _KINDS[precision]
        kind = gguf.GGMLQuantizationType[kind]
        numbers = gguf.quants.quantize(tensor.detach().float().numpy(), kind)
        writer.add_tensor(name, numbers, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _named(model: Transformer) -> Iterator[tuple[str, Tensor]]:
    """Every tensor with its name in llama.cpp."""
    yield "token_embd.weight", model.embedding.weight
    yield "position_embd.weight", model.position.weight
    modules = {"output_norm": model.norm, "output": model.head}
    for layer, block in enumerate(model.blocks):
        modules |= {
            f"blk.{layer}.attn_norm": block.attention_norm,
            f"blk.{layer}.attn_qkv": block.attention.qkv,
            f"blk.{layer}.attn_output": block.attention.out,
            f"blk.{layer}.ffn_norm": block.mlp_norm,
            f"blk.{layer}.ffn_up": block.mlp.up,
            f"blk.{layer}.ffn_down": block.mlp.down,
        }
    for name, module in modules.items():
        yield from ((f"{name}.{kind}", each) for kind, each in module.named_parameters())


class LlamaCpp:
    """All prompts in one batch, on the CPU; prompts must be of one length."""

    on_gpu = False

    def __init__(self, folder: Path, precision: str, threads: int, device: str):
        import llama_cpp

        from minislm.pretrained.load import load

        self.api, self.threads = llama_cpp, threads
        self.quiet = llama_cpp.llama_log_callback(lambda *anything: None)
        llama_cpp.llama_log_set(self.quiet, None)
        model = load(folder)[0]
        self.vocabulary = model.config.vocab_size
        self.context, self.rows, self.length = None, 0, 0
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "model.gguf"
            write_gguf(model, path, precision)
            settings = llama_cpp.llama_model_default_params()
            settings.use_mmap = False  # the file is gone when it is read
            self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
        if not self.model:
            raise RuntimeError("llama.cpp cannot open the model")

    def __call__(self, prompts: list[list[int]], count: int, top_k: int) -> list[list[int]]:
        self._allocate(len(prompts), len(prompts[0]) + count)
        api, end = self.api, len(prompts[0])
        api.llama_memory_clear(api.llama_get_memory(self.context), True)
        sampler = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        api.llama_sampler_chain_add(sampler, api.llama_sampler_init_top_k(top_k))
        api.llama_sampler_chain_add(sampler, api.llama_sampler_init_dist(0))
        tokens = [self._decode(prompts, 0, sampler if top_k else None)]
        for step in range(count - 1):
            last = [[token] for token in tokens[-1]]
            tokens.append(self._decode(last, end + step, sampler if top_k else None))
        api.llama_sampler_free(sampler)
        return [list(row) for row in zip(*tokens)]

    def _allocate(self, rows: int, length: int) -> None:
        """A context for so many rows; the last one where it is large enough."""
        if rows == self.rows and length <= self.length:
            return
        api, self.rows = self.api, rows
        self.length = -(-length // _MULTIPLE) * _MULTIPLE
        settings = api.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max = rows * self.length, rows
        settings.n_batch = rows * self.length
        settings.n_threads = settings.n_threads_batch = self.threads
        if self.context:
            api.llama_free(self.context)
            api.llama_batch_free(self.batch)
        self.context = api.llama_init_from_model(self.model, settings)
        if not self.context:
            raise RuntimeError(f"llama.cpp has no memory for {rows} rows of {self.length} tokens")
        self.batch = api.llama_batch_init(rows * self.length, 0, 1)

    def _decode(self, texts: list[list[int]], begin: int, sampler: Any) -> list[int]:
        """Read the next tokens of each row, from position `begin` on; the token after them."""
        api, batch, length, rows = self.api, self.batch, len(texts[0]), len(texts)
        for row, text in enumerate(texts):
            for place, token in enumerate(text):
                i = row * length + place
                batch.token[i], batch.pos[i] = token, begin + place
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, row
                batch.logits[i] = place == length - 1
        batch.n_tokens = rows * length
        if api.llama_decode(self.context, batch):
            raise RuntimeError("llama.cpp failed to decode")
        if sampler:
            last = range(length - 1, rows * length, length)
            return [api.llama_sampler_sample(sampler, self.context, i) for i in last]
        kind = ctypes.c_float * (rows * self.vocabulary)
        logits = kind.from_address(ctypes.addressof(api.llama_get_logits(self.context).contents))
        return np.frombuffer(logits, np.float32).reshape(rows, -1).argmax(1).tolist()
