"""The engines of the sampling benchmark, each behind the same call.

`engine(prompts, count, top_k)` continues every prompt by exactly `count` tokens; top_k 0 is greedy.
`on_gpu`: whether it runs on a GPU too.
"""

from __future__ import annotations

import importlib.metadata
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minislm.bench.llama_cpp import LlamaCpp


class Minislm:
    """`FastSampler`; `compiled`: with compiled steps where they are available."""

    on_gpu = True

    def __init__(
        self, folder: Path, precision: str, threads: int, device: str, compiled: bool = False
    ):
        import torch

        from minislm.fast.sampler import FastSampler
        from minislm.pretrained.load import load

        torch.set_num_threads(threads)
        if device == "cpu":
            model = load(folder)[0]
        else:
            model, precision = load(folder, dtype=precision, device=device)[0], None
        self.sampler = FastSampler(model, precision=precision, compiled=compiled)

    def __call__(self, prompts: list[list[int]], count: int, top_k: int) -> Any:
        self.sampler.batch_size = len(prompts)
        temperature = 1.0 if top_k else 0.0
        return self.sampler.generate_ids(
            prompts, max_new_tokens=count, temperature=temperature, top_k=top_k, stop=False
        )


class PlainSampler(Minislm):
    """The sampler of the core: what reading it costs."""

    def __init__(self, folder: Path, precision: str, threads: int, device: str):
        import torch

        from minislm.pretrained.load import load
        from minislm.sampler import Sampler

        torch.set_num_threads(threads)
        self.sampler = Sampler(load(folder, dtype=precision, device=device)[0])


class Transformers:
    """`generate` of Hugging Face transformers, with its key/value cache."""

    on_gpu = True

    def __init__(self, folder: Path, precision: str, threads: int, device: str):
        import torch
        import transformers

        torch.set_num_threads(threads)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        dtype = getattr(torch, precision)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        self.model = model.to(device).eval()

    def __call__(self, prompts: list[list[int]], count: int, top_k: int) -> Any:
        import torch

        tokens = torch.tensor(prompts, device=self.model.device)
        chosen = {"do_sample": True, "top_k": top_k} if top_k else {"do_sample": False}
        return self.model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=count,
            min_new_tokens=count,
            pad_token_id=0,
            **chosen,
        )


class CTranslate2:
    """CTranslate2's generator, all prompts in one batch, on the CPU."""

    on_gpu = False

    def __init__(self, folder: Path, precision: str, threads: int, device: str):
        import ctranslate2
        from tokenizers import Tokenizer

        with tempfile.TemporaryDirectory() as temporary:  # read once, then kept in memory
            converted = f"{temporary}/model"
            ctranslate2.converters.TransformersConverter(str(folder)).convert(converted)
            self.generator = ctranslate2.Generator(
                converted, compute_type=precision, intra_threads=threads, inter_threads=1
            )
        self.token_of = Tokenizer.from_file(str(folder / "tokenizer.json")).id_to_token

    def __call__(self, prompts: list[list[int]], count: int, top_k: int) -> Any:
        return self.generator.generate_batch(
            [[self.token_of(token) for token in prompt] for prompt in prompts],
            max_length=count,
            min_length=count,
            sampling_topk=max(1, top_k),
            include_prompt_in_result=False,
            max_batch_size=len(prompts),
        )


class CTranslate2OneThread(CTranslate2):
    """The same with one thread: faster where threads that wait for each other are preempted."""

    def __init__(self, folder: Path, precision: str, threads: int, device: str):
        super().__init__(folder, precision, 1, device)


@dataclass(frozen=True)
class Engine:
    """packages: what it needs; precisions: what it is measured in; make: a class of this module."""

    packages: str
    precisions: tuple[str, ...]
    make: Any


ENGINES = {
    "minislm": Engine("torch", ("float32", "bfloat16", "int8"), Minislm),
    "plain sampler": Engine("torch", ("float32",), PlainSampler),
    "transformers": Engine("transformers", ("float32", "bfloat16"), Transformers),
    "ctranslate2": Engine("ctranslate2", ("float32", "int8"), CTranslate2),
    "ct2, 1 thread": Engine("ctranslate2", ("float32", "int8"), CTranslate2OneThread),
    "llama.cpp": Engine("llama-cpp-python gguf", ("float32", "float16", "int8"), LlamaCpp),
}


def installed(engine: str) -> bool:
    try:
        return all(importlib.metadata.version(name) for name in ENGINES[engine].packages.split())
    except importlib.metadata.PackageNotFoundError:
        return False
