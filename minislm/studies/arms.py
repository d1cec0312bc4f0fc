"""The arms of the generalization study: a model, its pre-training text, and how long it learns.
All arms of a task learn the same 70 pairs. They differ in the position encoding, the number of
blocks, the steps and the text of their pre-training; those with a vocabulary of words (NUMBERS and
BROKEN, which differ in their text alone) also in shape and recipe: others have `--preset unary`."""

import random
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minislm.config import PRESETS, ModelConfig, TrainConfig
from minislm.dataset import TokenDataset
from minislm.evaluation import text_loss
from minislm.model import Transformer
from minislm.pretrained.load import load
from minislm.pretrained.save import save
from minislm.stories.generate import generate
from minislm.studies.curriculum import sharpen_attention
from minislm.studies.learning import UNARY, train_in_memory
from minislm.tasks import LARGEST, TASKS, is_test, number_words, pairs
from minislm.tokenizer import Tokenizer

STORIES, HELD_OUT, TOKENIZER_STORIES = 6000, 20, 2000
DIGITS = ("count", "copy", "reverse", "successor")  # answers in digits, one token each
WORDS = ("words", "parity", "sentence")  # D_train alone does not determine their answers
# Of the arms with a vocabulary of words.
_WIDE = dict(n_layer=2, width=128, n_head=4, n_kv_head=0, context=512)
# text -> the fraction of its stories that use numbers
TEXTS = {"plain": 0.0, "numbers": 0.7, "broken": 0.7, "drills": 0.0}
WORD_TOKENS = ("numbers", "broken")  # texts with tokens of words, not of bytes


@dataclass(frozen=True)
class Arm:
    """A kind of model, trained on a task from several seeds."""

    name: str
    position: str = "run"
    n_layer: int = 1
    shared: bool = False  # the first block is used for all
    text: str = ""  # of TEXTS, before the task; "": random weights
    budget: int = 1  # multiplier of the steps

    def model(self, seed: int, folder: Path) -> tuple[Transformer, Tokenizer]:
        """The model before it learns the task."""
        if self.text:
            return load(folder / "models" / self.start(seed))
        tokenizer = study_tokenizer(folder, words=False)
        return self.random_weights(seed, tokenizer), tokenizer

    def start(self, seed: int) -> str:
        """The name of the pre-trained model of a seed."""
        return f"{self.position}-{self.n_layer}-{self.text}-{seed}"

    def random_weights(self, seed: int, tokenizer: Tokenizer) -> Transformer:
        torch.manual_seed(seed)
        narrow = PRESETS["unary"] | dict(n_layer=self.n_layer)
        shape = dict(narrow if tokenizer.vocab_size == 257 else _WIDE, position=self.position)
        if self.position != "run":
            shape["rope_theta"] = 10000.0
        if self.position == "learned":
            shape["context"] = 5376  # of the longest pair: no position is untrained
        vocabulary = dict(vocab_size=tokenizer.vocab_size, run_tokens=tokenizer.digit_ids)
        model = Transformer(ModelConfig(**shape, **vocabulary))
        if self.shared:
            model.blocks = nn.ModuleList([model.blocks[0]] * self.n_layer)
        return model

    def recipe(self, seed: int, quick: bool) -> TrainConfig:
        """How it learns the 70 pairs."""
        if self.text not in WORD_TOKENS:
            steps = UNARY["steps"] * self.budget // (4 if quick else 1)
            return TrainConfig(**UNARY | {"seed": seed, "steps": steps})
        # Lower rates, and all pairs at once: a pre-trained model forgets less.
        return TrainConfig(learning_rate=1e-3, matrix_rate=4e-3, batch_tokens=1024, steps=400,
                           seed=seed)  # fmt: skip


RUN = Arm("place in a run")
OTHERS = (Arm("absolute rotary", "rotary"), Arm("learned", "learned"), Arm("none", "none"))
TWO = tuple(replace(arm, name=f"{arm.name}, two blocks", n_layer=2) for arm in (RUN, *OTHERS))
TWICE = replace(RUN, name="place in a run, one block twice", n_layer=2, shared=True)
LONGER = tuple(replace(arm, name=f"{arm.name}, 4 x steps", budget=4) for arm in OTHERS)
DRILLED = replace(TWO[0], name="place in a run, two blocks, drills", text="drills")
AFTER = replace(RUN, name="place in a run, after stories", text="plain")
NUMBERS = Arm("stories with numbers", "rotary", 2, text="numbers")
BROKEN = replace(NUMBERS, name="stories, numbers replaced", text="broken")


