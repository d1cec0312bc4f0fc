"""What several tests need: small models, plain references, and runs of the three scripts."""

from __future__ import annotations

import json
import os
import random
import runpy
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from minislm.config import ModelConfig
from minislm.model import Transformer

ROOT = Path(__file__).parent.parent
TINY = (
    "--width 32 --n-head 4 --n-kv-head 2 --context 320 --vocab 300 --batch-tokens 512 --threads 1"
).split()


def random_model(seed: int = 0, **options) -> Transformer:
    """A small model whose weights are large enough that its logits differ by position."""
    shape = dict(vocab_size=300, width=64, n_head=4, n_kv_head=2, n_layer=2, context=128)
    model = Transformer(ModelConfig(**(shape | options)))
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.15, generator=generator)
    return model.eval()


def read_metrics(run: Path) -> list[dict]:
    """The records of a run's evaluations."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@torch.inference_mode()
def random_prompts(lengths, seed=0):
    """Prompts of random tokens, one of each length."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 300, (n,), generator=generator).tolist() for n in lengths]


def brute_force(model: torch.nn.Module, ids: list[int], count: int) -> list[int]:
    """Greedy decoding without a cache: the whole text again for every token."""
    tokens = torch.tensor([ids])
    for _ in range(count):
        tokens = torch.cat((tokens, model(tokens)[:, -1].argmax(-1, keepdim=True)), 1)
    return tokens[0, len(ids) :].tolist()


@dataclass
class Outcome:
    code: int
    out: str
    err: str


def train_in(folder: Path, *flags: object) -> None:
    """A whole run of train.py in this process, for fixtures that several tests look at."""
    before, argv = os.getcwd(), sys.argv
    os.chdir(folder)
    sys.argv = ["train.py", *map(str, flags)]
    try:
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    except SystemExit as end:
        assert not end.code
    finally:
        os.chdir(before)
        sys.argv = argv


def random_text(rng: random.Random) -> str:
    """Characters of every plane, and some that are often next to each other."""
    kinds = [
        lambda: chr(rng.randrange(0x80)),
        lambda: chr(rng.randrange(0xD800)),
        lambda: chr(rng.randrange(0xE000, 0x110000)),
        lambda: chr(rng.randrange(0x1F300, 0x1F700)),
        lambda: chr(rng.randrange(0x4E00, 0x9FFF)),
        lambda: "e" + chr(rng.randrange(0x300, 0x370)),
        lambda: rng.choice(["\r\n", "\n", "\x00", "\ufeff", "\u200d", "   ", " 41", "\u0661"]),
        lambda: rng.choice([" the", " dogs", " .", " , ", "'s", " n't", "\u2581", "##a", "\u0120"]),
        lambda: rng.choice(["\u201cOnce\u201d \u2014 ", "caf\u00e9", "\U0001f468\u200d\U0001f469"]),
    ]
    return "".join(rng.choice(kinds)() for _ in range(rng.randrange(60)))
