"""How good a model is, in numbers: loss, perplexity, bits per byte, exact match on the pairs.

Bits per byte compare models whatever their tokenizers: the nats of a text over the bytes it has in
UTF-8, in base 2. Every story is scored alone, from the end-of-text token that stands before it to
the one after it; that last token counts in the nats and has no bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from minislm.config import SampleConfig
from minislm.corpus.prepare import TokenFile
from minislm.fast.cross_entropy import token_losses
from minislm.model import Transformer
from minislm.sampler import Sampler
from minislm.tasks import Pair, encode_pair, fits, pairs, truncate
from minislm.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextLoss:
    """What a text costs a model."""

    nats: float
    tokens: int
    bytes: int

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.nats_per_token, 700.0))

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes


def windows(length: int, context: int) -> list[tuple[int, int, int]]:
    """How a text of `length` predictions is read: (begin, end, first prediction that counts).

    A text longer than the context is read in windows that overlap by half: every token counts
    once, and all but the first window's have at least half a context before them.
    """
    found, counted, begin = [], 0, 0
    while counted < length:
        end = min(begin + context, length)
        found.append((begin, end, counted))
        counted, begin = end, end - context // 2
    return found


def text_loss(
    model: Transformer,
    stories: TokenFile,
    eot_id: int,
    *,
    context: int | None = None,
    dtype: torch.dtype = torch.float32,
    progress: bool = False,
) -> TextLoss:
    """The loss over all stories, each scored from the end-of-text token before it.

    A story longer than `context` (the model's, if None) is read in windows: see `windows`.
    """
    nats = story_losses(model, stories, eot_id, context=context, dtype=dtype, progress=progress)
    return TextLoss(float(nats.sum()), stories.n_tokens, stories.bytes)


def loss_of_fitting(
    nats: np.ndarray, stories: TokenFile, tokenizer: Tokenizer, context: int
) -> tuple[int, TextLoss]:
    """How many stories a context holds whole, and the loss of these alone."""
    lengths = np.diff(stories.starts)
    chosen = np.flatnonzero(lengths <= context)
    text = (tokenizer.decode(stories.story(i).tolist()) for i in chosen)
    n_bytes = sum(len(story.encode()) for story in text)
    return len(chosen), TextLoss(float(nats[chosen].sum()), int(lengths[chosen].sum()), n_bytes)


@torch.inference_mode()
def story_losses(
    model: Transformer,
    stories: TokenFile,
    eot_id: int,
    *,
    context: int | None = None,
    dtype: torch.dtype = torch.float32,
    batch_tokens: int = 16384,
    progress: bool = False,
) -> np.ndarray:
    """The nats of every story, its end of text included: float64 [stories]; see `text_loss`."""
    was_training = model.training
    model.eval()
    device = model.embedding.weight.device
    context = min(context or model.config.context, model.config.context)
    rows = [
        (story, *window)
        for story in range(len(stories))
        for window in windows(int(stories.starts[story + 1] - stories.starts[story]), context)
    ]
    rows.sort(key=lambda row: row[2] - row[1])  # rows of one length together: no padding
    nats, begin = np.zeros(len(stories)), 0
    silent = None if progress else True  # tqdm's None: unless on a terminal
    with tqdm(total=stories.n_tokens, unit=" tokens", disable=silent, leave=False) as bar:
        while begin < len(rows):
            end, width = begin + 1, rows[begin][2] - rows[begin][1]
            while end < len(rows):
                width = max(width, rows[end][2] - rows[end][1])
                if (end + 1 - begin) * width > batch_tokens:
                    break
                end += 1
            inputs_BT, targets_BT = _rows(stories, rows[begin:end], eot_id)
            losses_BT = token_losses(model, inputs_BT.to(device), targets_BT.to(device), dtype)
            each = losses_BT.double().sum(1).cpu().numpy()
            np.add.at(nats, [row[0] for row in rows[begin:end]], each)
            bar.update(int((targets_BT >= 0).sum()))
            begin = end
    model.train(was_training)
    return nats


def _rows(
    stories: TokenFile, rows: Sequence[tuple[int, int, int, int]], eot_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(end - begin for _, begin, end, _ in rows)
    inputs_BT = np.full((len(rows), width), eot_id, np.int64)
    targets_BT = np.full((len(rows), width), -1, np.int64)
    for b, (number, begin, end, first) in enumerate(rows):
        story = stories.story(number).astype(np.int64)
        text = np.concatenate(([eot_id], story))  # prediction i reads text[:i + 1]: story[i] next
        inputs_BT[b, : end - begin] = text[begin:end]
        targets_BT[b, first - begin : end - begin] = story[first:end]
    return torch.from_numpy(inputs_BT), torch.from_numpy(targets_BT)


@dataclass(frozen=True)
class TaskScore:
    """Exact match on one task: right answers and questions, for each split."""

    train: tuple[int, int]
    test: tuple[int, int]
    too_long: tuple[int, ...] = ()  # the i whose pair exceeds the context: asked of nobody

    def rate(self, split: str) -> float | None:
        right, asked = getattr(self, split)
        return right / asked if asked else None


def answers(
    model: Transformer, tokenizer: Tokenizer, asked: Sequence[Pair], batch_size: int = 64
) -> list[str]:
    """What the model says to each prompt: greedy, up to the first end of text.

    A model may say a little more than the longest right answer, so that one that does not stop is
    seen not to stop.
    """
    encoded = [encode_pair(tokenizer, pair) for pair in asked]
    longest = max((len(completion) for _, completion in encoded), default=0)
    settings = SampleConfig(max_new_tokens=longest + 1, temperature=0.0)
    sampler = Sampler(model, tokenizer, batch_size)
    new_ids = sampler.generate_ids([prompt for prompt, _ in encoded], settings)
    said = []
    for (prompt, _), ids in zip(encoded, new_ids):
        ended = tokenizer.eot_id in ids
        text = tokenizer.continuation(prompt, ids[: ids.index(tokenizer.eot_id)] if ended else ids)
        said.append(truncate(text) if ended else text + "...")  # not ended: never a right answer
    return said


def exact_match(
    model: Transformer, tokenizer: Tokenizer, tasks: Iterable[str], batch_size: int = 64
) -> dict[str, TaskScore]:
    """The share of prompts answered exactly, for every task and split."""
    scores = {}
    for task in tasks:
        asked, too_long = fits(tokenizer, pairs(task), model.config.context)
        said = answers(model, tokenizer, asked, batch_size)
        right = {"train": 0, "test": 0}
        for pair, text in zip(asked, said):
            right[pair.split] += text == pair.answer
        count = {split: sum(pair.split == split for pair in asked) for split in right}
        scores[task] = TaskScore(
            train=(right["train"], count["train"]),
            test=(right["test"], count["test"]),
            too_long=tuple(pair.i for pair in too_long),
        )
    return scores


def as_json(
    model: Transformer, loss: TextLoss | None, scores: dict[str, TaskScore] | None
) -> dict[str, object]:
    """One model's entry in the --json object; a key is absent where nothing was measured."""
    entry: dict[str, object] = {"parameters": model.n_parameters()}
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
    """Exact match as a table, with the pairs that were too long to ask."""
    lines = [f"{'exact match':<14}{'D_train':>16}{'D_test':>16}"]
    for task, score in scores.items():
        cells = "".join(f"{_share(*getattr(score, split)):>16}" for split in ("train", "test"))
        lines.append(f"{task:<14}{cells}{_left_out(score.too_long)}")
    asked = [score for score in scores.values() if score.train[1]]
    if len(asked) > 1:
        total = [[sum(s) for s in zip(*(getattr(x, split) for x in asked))]
                 for split in ("train", "test")]  # fmt: skip
        lines.append(f"{'all':<14}" + "".join(f"{_share(*each):>16}" for each in total))
    return "\n".join(lines)


def _share(right: int, asked: int) -> str:
    return f"{right / asked:.0%} of {asked}" if asked else "-"


def _left_out(numbers: Sequence[int]) -> str:
    if not numbers:
        return ""
    shown = f"i = {numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} of i = {numbers[0]}.."
    return f"   too long: {shown}"
