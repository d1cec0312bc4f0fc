"""The synthetic tasks: pairs (x_i, y_i), i = 1..100, that tell a rule from a shallow heuristic.

    D_train = {i : i mod 10 not in {1, 3, 7}}    70 pairs
    D_test  = {i : i mod 10     in {1, 3, 7}}    30 pairs

A model that has found the rule of a task answers all of D_test; one that leans on the last digit,
on lengths it has seen or on a list of cases answers D_train and fails. Every task is one function
from i to a prompt and its answer, and its docstring names the rule and the shortcut. An answer
starts with a space, because a prompt ends without one and a word's token begins with its space.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from minislm.runtime.errors import UserError, run_script
from minislm.runtime.files import atomic_write

TEST_RESIDUES = (1, 3, 7)
LARGEST = 100
END_OF_TEXT = "<|endoftext|>"  # the decoded pad token of `tokenizer.py`; a test holds them together


@dataclass(frozen=True)
class Pair:
    """One prompt x_i and its answer y_i."""

    task: str
    i: int
    prompt: str
    answer: str

    @property
    def split(self) -> str:
        """ "train" or "test"."""
        return "test" if is_test(self.i) else "train"

    @property
    def completion(self) -> str:
        """What follows the prompt: the answer and the decoded pad token."""
        return self.answer + END_OF_TEXT


# --- the tasks ------------------------------------------------------------------------------------


def _unary(i: int) -> tuple[str, str]:
    """The reference: write 1 to i in unary, each number one longer, and stop at the prompt's.

    Tests counting and looking back. Shortcut: stop at a length that was an end in training.
    """
    numbers = ("1" * n for n in range(1, i + 1))
    return (
        f"Please count up in unary, starting at 1 and stopping at {'1' * i}:",
        " " + " ".join(numbers),
    )


def _copy(i: int) -> tuple[str, str]:
    """Tests copying, digit by digit. Shortcut: the ends a number had in training, never 1, 3, 7."""
    return f"Copy the number {i}:", f" {i}"


def _reverse(i: int) -> tuple[str, str]:
    """Tests copying in the other order. Shortcut: no answer in training begins with 1, 3 or 7."""
    return f"Reverse the digits of {i}:", f" {str(i)[::-1]}"


def _parity(i: int) -> tuple[str, str]:
    """Tests a property of the last digit. Shortcut: "odd" for 5 and 9, else "even".

    All of D_test is odd, so that shortcut scores 100 % in training and 0 % in the test.
    """
    return f"Is {i} even or odd?", " odd" if i % 2 else " even"


def _successor(i: int) -> tuple[str, str]:
    """Tests the order of the digits. Shortcut: a table from last digit to last digit.

    The table of D_train lacks 1, 3 and 7; the order itself stands in the tens and in "count".
    """
    return f"What number comes after {i}?", f" {i + 1}"


def _words(i: int) -> tuple[str, str]:
    """Tests composition: tens and units are named one by one. Shortcut: a list of the numbers seen.

    D_train never uses "three" or "seven", nor "eleven", "thirteen" and "seventeen": the words
    themselves must come from other text, such as stories.
    """
    return f"Write {i} in words:", f" {number_words(i)}"


def _count(i: int) -> tuple[str, str]:
    """Tests where to stop: every step from 1 to 100 is in D_train, the end is in the prompt.

    Shortcut: never stop at a number that ends in 1, 3 or 7.
    """
    return f"Count to {i}.", " " + " ".join(str(n) for n in range(1, i + 1))


def _sentence(i: int) -> tuple[str, str]:
    """Tests every word class at once: number in words, adjective, noun in the plural, verb.

    The words of D_test occur in D_train, the combinations do not. Shortcut: the number words seen;
    and always the plural, because "One ... jumps" (i = 1) is in D_test only.
    """
    adjective = ADJECTIVES[i % len(ADJECTIVES)]
    singular, plural = NOUNS[i % len(NOUNS)]
    verb = VERBS[i % len(VERBS)]
    agreed = f"{singular} {verb}s" if i == 1 else f"{plural} {verb}"
    return (
        f"Words: {i}, {adjective}, {singular}, {verb}.",
        f" {number_words(i).capitalize()} {adjective} {agreed}.",
    )


# The lists' lengths share no factor with one another or with 10: so no two i have the same words,
# and no word is tied to a last digit. Every verb takes a plain -s.
# fmt: off
ADJECTIVES = (
    "small", "happy", "little", "young", "funny", "kind", "quiet", "brave", "big",
    "old", "hungry", "sad", "tired", "good", "pretty", "clever", "gentle",
)
NOUNS = (
    ("bird", "birds"), ("mouse", "mice"), ("cat", "cats"), ("dog", "dogs"), ("child", "children"),
    ("fox", "foxes"), ("goose", "geese"), ("bear", "bears"), ("wolf", "wolves"), ("boy", "boys"),
    ("pony", "ponies"), ("sheep", "sheep"), ("girl", "girls"), ("man", "men"), ("duck", "ducks"),
    ("baby", "babies"), ("woman", "women"), ("rabbit", "rabbits"), ("puppy", "puppies"),
)
VERBS = (
    "play", "sing", "jump", "run", "sleep", "dance", "walk", "laugh", "swim", "hide", "smile",
    "wait", "eat",
)
# fmt: on

TASKS: dict[str, Callable[[int], tuple[str, str]]] = {
    "unary": _unary,
    "copy": _copy,
    "reverse": _reverse,
    "parity": _parity,
    "successor": _successor,
    "words": _words,
    "count": _count,
    "sentence": _sentence,
}


# fmt: off
_BELOW_20 = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
# fmt: on


def number_words(i: int) -> str:
    """English words for 0 <= i <= 999: "forty-one", "one hundred", "two hundred five"."""
    if not 0 <= i <= 999:
        raise ValueError(f"number_words knows 0 to 999, not {i}")
    hundreds, below_100 = divmod(i, 100)
    if hundreds:
        rest = f" {number_words(below_100)}" if below_100 else ""
        return f"{_BELOW_20[hundreds]} hundred{rest}"
    if i < 20:
        return _BELOW_20[i]
    tens, units = divmod(i, 10)
    return _TENS[tens - 2] + (f"-{_BELOW_20[units]}" if units else "")


# --- the pairs ------------------------------------------------------------------------------------


def is_test(i: int) -> bool:
    """Whether i belongs to D_test."""
    return i % 10 in TEST_RESIDUES


def pair(task: str, i: int) -> Pair:
    """The pair (x_i, y_i) of `task`; raises UserError for an unknown task or i not in 1..100."""
    if task not in TASKS:
        near = difflib.get_close_matches(task, TASKS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ";"
        raise UserError(f"unknown task {task!r}{hint} the tasks are {', '.join(TASKS)}")
    if not 1 <= i <= LARGEST:
        raise UserError(f"task {task!r} has the pairs 1 to {LARGEST}, not {i}")
    return Pair(task, i, *TASKS[task](i))


def pairs(task: str, split: str | None = None) -> list[Pair]:
    """The 100 pairs of `task` in order, or those of one split: "train" (70) or "test" (30)."""
    if split not in (None, "train", "test"):
        raise UserError(f"split must be 'train' or 'test', not {split!r}")
    everything = (pair(task, i) for i in range(1, LARGEST + 1))
    return [each for each in everything if split in (None, each.split)]


def truncate(text: str, end: str = END_OF_TEXT) -> str:
    """`text` up to the first end of text: an answer is right if this equals it exactly."""
    return text.split(end, 1)[0]


def encode_pair(tokenizer, pair: Pair) -> tuple[list[int], list[int]]:
    """Ids of the prompt and of the completion by a `minislm.tokenizer.Tokenizer`, end included.

    The prompt is encoded alone, as it is when a model has to answer it: no token reaches across
    the border, so the two lists put together are what the model sees in training and generation.
    """
    return (
        tokenizer.prompt_ids(pair.prompt),
        tokenizer.encode(pair.answer) + [tokenizer.eot_id],
    )


def fits(tokenizer, pairs: Iterable[Pair], context: int) -> tuple[list[Pair], list[Pair]]:
    """Split pairs into those whose prompt and completion have at most `context` tokens, and others.

    Nothing is cut: whoever leaves the second list out must say so.
    """
    fitting: list[Pair] = []
    too_long: list[Pair] = []
    for each in pairs:
        length = sum(len(ids) for ids in encode_pair(tokenizer, each))
        (fitting if length <= context else too_long).append(each)
    return fitting, too_long


def write_data(folder: str | Path) -> list[Path]:
    """Write FOLDER/TASK.jsonl for every task, one JSON object per pair; return the paths."""
    paths = []
    for task in TASKS:
        records = (
            {
                "task": each.task,
                "i": each.i,
                "split": each.split,
                "prompt": each.prompt,
                "completion": each.completion,
            }
            for each in pairs(task)
        )
        path = Path(folder) / f"{task}.jsonl"
        atomic_write(path, "".join(json.dumps(record) + "\n" for record in records))
        paths.append(path)
    return paths


def main() -> None:
    """Regenerate data/ in the current folder and print what was written."""
    for path in write_data("data"):
        print(path)


if __name__ == "__main__":
    run_script(main)