def study_tokenizer(folder: Path, words: bool) -> Tokenizer:
    """Bytes; or a vocabulary of words, trained on stories and D_train, and kept in the folder."""
    if not words:
        return Tokenizer.train([], 257)
    if not (folder / "tokenizer" / "tokenizer.json").is_file():
        train = [pair for task in TASKS for pair in pairs(task, "train")]
        texts = [text for pair in train for text in (pair.prompt, pair.answer)]
        stories = story_texts("numbers", 0, TOKENIZER_STORIES)
        Tokenizer.train(stories + texts, 1024, "single").save(folder / "tokenizer")
    return Tokenizer.load(folder / "tokenizer")


def pretrain(arm: dict[str, Any], seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """Train a model on a text; saved in the folder. Counts the numbers of D_test in the text."""
    own = Arm(**arm)
    tokenizer = study_tokenizer(folder, words=own.text in WORD_TOKENS)
    model, texts = own.random_weights(seed, tokenizer), story_texts(own.text, seed, STORIES)
    stories = TokenDataset.from_texts(texts, tokenizer)
    sharpen_attention(model, 0.0)  # as the task begins
    config = TrainConfig(seed=seed, batch_tokens=4096, steps=steps)
    result = train_in_memory(model, tokenizer, config, stories=stories)
    save(folder / "models" / own.start(seed), model, tokenizer)
    held_out = TokenDataset.from_texts(story_texts(own.text, 1_000_000 + seed, HELD_OUT), tokenizer)
    loss = text_loss(model, held_out, tokenizer.eot_id).bits_per_byte
    return result | {"bits_per_byte": loss, "leaks": leaks(texts)}


def story_texts(text: str, seed: int, count: int) -> list[str]:
    """Documents of a text of TEXTS without the numbers of D_test from 11 on: a story with one of
    them is left out. In a broken text, each number is another one of as many digits."""
    if text == "drills":
        return [_drill(random.Random(f"{seed}:{n}")) for n in range(count)]
    stories = (story.text for story in generate(2 * count, seed, numbers=TEXTS[text]))
    kept = [story for story in stories if not leaks([story])][:count]
    if text == "broken":
        rng = random.Random(seed)
        kept = [re.sub(r"\d+", lambda number: _other(number[0], rng), story) for story in kept]
    return kept


_HELD_OUT = {i for i in range(11, LARGEST + 1) if is_test(i)}
_IN_WORDS = {number_words(i) for i in _HELD_OUT}
_NUMBERS = re.compile(rf"\d+|(?:\w+ hundred )?(?:{'|'.join(sorted(_IN_WORDS, reverse=True))})\b")


def leaks(texts: Sequence[str]) -> int:
    """How often texts have a number of D_test from 11 on, as a numeral or in words. (1, 3 and 7
    are in every text, "one day", and "forty-one" may be a part of a larger number.)"""
    numbers = (match[0] for text in texts for match in _NUMBERS.finditer(text.lower()))
    return sum(int(n) in _HELD_OUT if n.isdecimal() else n in _IN_WORDS for n in numbers)


def _other(number: str, rng: random.Random) -> str:
    """Another number of as many digits that is not in D_test."""
    numbers = range(10 ** (len(number) - 1), 10 ** len(number))
    return str(rng.choice([n for n in numbers if n not in _HELD_OUT and n != int(number)]))


def _drill(rng: random.Random) -> str:
    """Copy or reverse a random string of letters or of digits, or count between large numbers."""
    kind = rng.choice(("Say", "Backwards", "From"))
    if kind == "From":
        first = rng.randrange(101, 990)
        numbers = range(first, first + rng.randrange(2, 9))
        return f"From {first} to {numbers[-1]}: {' '.join(map(str, numbers))}"
    symbols = rng.choice((string.ascii_lowercase, "123456789"))  # "041" would be 41
    word = "".join(rng.choices(symbols, k=rng.randrange(3, 6)))
    return f"{kind} {word}: {word if kind == 'Say' else word[::-1]}"
