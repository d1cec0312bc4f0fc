"""llama.cpp in the sampling benchmark: a GGUF file of GPT-2's shape, and a loop as short as Python
allows: one call per step for all rows, the argmax of each by numpy; top-k sampling is its own."""

import ctypes
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from minislm.model import Transformer
from minislm.pretrained.families import GPT2, family_of

_KINDS = {"float32": "F32", "float16": "F16", "int8": "Q8_0"}  # its names of the precisions
_NAMES = {"embedding": "token_embd", "position": "position_embd", "norm": "output_norm",
          "head": "output", "attention_norm": "attn_norm", "attention.qkv": "attn_qkv",
          "attention.out": "attn_output", "mlp_norm": "ffn_norm", "mlp.up": "ffn_up",
          "mlp.down": "ffn_down"}  # fmt: skip
_MULTIPLE = 256  # it rounds the length of a sequence up to this


def write_gguf(model: Transformer, path: Path, precision: str) -> None:
    """Write the weights of a model of GPT-2's shape: matrices in `precision`, others in float32.
    ValueError: a model of another shape."""
    import gguf

    config = model.config
    if family_of(config) is not GPT2:
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
    for name, weight in model.named_parameters(remove_duplicate=False):
        layer, module, part = re.fullmatch(r"(?:blocks\.(\d+)\.)?(.+)\.(\w+)", name).groups()
        small = weight.ndim == 1 or module == "position"
        kind = gguf.GGMLQuantizationType["F32" if small else _KINDS[precision]]
        numbers = gguf.quants.quantize(weight.detach().float().numpy(), kind)
        block = f"blk.{layer}." if layer else ""
        writer.add_tensor(f"{block}{_NAMES[module]}.{part}", numbers, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class LlamaCpp:
    """All prompts in one batch, on the CPU; prompts must be of one length."""

    packages, precisions, on_gpu = "llama-cpp-python gguf", tuple(_KINDS), False

    def __init__(self, folder: Path, precision: str, threads: int, *_: Any):
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
        api = self.api
        api.llama_memory_clear(api.llama_get_memory(self.context), True)
        sampler = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        api.llama_sampler_chain_add(sampler, api.llama_sampler_init_top_k(top_k))
        api.llama_sampler_chain_add(sampler, api.llama_sampler_init_dist(0))
        texts, begin, steps = prompts, 0, []
        for _ in range(count):
            steps.append(self._decode(texts, begin, sampler if top_k else None))
            begin += len(texts[0])
            texts = [[token] for token in steps[-1]]
        api.llama_sampler_free(sampler)
        return [list(row) for row in zip(*steps)]

    def _allocate(self, rows: int, length: int) -> None:
        """Make a context for so many rows, unless the last one is large enough."""
        if self.context and rows == self.rows and length <= self.length:
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
        """Process the tokens of each row, from position `begin` on; returns the next token."""
        api, batch, length, rows = self.api, self.batch, len(texts[0]), len(texts)
        for row, text in enumerate(texts):
            for t, token in enumerate(text):
                i = row * length + t
                batch.token[i], batch.pos[i] = token, begin + t
                batch.n_seq_id[i], batch.seq_id[i][0] = 1, row
                batch.logits[i] = t == length - 1
        batch.n_tokens = rows * length
        if api.llama_decode(self.context, batch):
            raise RuntimeError("llama.cpp failed to decode")
        if sampler:
            last = range(length - 1, rows * length, length)
            return [api.llama_sampler_sample(sampler, self.context, i) for i in last]
        kind = ctypes.c_float * (rows * self.vocabulary)
        logits = kind.from_address(ctypes.addressof(api.llama_get_logits(self.context).contents))
        return np.frombuffer(logits, np.float32).reshape(rows, -1).argmax(1).tolist()
