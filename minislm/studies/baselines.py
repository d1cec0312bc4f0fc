"""Baselines behind the transformer's interface, `forward(tokens [B, T]) -> logits [B, T, V]`.
`DummyModel` has a known accuracy, so it tests the evaluator. The heuristics are shallow rules that
a trained model is compared with: functions of a pair, whose answer they must not read, and of its
task's D_train. All are sampled and evaluated as a transformer is."""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from minislm.config import ModelConfig
from minislm.tasks import TASKS, Pair, fits, number_words, pairs
from minislm.tokenizer import Tokenizer

CONTEXT = 512
_IMPOSSIBLE = -30.0  # logit


def majority(pair: Pair, train: list[Pair]) -> str:
    """The most common answer."""
    return Counter(each.answer for each in train).most_common(1)[0][0]


def last_digit(pair: Pair, train: list[Pair]) -> str:
    """The most common answer to numbers with the same last digit, or else with the nearest one."""
    digits = [number_in(each.prompt) % 10 for each in train]
    _, nearest = min((abs(digit - number_in(pair.prompt) % 10), digit) for digit in digits)
    return majority(pair, [each for each, digit in zip(train, digits) if digit == nearest])


def nearest_number(pair: Pair, train: list[Pair]) -> str:
    """The answer to the nearest number; of two, to the lower one."""
    number = number_in(pair.prompt)
    return min((abs(number_in(each.prompt) - number), each.i, each.answer) for each in train)[-1]


def copy_the_prompt(pair: Pair, train: list[Pair]) -> str:
    """The number in the prompt."""
    return f" {number_in(pair.prompt)}"


def fixed_offset(pair: Pair, train: list[Pair]) -> str:
    """The characters at one distance back, the best for D_train, up to the end of the prompt: what
    an attention head can do whatever the characters are."""

    def repeated(distance: int, prompt: str) -> str:
        text = prompt
        while text[-distance] != prompt[-1] and len(text) < len(prompt) + 8:
            text += text[-distance]
        return text[len(prompt) :]

    right = [sum(repeated(n, each.prompt) == each.answer for each in train) for n in range(1, 8)]
    return repeated(1 + right.index(max(right)), pair.prompt)


def number_in(prompt: str) -> int:
    """The number that a prompt is about: its last one; in unary, the length of its digits."""
    digits = re.findall(r"\d+", prompt)[-1]
    return len(digits) if "unary" in prompt else int(digits)


class Baseline(nn.Module):
    """A module without weights that gives `answer(pair, train)` to the prompts of `known` pairs.
    By default, it knows all pairs of all tasks, and learns from those that it knows in D_train."""

    def __init__(
        self, answer: Callable[[Pair, list[Pair]], str], tokenizer: Tokenizer,
        known: Iterable[Pair] | None = None, train: Iterable[Pair] | None = None,
    ):  # fmt: skip
        super().__init__()
        self.tokenizer = tokenizer
        self.config = ModelConfig(context=CONTEXT, vocab_size=tokenizer.vocab_size)
        self.known = [p for task in TASKS for p in pairs(task)] if known is None else list(known)
        own = (pair for pair in self.known if pair.split == "train")
        self.train_pairs = list(own if train is None else train)
        self._next: dict[tuple[int, ...], int] = {}  # the tokens of a text -> the next one
        for pair in fits(tokenizer, self.known, CONTEXT)[0]:
            text = answer(pair, [each for each in self.train_pairs if each.task == pair.task])
            prompt = tokenizer.prompt_ids(pair.prompt)
            completion = [*tokenizer.encode(text), tokenizer.eot_id][: CONTEXT - len(prompt)]
            for n, token in enumerate(completion):
                self._next[(*prompt, *completion[:n])] = token

    @torch.no_grad()
    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits [B, T, V]: 0 for the next token of the answer, -30 for every other token; inside a
        prompt and after an answer, the next token is the end of text."""
        next_BT = [[self._next.get(tuple(ids[: t + 1]), self.tokenizer.eot_id)
                    for t in range(len(ids))] for ids in tokens_BT.tolist()]  # fmt: skip
        logits_BTV = torch.full((*tokens_BT.shape, self.config.vocab_size), _IMPOSSIBLE)
        return logits_BTV.scatter_(2, torch.tensor(next_BT)[..., None], 0.0)


class DummyModel(Baseline):
    """Gives the right answer with a known probability, else that of another pair of the task. Every
    prompt has its own random number, so a score does not depend on other prompts."""

    def __init__(self, tokenizer: Tokenizer, accuracy: float, seed: int = 0, **options):
        def answer(pair: Pair, train: list[Pair]) -> str:
            rng = random.Random(f"{seed}:{pair.task}:{pair.prompt}")
            if rng.random() < accuracy:
                return pair.answer
            others = {each.answer for each in self.known if each.task == pair.task}
            return rng.choice(sorted(others - {pair.answer}))

        super().__init__(answer, tokenizer, **options)


HEURISTICS = {rule.__name__.replace("_", " "): rule for rule in (
    majority, last_digit, nearest_number, copy_the_prompt, fixed_offset)}  # fmt: skip


def needed(task: str, i: int) -> set[str]:
    """The parts of a rule that the answer to a question needs, each of which must be learned.
    Digits have one table for all places; whether two numbers are equal needs no table."""
    digits, words = set(str(i)), set(re.split("[ -]", number_words(i)))
    if task in ("copy", "reverse", "count"):
        return digits
    if task == "successor":  # the digits that change, and those that stay
        places = zip(str(i).zfill(3), str(i + 1).zfill(3))
        return {a if a == b else f"{a} to {b}" for a, b in places}
    if task == "parity":
        return {str(i % 10)}
    if task == "sentence":
        return words | {"singular" if i == 1 else "plural"}
    return words if task == "words" else set()  # unary has one symbol


def determined(task: str, i: int, train: Iterable[Pair]) -> bool:
    """Whether an ideal learner can answer: it has seen every part of the rule in D_train, in any
    place. Where it cannot, a failure on D_test is no evidence about a model."""
    return needed(task, i) <= set().union(*(needed(task, pair.i) for pair in train))
