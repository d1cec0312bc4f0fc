"""Tables for the terminal and for reports, and the entries of --json."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from minislm.evaluation import TaskScore, TextLoss

_CELL = 44  # characters of a column of text


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def model_entry(
    parameters: int, loss: TextLoss | None, scores: dict[str, TaskScore] | None
) -> dict[str, object]:
    """One model's entry in the --json object; a key is absent where nothing was measured."""
    entry: dict[str, object] = {"parameters": parameters}
    if loss is not None:
        entry |= {
            "nats_per_token": loss.nats_per_token,
            "perplexity": loss.perplexity,
            "bits_per_byte": loss.bits_per_byte,
        }
    if scores is not None:
        entry["tasks"] = {
            task: {
                split: score.rate(split)
                for split in ("train", "test")
                if score.rate(split) is not None
            }
            for task, score in scores.items()
        }
    return entry


def task_table(scores: dict[str, TaskScore]) -> str:
    """Exact match as a table, with the pairs that were too long for the context."""
    lines = [f"{'exact match':<14}{'D_train':>16}{'D_test':>16}"]
    for task, score in scores.items():
        cells = "".join(f"{_rate(*getattr(score, split)):>16}" for split in ("train", "test"))
        lines.append(f"{task:<14}{cells}{_left_out(score.too_long)}")
    evaluated = [score for score in scores.values() if score.train[1]]
    if len(evaluated) > 1:
        total = [[sum(s) for s in zip(*(getattr(x, split) for x in evaluated))]
                 for split in ("train", "test")]  # fmt: skip
        lines.append(f"{'all':<14}" + "".join(f"{_rate(*each):>16}" for each in total))
    return "\n".join(lines)


def _rate(right: int, asked: int) -> str:
    return f"{right / asked:.0%} of {asked}" if asked else "-"


def _left_out(numbers: Sequence[int]) -> str:
    if not numbers:
        return ""
    shown = f"i = {numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} of i = {numbers[0]}.."
    return f"   too long: {shown}"


def columns(prompt: str, texts: list[tuple[str, str]]) -> str:
    """The continuations of one prompt side by side: one column per (model, text)."""
    wrapped = [
        [name[-_CELL:], "-" * min(_CELL, len(name))]
        + textwrap.wrap(" ".join(text.split()), _CELL, break_long_words=True)
        for name, text in texts
    ]
    lines = [f'"{prompt}" ...']
    for line in range(max(map(len, wrapped))):
        cells = (column[line] if line < len(column) else "" for column in wrapped)
        lines.append("  ".join(f"{cell:<{_CELL}}" for cell in cells).rstrip())
    return "\n".join(lines)
