"""Training in memory, without a run folder, and the answers of a model by teacher forcing."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from minislm.config import PRESET_TRAINING, TrainConfig
from minislm.dataset import IGNORED, Batches, TokenDataset
from minislm.fast.backward import FastLossAndGrad
from minislm.model import Transformer
from minislm.studies.curriculum import Curriculum
from minislm.tasks import Pair, encode_pair
from minislm.tokenizer import Tokenizer
from minislm.training import Trainer

_TOKENS = 16384  # of a batch of answers
UNARY = {k: v for k, v in PRESET_TRAINING["unary"].items() if k in TrainConfig.__annotations__}

Errors = dict[str, list | None]  # i -> `deviation`


def train_in_memory(
    model: Transformer, tokenizer: Tokenizer, config: TrainConfig,
    train: Sequence[Pair] = (), stories: TokenDataset | None = None,
) -> dict[str, float]:  # fmt: skip
    """Train in place, in float32, on stories or on pairs, by a curriculum if the config has one.
    All must fit the context. Returns the steps, targets and smoothed loss (nats)."""
    options: dict[str, Any] = dict(context=model.config.context, batch_tokens=config.batch_tokens,
                   eot_id=tokenizer.eot_id, seed=config.seed)  # fmt: skip
    examples = [encode_pair(tokenizer, pair) for pair in train]
    if config.curriculum:
        batches = Curriculum(examples, model, part=config.curriculum,
                             progress=lambda: trainer.done(), **options)  # fmt: skip
        loss_and_grad = batches.loss_and_grad
    else:
        batches = Batches(stories or TokenDataset.from_ids([]), examples, **options)
        loss_and_grad = FastLossAndGrad(model)
    trainer = Trainer(model, batches, config, loss_and_grad=loss_and_grad)
    progress = trainer.train()
    model.eval()
    return {"steps": progress.step, "targets": progress.tokens, "loss": progress.loss}


@torch.inference_mode()
def first_errors(model: nn.Module, tokenizer: Tokenizer, questions: Sequence[Pair]) -> Errors:
    """The wrong answers of greedy decoding: i -> `deviation`; "…": a token of fewer characters.

    One forward pass reads prompt and right answer: up to its first error, greedy decoding has read
    the same tokens, so that an answer is exact if every argmax is right."""
    found: Errors = {}
    rows = [(pair.i, *encode_pair(tokenizer, pair)) for pair in questions]
    rows.sort(key=lambda row: len(row[1]) + len(row[2]))
    while rows:
        longest = len(rows[-1][1]) + len(rows[-1][2])
        rows, part = rows[: -max(1, _TOKENS // longest)], rows[-max(1, _TOKENS // longest) :]
        tokens = torch.full((len(part), longest), tokenizer.eot_id)
        targets = torch.full((len(part), longest), IGNORED)
        for b, (_, prompt, completion) in enumerate(part):
            n = len(prompt) + len(completion)
            tokens[b, :n] = torch.tensor(prompt + completion)
            targets[b, len(prompt) : n] = torch.tensor(completion)
        given = model(tokens[:, :-1]).argmax(-1)
        wrong = (given != targets[:, 1:]) & (targets[:, 1:] != IGNORED)
        for b, (i, prompt, completion) in enumerate(part):
            if wrong[b].any():
                at = int(wrong[b].int().argmax())
                last, before = int(given[b, at]), completion[: at + 1 - len(prompt)]
                text = tokenizer.decode([*before, last]) + "…" * (last != tokenizer.eot_id)
                found[str(i)] = deviation(tokenizer.decode(completion), text)
    return dict(sorted(found.items(), key=lambda item: int(item[0])))


def deviation(right: str, text: str) -> list | None:
    """[place, character] where a text first differs from the right answer ("": it ends there)."""
    at = len(os.path.commonprefix([right, text]))
    return None if text == right else [at, text[at : at + 1]]
