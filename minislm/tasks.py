"""The synthetic dataset: pairs (x_i, y_i), i = 1..100, that separate a rule from a heuristic.

    D_train = {i : i mod 10 not in {1, 3, 7}}    70 pairs
    D_test  = {i : i mod 10     in {1, 3, 7}}    30 pairs

A model that has learned the rule of a task answers all of D_test. One that relies on the last
digit, on lengths it has seen or on a list of cases answers D_train and fails on D_test. A task is a
function from i to a prompt and its answer; its docstring names what it tests and the heuristic. An
answer starts with a space, because the token of a word includes the space before it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from minislm.runtime.errors import UserError

TEST_RESIDUES = (1, 3, 7)
LARGEST = 100
END_OF_TEXT = "<|endoftext|>"  # as in GPT-2: it begins, ends and pads a text


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


# --- the tasks ------------------------------------------------------------------------------------


def _unary(i: int) -> tuple[str, str]:
    """The reference task of the project. Tests counting and comparing with the prompt.

    Heuristic: stop at a length that ended an answer in training."""
    numbers = " ".join("1" * n for n in range(1, i + 1))
    return f"Please count up in unary, starting at 1 and stopping at {'1' * i}:", f" {numbers}"


def _copy(i: int) -> tuple[str, str]:
    """Tests copying digits. Heuristic: end in a digit that ended an answer, never 1, 3 or 7."""
    return f"Copy the number {i}:", f" {i}"


def _reverse(i: int) -> tuple[str, str]:
    """Tests copying in reverse. Heuristic: no answer in training begins with 1, 3 or 7."""
    return f"Reverse the digits of {i}:", f" {str(i)[::-1]}"


def _parity(i: int) -> tuple[str, str]:
    """Tests a property of the last digit. Heuristic: "odd" for 5 and 9, else "even"; all of D_test
    is odd."""
    return f"Is {i} even or odd?", " odd" if i % 2 else " even"


def _successor(i: int) -> tuple[str, str]:
    """Tests the order of the digits. Heuristic: a table from last digit to last digit, which lacks
    1, 3 and 7; the order can be read from the tens and from "count"."""
    return f"What number comes after {i}?", f" {i + 1}"


def _words(i: int) -> tuple[str, str]:
    """Tests composition of tens and units. Heuristic: a list of the numbers seen.

    D_train never has "three", "seven", "eleven", "thirteen" or "seventeen": a model must learn
    these words from other text."""
    return f"Write {i} in words:", f" {number_words(i)}"


def _count(i: int) -> tuple[str, str]:
    """Tests when to stop: every step from 1 to 100 is in D_train. Heuristic: never stop at a number
    that ends in 1, 3 or 7."""
    return f"Count to {i}.", " " + " ".join(str(n) for n in range(1, i + 1))


def _sentence(i: int) -> tuple[str, str]:
    """Tests four word classes in new combinations: number in words, adjective, noun, verb.

    Heuristic: the number words seen, and always the plural ("One ... jumps" is in D_test only)."""
    adjective = ADJECTIVES[i % len(ADJECTIVES)]
    singular, plural = NOUNS[i % len(NOUNS)]
    verb = VERBS[i % len(VERBS)]
    agreed = f"{singular} {verb}s" if i == 1 else f"{plural} {verb}"
    return (
        f"Words: {i}, {adjective}, {singular}, {verb}.",
        f" {number_words(i).capitalize()} {adjective} {agreed}.",
    )


# The lengths of the lists share no factor with one another or with 10: no two i have the same
# words, and no word is tied to a last digit. Every verb takes a plain -s.
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
        raise ValueError(f"number_words takes 0 to 999, not {i}")
    hundreds, below_100 = divmod(i, 100)
    if hundreds:
        rest = f" {number_words(below_100)}" if below_100 else ""
        return f"{_BELOW_20[hundreds]} hundred{rest}"
    if i < 20:
        return _BELOW_20[i]
    tens, units = divmod(i, 10)
    return _TENS[tens - 2] + (f"-{_BELOW_20[units]}" if units else "")


# To add a task, write a function like those above and list it here (see also CONTRIBUTING.md).
_FUNCTIONS = (_unary, _copy, _reverse, _parity, _successor, _words, _count, _sentence)
TASKS: dict[str, Callable[[int], tuple[str, str]]] = {
    function.__name__.removeprefix("_"): function for function in _FUNCTIONS
}


# --- the pairs ------------------------------------------------------------------------------------


def is_test(i: int) -> bool:
    """Whether pair i belongs to D_test."""
    return i % 10 in TEST_RESIDUES


def pair(task: str, i: int) -> Pair:
    """The pair (x_i, y_i) of `task`; raises UserError for an unknown task or i not in 1..100."""
    if task not in TASKS:
        raise UserError(f"unknown task {task!r}; the tasks are {', '.join(TASKS)}")
    if not 1 <= i <= LARGEST:
        raise UserError(f"task {task!r} has the pairs 1 to {LARGEST}, not {i}")
    return Pair(task, i, *TASKS[task](i))


def pairs(task: str, split: str | None = None) -> list[Pair]:
    """The 100 pairs of `task` in order, or those of one split: "train" (70) or "test" (30)."""
    if split not in (None, "train", "test"):
        raise UserError(f"split must be 'train' or 'test', not {split!r}")
    everything = (pair(task, i) for i in range(1, LARGEST + 1))
    return [each for each in everything if split in (None, each.split)]


def encode_pair(tokenizer, pair: Pair) -> tuple[list[int], list[int]]:
    """Token ids of the prompt and of the completion, which ends with the end of text.

    The prompt is encoded alone, as in evaluation: no token spans the border, so training and
    generation see the same ids."""
    return tokenizer.prompt_ids(pair.prompt), [*tokenizer.encode(pair.answer), tokenizer.eot_id]


def fits(tokenizer, pairs: Iterable[Pair], context: int) -> tuple[list[Pair], list[Pair]]:
    """Pairs whose prompt and completion have at most `context` tokens, and the others, which a
    caller must report: nothing is truncated."""
    fitting, too_long = [], []
    for each in pairs:
        length = sum(len(ids) for ids in encode_pair(tokenizer, each))
        (fitting if length <= context else too_long).append(each)
    return fitting, too_long
