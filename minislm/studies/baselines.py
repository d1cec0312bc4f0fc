"""Baselines behind the transformer's interface, `forward(tokens [B, T]) -> logits [B, T, V]`.

`DummyModel` has a known accuracy, so it tests the evaluator. The heuristics are shallow rules that
a trained model is compared with: functions of a pair, whose answer they must not read, and of its
task's D_train. All are sampled and evaluated as a transformer is."""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn

from minislm.config import ModelConfig
from minislm.tasks import TASKS, Pair, encode_pair, fits, pairs
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


def nearest_prompt(pair: Pair, train: list[Pair]) -> str:
    """The answer to the prompt at the smallest edit distance."""
    return min((edit_distance(each.prompt, pair.prompt), each.i, each.answer) for each in train)[-1]


def copy_the_prompt(pair: Pair, train: list[Pair]) -> str:
    """The number in the prompt."""
    return f" {number_in(pair.prompt)}"


def number_in(prompt: str) -> int:
    """The first number in a prompt."""
    return int(re.search(r"\d+", prompt)[0])


def edit_distance(a: str, b: str) -> int:
    """The number of insertions, deletions and replacements from a to b (Levenshtein 1966)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


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


class Ngram(Baseline):
    """The token that most often followed the last `order - 1` tokens, or fewer if they are new."""

    def __init__(self, order: int, *args, **options):
        super().__init__(copy_the_prompt, *args, **options)
        self.order, self.counts = order, defaultdict(Counter)  # tokens -> counts of the next one
        for pair in self.train_pairs:
            ids = sum(encode_pair(self.tokenizer, pair), [])
            for end in range(1, len(ids)):
                for n in range(min(order, end + 1)):
                    self.counts[tuple(ids[end - n : end])][ids[end]] += 1

    @torch.no_grad()
    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits [B, T, V]: the logarithm of the count, or -30 for a token that never followed."""
        logits_BTV = torch.full((*tokens_BT.shape, self.config.vocab_size), _IMPOSSIBLE)
        for b, ids in enumerate(tokens_BT.tolist()):
            for t in range(len(ids)):
                last = tuple(ids[max(0, t + 2 - self.order) : t + 1])
                while last not in self.counts:
                    last = last[1:]
                tokens, counts = zip(*self.counts[last].items())
                logits_BTV[b, t, list(tokens)] = torch.tensor(counts).log()
        return logits_BTV


RULES = (majority, last_digit, nearest_number, nearest_prompt, copy_the_prompt)
HEURISTICS: dict[str, Callable[..., Baseline]] = {  # called with (tokenizer, known, train)
    rule.__name__.replace("_", " "): partial(Baseline, rule) for rule in RULES
} | {"bigram": partial(Ngram, 2), "trigram": partial(Ngram, 3)}
