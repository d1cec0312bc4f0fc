"""The subjects of the verdict: where a model comes from before it is shown any pair.

One line of SUBJECTS is one subject. What is pre-trained is made once for each text, shape and seed,
and kept in the study's folder.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from minislm.config import PRESETS, ModelConfig, TrainConfig
from minislm.dataset import TokenDataset
from minislm.evaluation import text_loss
from minislm.model import Transformer
from minislm.pretrained.load import load
from minislm.pretrained.save import save
from minislm.stories.generate import generate
from minislm.studies.fine_tuning import train_on_stories
from minislm.tasks import TASKS, Pair, pairs
from minislm.tokenizer import Tokenizer

STORIES = 6000  # that a model is pre-trained on
HELD_OUT = 20  # plain stories that tell what fine-tuning makes it forget
VOCABULARY, _TOLD = 1024, 2000  # tokens of the tokenizer, and stories it is trained on
_PRETRAINED_SEEDS = 4  # pre-trained models that fine-tuning seeds share (SLOW shapes: fewer)
_TWO_BLOCKS = dict(n_layer=2, width=128, n_head=4, n_kv_head=0)

SHAPES: dict[str, dict[str, Any]] = {
    "two blocks": _TWO_BLOCKS,
    "one block": _TWO_BLOCKS | {"n_layer": 1},
    "four blocks": _TWO_BLOCKS | {"n_layer": 4},
    "wide": _TWO_BLOCKS | {"width": 256},
    "tinystories-1m": PRESETS["tinystories-1m"],
}
SLOW = {"tinystories-1m": 2}  # shape -> seeds that are pre-trained

# text -> share of stories with numbers in use, and whether the words of each story are shuffled
TEXTS = {"plain": (0.0, False), "numbers": (0.7, False), "shuffled": (0.7, True)}

SHORT = tuple(task for task in TASKS if task not in ("unary", "count"))
FEW = ("copy", "successor")  # of side questions


@dataclass(frozen=True)
class Subject:
    """A model and what is done with it before it is asked.

    shape: of SHAPES, or the folder or hub id of a model. text: of TEXTS, or "" for random weights
    (or the model's own). adapt: "fine-tuned" on 70 pairs, "few-shot" (five pairs in the prompt) or
    "zero-shot". held_out: "rule" (i mod 10 in {1, 3, 7}) or "random" (30 others, by seed). rate:
    times the usual learning rates (three times higher for random weights). trained: "all" weights,
    "blocks" or the "last block".
    """

    name: str
    shape: str = "two blocks"
    text: str = ""
    adapt: str = "fine-tuned"
    together: bool = False  # the pairs of all tasks at once
    held_out: str = "rule"
    rate: float = 1.0
    trained: str = "all"
    loss_on: str = "completion"
    tasks: tuple[str, ...] = SHORT


SUBJECTS = (
    Subject("scratch", tasks=tuple(TASKS)),
    Subject("plain stories", text="plain"),
    Subject("transferred", text="numbers", tasks=("unary", *SHORT)),
    Subject("shuffled words", text="shuffled"),
    Subject("reference, scratch", shape="tinystories-1m", tasks=("unary", "copy")),
    Subject("reference, transferred", shape="tinystories-1m", text="numbers",
            tasks=("unary", "copy")),
    Subject("all tasks together", together=True),
    Subject("one block, scratch", shape="one block"),
    Subject("one block, transferred", shape="one block", text="numbers"),
    Subject("four blocks, scratch", shape="four blocks", tasks=FEW),
    Subject("wide, scratch", shape="wide", tasks=FEW),
    Subject("scratch, random 30 held out", held_out="random", tasks=FEW),
    Subject("transferred, random 30 held out", text="numbers", held_out="random", tasks=FEW),
    Subject("scratch, loss on all", loss_on="all", tasks=FEW),
    Subject("transferred, loss on all", text="numbers", loss_on="all", tasks=FEW),
    Subject("transferred, blocks only", text="numbers", trained="blocks", tasks=FEW),
    Subject("transferred, last block only", text="numbers", trained="last block", tasks=FEW),
    Subject("transferred, rates x 3", text="numbers", rate=3.0, tasks=FEW),
    Subject("transferred, rates / 3", text="numbers", rate=1 / 3, tasks=FEW),
    Subject("transferred, few-shot", text="numbers", adapt="few-shot"),
    Subject("transferred, zero-shot", text="numbers", adapt="zero-shot"),
)


def of_model(source: str) -> tuple[Subject, ...]:
    """The three ways in which any model is asked."""
    ways = ("zero-shot", "few-shot", "fine-tuned")
    return tuple(Subject(f"{source}, {adapt}", shape=source, adapt=adapt) for adapt in ways)


def pretrained_seed(subject: Subject, seed: int) -> int:
    """Which pre-trained model a seed of a subject starts from."""
    return seed % SLOW.get(subject.shape, _PRETRAINED_SEEDS)


def make_tokenizer(folder: Path) -> Tokenizer:
    """The one tokenizer of a study, trained on the pre-training text and D_train."""
    asked = [p for task in TASKS for p in pairs(task, "train")]
    texts = [
        *texts_of("numbers", 0, _TOLD),
        *(text for p in asked for text in (p.prompt, p.answer)),
    ]
    tokenizer = Tokenizer.train(texts, VOCABULARY, "single")
    tokenizer.save(folder / "tokenizer")
    return tokenizer


def texts_of(text: str, seed: int, count: int, start: int = 0) -> list[str]:
    """The stories of a text of TEXTS."""
    share, shuffled = TEXTS[text]
    stories = [s.text for s in generate(count, seed, start=start, numbers=share)]
    if not shuffled:
        return stories
    return [shuffle_words(story, f"{seed}:{n}") for n, story in enumerate(stories)]


def shuffle_words(story: str, seed: str) -> str:
    """The same words, out of order: what is left is how often each comes."""
    words = story.split(" ")
    random.Random(seed).shuffle(words)
    return " ".join(words)


def pretrain(shape: str, text: str, seed: int, steps: int, folder: Path) -> dict[str, float]:
    """Train a model on a text, keep it in the study's folder, and tell its losses."""
    tokenizer = Tokenizer.load(folder / "tokenizer")
    model = random_weights(shape, seed, tokenizer)
    stories = TokenDataset.from_texts(texts_of(text, seed, STORIES), tokenizer)
    config = TrainConfig(seed=seed, batch_tokens=2048 if shape in SLOW else 4096)
    loss = train_on_stories(model, tokenizer, stories, config, steps)
    save(_kept(folder, shape, text, seed), model, tokenizer)
    held_out = TokenDataset.from_texts(texts_of(text, 1_000_000 + seed, HELD_OUT), tokenizer)
    found = text_loss(model, held_out, tokenizer.eot_id)
    return {"steps": steps, "train_loss": loss, "bits_per_byte": found.bits_per_byte,
            "parameters": model.n_parameters(), "tokens": stories.n_tokens}  # fmt: skip


def random_weights(shape: str, seed: int, tokenizer: Tokenizer) -> Transformer:
    torch.manual_seed(seed)
    return Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, **SHAPES[shape]))


