"""The engines a benchmark compares, each behind the same call, each alone in a process.

`generate(prompts, count, top_k)` continues every prompt by exactly `count` tokens; top_k 0 is
greedy.

A process of its own gives every engine its own threads and its own memory: idle threads of one
library would otherwise spin on the cores that another is measured on.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import resource
import sys
import tempfile
import time
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

# engine -> (module it needs, precisions it is measured in)
ENGINES = {
    "minislm": ("torch", ("float32", "bfloat16", "int8")),
    "transformers": ("transformers", ("float32", "bfloat16")),
    "ctranslate2": ("ctranslate2", ("float32", "int8")),
}


def installed(engine: str) -> bool:
    return importlib.util.find_spec(ENGINES[engine][0]) is not None


class Minislm:
    """Our own sampler."""

    def __init__(self, folder: Path, precision: str, threads: int):
        import torch

        from minislm.pretrained import load
        from minislm.sampler import Sampler

        torch.set_num_threads(threads)
        self.sampler = Sampler(load(folder)[0], precision=precision)

    def generate(self, prompts: list[list[int]], count: int, top_k: int) -> Any:
        self.sampler.batch_size = len(prompts)
        temperature = 1.0 if top_k else 0.0
        return self.sampler.generate_ids(
            prompts, max_new_tokens=count, temperature=temperature, top_k=top_k, stop=False
        )


class Transformers:
    """`generate` of Hugging Face transformers, with its key/value cache."""

    def __init__(self, folder: Path, precision: str, threads: int):
        import torch
        import transformers

        torch.set_num_threads(threads)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        dtype = getattr(torch, precision)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()

    def generate(self, prompts: list[list[int]], count: int, top_k: int) -> Any:
        import torch

        tokens = torch.tensor(prompts)
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
    """CTranslate2's generator, all prompts in one batch."""

    def __init__(self, folder: Path, precision: str, threads: int):
        import ctranslate2
        from tokenizers import Tokenizer

        with tempfile.TemporaryDirectory() as temporary:  # read once, then held in memory
            converted = f"{temporary}/model"
            ctranslate2.converters.TransformersConverter(str(folder)).convert(converted)
            self.generator = ctranslate2.Generator(
                converted, compute_type=precision, intra_threads=threads, inter_threads=1
            )
        self.name_of = Tokenizer.from_file(str(folder / "tokenizer.json")).id_to_token

    def generate(self, prompts: list[list[int]], count: int, top_k: int) -> Any:
        return self.generator.generate_batch(
            [[self.name_of(token) for token in prompt] for prompt in prompts],
            max_length=count,
            min_length=count,
            sampling_topk=max(1, top_k),
            include_prompt_in_result=False,
            max_batch_size=len(prompts),
        )


_KINDS = {"minislm": Minislm, "transformers": Transformers, "ctranslate2": CTranslate2}


class Worker:
    """An engine in a process of its own; `measure` waits for its answer."""

    def __init__(self, engine: str, precision: str, folder: Path, threads: int):
        self.engine, self.precision = engine, precision
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        arguments = (theirs, engine, precision, folder, threads)
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        self.failure = self._answer()  # None, or why the engine cannot open the model

    def measure(self, prompts: list[list[int]], count: int, top_k: int) -> dict[str, float] | str:
        """Seconds for `count` tokens a prompt, and memory in MB so far; or what went wrong."""
        self.pipe.send((prompts, count, top_k))
        return self._answer()

    def _answer(self) -> Any:
        try:
            return self.pipe.recv()
        except EOFError:
            return "its process died"

    def close(self) -> None:
        self.pipe.close()
        self.process.join(timeout=10)
        if self.process.is_alive():
            self.process.kill()


def _serve(pipe: Connection, name: str, precision: str, folder: Path, threads: int) -> None:
    """Open the engine, say None or what failed, then answer requests until the pipe closes."""
    warnings.simplefilter("ignore")
    try:
        engine = _KINDS[name](folder, precision, threads)
    except Exception as error:  # whatever a library raises: it is told in the table
        return pipe.send(_short(error))
    pipe.send(None)
    while True:
        try:
            prompts, count, top_k = pipe.recv()
        except (EOFError, OSError, KeyboardInterrupt):
            return None
        try:
            begin = time.perf_counter()
            engine.generate(prompts, count, top_k)
            seconds = time.perf_counter() - begin
            pipe.send({"seconds": seconds, "memory_mb": _peak_memory()})
        except Exception as error:
            pipe.send(_short(error))


def _peak_memory() -> float:
    """The most memory this process has held, in MB."""
    status = Path("/proc/self/status")  # getrusage would count what the parent held
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1000
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes, others in KB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:120]
