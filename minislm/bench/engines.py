"""The engines of the sampling benchmark, each behind the same calls.
`engine = ENGINES[name](folder, precision, threads, device, compiled)` opens the model.
`engine(prompts, count, top_k)` continues every prompt by exactly `count` tokens; top_k 0 is greedy.
A class names its packages, the precisions it is measured in, and whether it runs on a GPU."""

import importlib.metadata
import tempfile
from pathlib import Path
from typing import Any

import torch

from minislm.bench.llama_cpp import LlamaCpp


class Minislm:
    """`FastSampler`; `compiled`: with compiled steps where they are available."""

    packages, precisions, on_gpu = "torch", ("float32", "bfloat16", "int8"), True

    def __init__(self, folder: Path, precision: str, threads: int, device: str, compiled: bool):
        from minislm.fast.sampler import FastSampler  # not above: memory of others
        from minislm.pretrained.load import load

        torch.set_num_threads(threads)
        stored, own = ("float32", precision) if device == "cpu" else (precision, None)
        model = load(folder, dtype=stored, device=device)[0]
        self.sampler = FastSampler(model, precision=own, compiled=compiled)

    def __call__(self, prompts: list[list[int]], count: int, top_k: int) -> Any:
        self.sampler.batch_size = len(prompts)
        settings = dict(temperature=float(top_k > 0), top_k=top_k, stop=False)
        return self.sampler.generate_ids(prompts, max_new_tokens=count, **settings)


class PlainSampler(Minislm):
    """`Sampler` of the core, for comparison."""

    precisions = ("float32",)

    def __init__(self, folder: Path, precision: str, threads: int, device: str, *_: Any):
        from minislm.pretrained.load import load
        from minislm.sampler import Sampler

        torch.set_num_threads(threads)
        self.sampler = Sampler(load(folder, dtype=precision, device=device)[0])


class Transformers:
    """`generate` of Hugging Face transformers, with its key/value cache."""

    packages, precisions, on_gpu = "transformers", ("float32", "bfloat16"), True

    def __init__(self, folder: Path, precision: str, threads: int, device: str, *_: Any):
        import transformers

        torch.set_num_threads(threads)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        dtype = getattr(torch, precision)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        self.model = model.to(device).eval()

    def __call__(self, prompts: list[list[int]], count: int, top_k: int) -> Any:
        tokens = torch.tensor(prompts, device=self.model.device)
        return self.model.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=count,
            min_new_tokens=count, pad_token_id=0, do_sample=top_k > 0, top_k=top_k or None,
        )  # fmt: skip


class CTranslate2:
    """CTranslate2's generator, all prompts in one batch, on the CPU."""

    packages, precisions, on_gpu = "ctranslate2", ("float32", "int8"), False

    def __init__(self, folder: Path, precision: str, threads: int, *_: Any):
        import ctranslate2
        from tokenizers import Tokenizer

        with tempfile.TemporaryDirectory() as temporary:  # read once, then kept in memory
            converted = f"{temporary}/model"
            ctranslate2.converters.TransformersConverter(str(folder)).convert(converted)
            options = dict(compute_type=precision, intra_threads=threads, inter_threads=1)
            self.generator = ctranslate2.Generator(converted, **options)
        self.token_of = Tokenizer.from_file(str(folder / "tokenizer.json")).id_to_token

    def __call__(self, prompts: list[list[int]], count: int, top_k: int) -> Any:
        return self.generator.generate_batch(
            [[self.token_of(token) for token in prompt] for prompt in prompts],
            max_length=count, min_length=count, sampling_topk=max(1, top_k),
            include_prompt_in_result=False, max_batch_size=len(prompts),
        )  # fmt: skip


ONE_THREAD = "ct2, 1 thread"  # faster where threads that wait for each other are preempted
ENGINES: dict[str, Any] = {"minislm": Minislm, "plain sampler": PlainSampler,
                           "transformers": Transformers, "ctranslate2": CTranslate2,
                           ONE_THREAD: CTranslate2, "llama.cpp": LlamaCpp}  # fmt: skip


def installed(engine: str) -> bool:
    try:
        return all(importlib.metadata.version(name) for name in ENGINES[engine].packages.split())
    except importlib.metadata.PackageNotFoundError:
        return False
