"""How good a model is, in numbers: loss, perplexity, bits per byte, exact match on the pairs.

Bits per byte, nats / (ln 2 x bytes of the text in UTF-8), compare models with any tokenizer. Every
document is scored alone, from the end-of-text token before it to the one after it; that last token
counts in the nats and has no bytes."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from minislm.config import SampleConfig
from minislm.dataset import IGNORED, TokenDataset, batches_of, collate
from minislm.model import Transformer
from minislm.sampler import Sampler
from minislm.tasks import Pair, encode_pair, fits, pairs

_HEAD_TOKENS = 1024  # tokens whose logits are in memory at a time


@dataclass(frozen=True)
class TextLoss:
    """The loss of a text in nats, its tokens and its bytes."""

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


@torch.no_grad()
def token_losses(
    model: Transformer, inputs_BT: Tensor, targets_BT: Tensor, dtype: torch.dtype
) -> Tensor:
    """Cross-entropy of every token in float32 [B, T]; 0 where the target is ignored."""
    counted = targets_BT != IGNORED
    losses_BT = torch.zeros(targets_BT.shape, device=inputs_BT.device)
    with torch.autocast(inputs_BT.device.type, dtype, enabled=dtype != torch.float32):
        features_NC, targets_N = model.features(inputs_BT)[counted], targets_BT[counted]
        losses = [
            F.cross_entropy(model.head(part).float(), target, reduction="none")
            for part, target in zip(features_NC.split(_HEAD_TOKENS), targets_N.split(_HEAD_TOKENS))
        ]
    losses_BT[counted] = torch.cat(losses)
    return losses_BT


def sliding_windows(length: int, context: int) -> list[tuple[int, int, int]]:
    """Windows over `length` predictions: (begin, end, first prediction that is scored).

    A document longer than the context is read in windows that overlap by half: every token is
    scored once, and after the first window with at least half a context before it."""
    windows, scored, begin = [], 0, 0
    while scored < length:
        end = min(begin + context, length)
        windows.append((begin, end, scored))
        scored, begin = end, end - context // 2
    return windows


@torch.inference_mode()
def document_losses(
    model: Transformer, documents: TokenDataset, eot_id: int, *, context: int | None = None,
    dtype: torch.dtype = torch.float32, batch_tokens: int = 16384, progress: bool = False,
) -> np.ndarray:  # fmt: skip
    """The nats of every document, its end of text included: float64 [documents].

    Args:
        context: window for longer documents (default: the model's); see `sliding_windows`.
        dtype: precision of the matrix products."""
    was_training = model.training
    model.eval()
    device, context = model.embedding.weight.device, min(context or 1 << 30, model.config.context)
    rows = [(number, *window) for number in range(len(documents))
            for window in sliding_windows(len(documents.document(number)), context)]  # fmt: skip
    rows.sort(key=lambda row: row[2] - row[1])  # similar lengths together: little padding
    lengths = [end - begin for _, begin, end, _ in rows]
    nats = np.zeros(len(documents))
    batches, hidden = list(batches_of(lengths, batch_tokens)), None if progress else True
    for part in tqdm(batches, unit=" batches", leave=False, disable=hidden):
        batch = [documents.window(*row[:3], eot_id) for row in rows[part]]
        for (_, begin, _, first), (_, targets) in zip(rows[part], batch):
            targets[: first - begin] = IGNORED  # scored in the window before
        inputs_BT, targets_BT = collate(batch, lengths[part][-1], eot_id)
        losses_BT = token_losses(model, inputs_BT.to(device), targets_BT.to(device), dtype)
        np.add.at(nats, [row[0] for row in rows[part]], losses_BT.double().sum(1).cpu().numpy())
    model.train(was_training)
    return nats


def text_loss(model: Transformer, documents: TokenDataset, eot_id: int, **options) -> TextLoss:
    """The loss over all documents; options as for `document_losses`."""
    nats = document_losses(model, documents, eot_id, **options)
    return TextLoss(float(nats.sum()), documents.n_tokens, documents.bytes)


@dataclass(frozen=True)
class Answer:
    """An answer, and whether it came to the end of text."""

    text: str
    finished: bool


def answers(sampler: Sampler, questions: Sequence[Pair]) -> list[Answer]:
    """The greedy answer of a model to each prompt, up to the first end of text.

    It has at most one token more than the longest right answer and its end of text."""
    tokenizer = sampler.text_tokenizer()
    encoded = [encode_pair(tokenizer, pair) for pair in questions]
    longest = max((len(completion) for _, completion in encoded), default=0)
    settings = SampleConfig(max_new_tokens=longest + 1, temperature=0.0)
    found = []
    new_ids = sampler.generate_ids([prompt for prompt, _ in encoded], settings)
    for (prompt, _), ids in zip(encoded, new_ids):
        finished = ids[-1] in tokenizer.end_ids
        text = tokenizer.continuation(prompt, ids[:-1] if finished else ids)
        found.append(Answer(text, finished))
    return found


@dataclass(frozen=True)
class TaskScore:
    """Exact match on one task: right answers and questions, for each split."""

    train: tuple[int, ...]
    test: tuple[int, ...]
    too_long: tuple[int, ...] = ()  # the i whose pair exceeds the context and was left out


def exact_match(sampler: Sampler, tasks: Iterable[str]) -> dict[str, TaskScore]:
    """`score` on D_train and D_test of every task."""
    return {task: score(sampler, pairs(task, "train"), pairs(task, "test")) for task in tasks}


def score(sampler: Sampler, train: Sequence[Pair], test: Sequence[Pair]) -> TaskScore:
    """Right answers of each split: equal to the pair's, as the tokenizer has it, and finished."""
    tokenizer, counts, left_out = sampler.text_tokenizer(), [], []
    for split in (train, test):
        fitting, too_long = fits(tokenizer, split, sampler.model.config.context)
        left_out += [pair.i for pair in too_long]
        wanted = [tokenizer.continuation(*encode_pair(tokenizer, pair)) for pair in fitting]
        found = zip(answers(sampler, fitting), wanted)
        right = sum(answer == Answer(text, finished=True) for answer, text in found)
        counts.append((right, len(fitting)))
    return TaskScore(counts[0], counts[1], tuple(sorted(left_out)))
