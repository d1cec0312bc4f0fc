"""Tables for the terminal and for reports, and the entries of --json."""

import textwrap
from collections.abc import Sequence
from itertools import zip_longest

from minislm.evaluation import TaskScore, TextLoss

_WIDTH = 44  # characters of a column of text
_LOSSES = ("nats_per_token", "perplexity", "bits_per_byte")
_SPLITS = ("train", "test")


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def model_entry(
    parameters: int, loss: TextLoss | None, scores: dict[str, TaskScore] | None
) -> dict[str, object]:
    """One model's entry in the --json object; a key is absent where nothing was measured."""
    entry: dict[str, object] = {"parameters": parameters}
    if loss is not None:
        entry |= {name: getattr(loss, name) for name in _LOSSES}
    if scores is not None:
        entry["tasks"] = tasks = {}
        for task, score in scores.items():
            counts = {split: getattr(score, split) for split in _SPLITS}
            tasks[task] = {split: right / n for split, (right, n) in counts.items() if n}
    return entry


def task_table(scores: dict[str, TaskScore]) -> str:
    """Exact match as a table, with the pairs that are too long for the context."""
    lines = [f"{'exact match':<14}{'D_train':>16}{'D_test':>16}"]
    for task, score in scores.items():
        lines.append(_task_row(task, [score]))
        if score.too_long:
            lines[-1] += f"   too long: {len(score.too_long)}, from i = {score.too_long[0]}"
    evaluated = [score for score in scores.values() if score.train[1]]
    if len(evaluated) > 1:
        lines.append(_task_row("all", evaluated))
    return "\n".join(lines)


def _task_row(name: str, scores: Sequence[TaskScore]) -> str:
    line = f"{name:<14}"
    for split in _SPLITS:
        right, n = map(sum, zip(*(getattr(score, split) for score in scores)))
        line += f"{f'{right / n:.0%} of {n}' if n else '-':>16}"
    return line


def columns(prompt: str, texts: list[tuple[str, str]]) -> str:
    """The continuations of one prompt side by side: one column per (model, text)."""
    cells, lines = [], [f'"{prompt}" ...']
    for name, text in texts:
        wrapped = textwrap.wrap(" ".join(text.split()), _WIDTH)
        cells.append([name[-_WIDTH:], "-" * min(_WIDTH, len(name)), *wrapped])
    for row in zip_longest(*cells, fillvalue=""):
        lines.append("  ".join(f"{cell:<{_WIDTH}}" for cell in row).rstrip())
    return "\n".join(lines)
