"""Model variants of the generalization study: initial weights, and how they learn a task.

A pre-trained model is made once for each shape, text and seed, and kept in the study's folder."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from minislm.config import PRESETS, ModelConfig, TrainConfig
from minislm.dataset import TokenDataset
from minislm.model import Transformer
from minislm.pretrained.load import load
from minislm.pretrained.save import save
from minislm.stories.generate import generate
from minislm.studies.fine_tuning import bits_per_byte, train_in_memory
from minislm.tasks import TASKS, Pair, pairs
from minislm.tokenizer import Tokenizer

STORIES, HELD_OUT, TOKENIZER_STORIES = 6000, 20, 2000
_TWO_BLOCKS = dict(n_layer=2, width=128, n_head=4, n_kv_head=0)
SHAPES: dict[str, dict[str, Any]] = {
    "two blocks": _TWO_BLOCKS, "one block": _TWO_BLOCKS | {"n_layer": 1},
    "four blocks": _TWO_BLOCKS | {"n_layer": 4}, "wide": _TWO_BLOCKS | {"width": 256},
    "tinystories-1m": PRESETS["tinystories-1m"],
}  # fmt: skip
SLOW = ("tinystories-1m",)  # shapes with smaller batches and fewer pre-trained seeds
# text -> fraction of stories that use numbers, and whether the words of each story are shuffled
TEXTS = {"plain": (0.0, False), "numbers": (0.7, False), "shuffled": (0.7, True)}
SHORT = tuple(task for task in TASKS if task not in ("unary", "count"))  # tasks of short answers
FEW = ("copy", "successor")  # tasks of the variants for a side question


@dataclass(frozen=True)
class Variant:
    """A model, and how it is adapted to a task before it is evaluated."""

    name: str
    shape: str = "two blocks"  # of SHAPES, or the folder or hub id of a model
    text: str = ""  # of TEXTS; "": random weights, or the model's own
    adapt: str = "fine-tuned"  # on 70 pairs; "few-shot": five of them in the prompt; "zero-shot"
    together: bool = False  # on all tasks at once
    held_out: str = "D_test"  # "random": as many other pairs, by seed
    rate: float = 1.0  # multiplier of the learning rates
    trained: str = "all"  # the weights that change; "blocks"; "last block"
    loss_on: str = "completion"  # "all": on the prompt too
    tasks: tuple[str, ...] = SHORT

    def pretrained_seed(self, seed: int) -> int:
        """The seed of the pre-trained model that a seed of the variant starts from."""
        return seed % (2 if self.shape in SLOW else 4)

    def load(self, seed: int, folder: Path) -> tuple[Transformer, Tokenizer]:
        """A copy of the model before it is adapted, with gradients for the `trained` weights."""
        if self.shape not in SHAPES:
            model, tokenizer = load(self.shape)
        elif self.text:
            name = f"{self.shape}-{self.text}-{self.pretrained_seed(seed)}"
            model, tokenizer = load(folder / "models" / name)
        else:
            tokenizer = study_tokenizer(folder)
            model = random_weights(self.shape, seed, tokenizer)
        parts = {"all": [model], "blocks": model.blocks, "last block": model.blocks[-1:]}
        model.requires_grad_(False)
        for part in parts[self.trained]:
            part.requires_grad_(True)
        return model, tokenizer

    def split(self, task: str, seed: int, fitting: list[Pair]) -> tuple[list[Pair], list[Pair]]:
        """The training pairs and the held-out pairs, among those that fit the context."""
        held_out = [pair for pair in fitting if pair.split == "test"]
        if self.held_out == "random":
            held_out = random.Random(f"{task}:{seed}").sample(fitting, len(held_out))
        return ([pair for pair in fitting if pair not in held_out],
                [pair for pair in fitting if pair in held_out])  # fmt: skip


# The first four make one plot of the report, and the next six another.
VARIANTS = (
    Variant("scratch", tasks=tuple(TASKS)),
    Variant("plain stories", text="plain"),
    Variant("transferred", text="numbers", tasks=("unary", *SHORT)),
    Variant("shuffled words", text="shuffled"),
    Variant("reference, scratch", "tinystories-1m", tasks=("unary", "copy")),
    Variant("reference, transferred", "tinystories-1m", "numbers", tasks=("unary", "copy")),
    Variant("all tasks together", together=True),
    Variant("one block, scratch", "one block"),
    Variant("one block, transferred", "one block", "numbers"),
    Variant("scratch, random 30 held out", held_out="random", tasks=FEW),
    Variant("four blocks, scratch", "four blocks", tasks=FEW),
    Variant("wide, scratch", "wide", tasks=FEW),
    Variant("transferred, random 30 held out", text="numbers", held_out="random", tasks=FEW),
    Variant("scratch, loss on all", loss_on="all", tasks=FEW),
    Variant("transferred, loss on all", text="numbers", loss_on="all", tasks=FEW),
    Variant("transferred, blocks only", text="numbers", trained="blocks", tasks=FEW),
    Variant("transferred, last block only", text="numbers", trained="last block", tasks=FEW),
    Variant("transferred, rates x 3", text="numbers", rate=3.0, tasks=FEW),
    Variant("transferred, rates / 3", text="numbers", rate=1 / 3, tasks=FEW),
    Variant("transferred, few-shot", text="numbers", adapt="few-shot"),
    Variant("transferred, zero-shot", text="numbers", adapt="zero-shot"),
)


def study_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a study, trained on stories and D_train, and kept in the folder."""
    if not (folder / "tokenizer" / "tokenizer.json").is_file():
        train = [pair for task in TASKS for pair in pairs(task, "train")]
        texts = [text for pair in train for text in (pair.prompt, pair.answer)]
        stories = story_texts("numbers", 0, TOKENIZER_STORIES)
        Tokenizer.train(stories + texts, 1024, "single").save(folder / "tokenizer")
    return Tokenizer.load(folder / "tokenizer")


def pretrain(shape: str, text: str, seed: int, steps: int, folder: Path) -> dict[str, float]:
    """Train a model on a text; saved in the folder."""
    tokenizer = study_tokenizer(folder)
    model = random_weights(shape, seed, tokenizer)
    stories = TokenDataset.from_texts(story_texts(text, seed, STORIES), tokenizer)
    held_out = story_texts(text, 1_000_000 + seed, HELD_OUT)
    config = TrainConfig(seed=seed, batch_tokens=2048 if shape in SLOW else 4096)
    _, loss = train_in_memory(model, tokenizer, [], config, steps, until=0.0, stories=stories)
    save(folder / "models" / f"{shape}-{text}-{seed}", model, tokenizer)
    return {"parameters": model.n_parameters(), "steps": steps, "train_loss": loss,
            "bits_per_byte": bits_per_byte(model, tokenizer, held_out)}  # fmt: skip


def story_texts(text: str, seed: int, count: int, start: int = 0) -> list[str]:
    """Stories of a text of TEXTS; with shuffled words, only word frequencies are left of each."""
    numbers, shuffled = TEXTS[text]
    stories = [story.text for story in generate(count, seed, start=start, numbers=numbers)]
    for n, story in enumerate(stories if shuffled else []):
        words = story.split(" ")
        random.Random(f"{seed}:{n}").shuffle(words)
        stories[n] = " ".join(words)
    return stories


def random_weights(shape: str, seed: int, tokenizer: Tokenizer) -> Transformer:
    torch.manual_seed(seed)
    return Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, **SHAPES[shape]))