def model_of(subject: Subject, seed: int, folder: Path) -> tuple[Transformer, Tokenizer]:
    """A subject before it is shown any pair; its own copy, to be trained in place."""
    if subject.shape not in SHAPES:
        return load(subject.shape)
    tokenizer = Tokenizer.load(folder / "tokenizer")
    if not subject.text:
        return random_weights(subject.shape, seed, tokenizer), tokenizer
    started = pretrained_seed(subject, seed)
    return load(_kept(folder, subject.shape, subject.text, started))


def freeze(model: Transformer, trained: str) -> None:
    """Leave only some weights to be trained: "all", the "blocks", or the "last block"."""
    for weight in model.parameters():
        weight.requires_grad_(trained == "all")
    for block in {"all": [], "blocks": model.blocks, "last block": model.blocks[-1:]}[trained]:
        for weight in block.parameters():
            weight.requires_grad_(True)


def _kept(folder: Path, shape: str, text: str, seed: int) -> Path:
    return folder / "models" / f"{shape}-{text}-{seed}".replace(" ", "-")


def halves(
    subject: Subject, task: str, seed: int, fitting: list[Pair]
) -> tuple[list[Pair], list[Pair]]:
    """The pairs that are shown and those that are held out, among the pairs that fit."""
    held = {p.i for p in fitting if p.split == "test"}
    if subject.held_out == "random":
        held = set(random.Random(f"{task}:{seed}").sample([p.i for p in fitting], len(held)))
    return [p for p in fitting if p.i not in held], [p for p in fitting if p.i in held]
